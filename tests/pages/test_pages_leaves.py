"""One page out of a PDF or TIFF: the right one, at the right size, and words where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from ocrlab.pages import PageError, load_pages
from ocrlab.pages.leaves import PDF_DPI, count_leaves, extract_leaf

COLOURS = ("red", "lime", "blue")


@pytest.fixture
def several(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Three pages, red, green and blue, of 2 x 1 inches."""
    pages = [Image.new("RGB", (200, 100), colour) for colour in COLOURS]
    file = tmp_path / f"three{request.param}"
    pages[0].save(file, save_all=True, append_images=pages[1:], resolution=100)
    return file


@pytest.mark.parametrize("several", [".pdf", ".tif"], indirect=True)
def test_each_page_is_itself(several: Path, tmp_path: Path) -> None:
    assert count_leaves(several) == 3
    for number, colour in enumerate(COLOURS, 1):
        file = extract_leaf(several, number, tmp_path)
        (page,) = load_pages(file)
        image = page.open()
        expected = Image.new("RGB", (1, 1), colour).getpixel((0, 0))
        got = image.getpixel((image.width // 2, image.height // 2))
        assert isinstance(expected, tuple) and isinstance(got, tuple)
        assert max(abs(a - b) for a, b in zip(got, expected, strict=True)) < 8  # a PDF's pages are JPEGs
        wanted = (2 * PDF_DPI, PDF_DPI) if several.suffix == ".pdf" else (200, 100)
        assert image.size == wanted


@pytest.mark.parametrize("several", [".pdf", ".tif"], indirect=True)
@pytest.mark.parametrize("number", [0, 4])
def test_no_such_page(several: Path, tmp_path: Path, number: int) -> None:
    with pytest.raises(PageError, match=f"has 3 page.*no page {number}"):
        extract_leaf(several, number, tmp_path)


def test_one_image_is_its_own_page(tmp_path: Path) -> None:
    (page,) = load_pages("lines", limit=1)
    assert count_leaves(page.file) == 1 and extract_leaf(page.file, 1, tmp_path) == page.file


def test_a_pdf_that_is_none(tmp_path: Path) -> None:
    bad = tmp_path / "bad.pdf"
    bad.write_bytes(b"%PDF-1.7 and nothing more")
    with pytest.raises(PageError, match=r"bad\.pdf: not a PDF that can be opened"):
        count_leaves(bad)


def test_what_is_no_image_is_told_when_it_is_opened(tmp_path: Path) -> None:
    text = tmp_path / "text.png"
    text.write_text("hello", encoding="utf-8")
    assert extract_leaf(text, 1, tmp_path) == text
    with pytest.raises(PageError, match="is text, not an image"):
        load_pages(text)[0].open()


def test_a_sheet_beyond_the_limit_is_refused_before_it_is_drawn(tmp_path: Path) -> None:
    wide = tmp_path / "wide.pdf"
    Image.new("L", (100, 100)).save(wide, resolution=1)  # 100 x 100 inches
    with pytest.raises(PageError, match=r"100 x 100 inches.*limit of"):
        extract_leaf(wide, 1, tmp_path)
