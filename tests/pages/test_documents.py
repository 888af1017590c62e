"""Pages inside PDFs and TIFFs: each itself, at its size, found by its own hash; and words where there is none."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import re
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image, TiffImagePlugin

from ocrlab.pages import Page, PageError, documents, images as images_module, load_pages, page_size
from ocrlab.pages.documents import PDF_DPI
from ocrlab.pages.text_layer import text_layer
from tests.pages import pdfs

COLOURS = ("red", "lime", "blue")
_BODY = (
    b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
    b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 72 36]>>endobj\n"
)
PLAIN = _BODY + b"trailer<</Root 1 0 R>>\n%%EOF"
# The password of no user opens it: its O and U are no digests of any.
_KEYS = b"/O<" + b"41" * 32 + b">/U<" + b"42" * 32 + b">"
LOCKED = _BODY + b"trailer<</Root 1 0 R/Encrypt<</Filter/Standard/V 1/R 2/P -4" + _KEYS + b">>/ID[<61><61>]>>\n%%EOF"


def drawn(file: Path, *pages: Image.Image, resolution: float = 100, **options: object) -> Path:
    """Save pages as PDF or TIFF."""
    pages[0].save(file, save_all=True, append_images=pages[1:], resolution=resolution, **options)
    return file


def three(folder: Path, suffix: str) -> Path:
    """Three pages, red, green and blue, of 2 x 1 inches."""
    return drawn(folder / f"three{suffix}", *(Image.new("RGB", (200, 100), colour) for colour in COLOURS))


def frames(file: Path, tags: dict[int, int], *images: Image.Image) -> None:
    """Append images to a TIFF, with these tags each."""
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in tags.items():
        directory[tag] = value
    with TiffImagePlugin.AppendingTiffWriter(str(file)) as writer:
        for image in images:
            image.save(writer, "TIFF", tiffinfo=directory)
            writer.newFrame()


def colour_of(page: Page) -> tuple[int, ...]:
    image = page.open()
    assert image.mode == "RGB"
    return tuple(255 * (value > 127) for value in image.getpixel((image.width // 2, image.height // 2)))


def rgb(colour: str) -> object:
    return Image.new("RGB", (1, 1), colour).getpixel((0, 0))


@pytest.mark.parametrize("suffix", [".pdf", ".tif"])
def test_each_leaf_is_a_page_of_its_own(tmp_path: Path, suffix: str) -> None:
    file = three(tmp_path, suffix)
    (tmp_path / "three.p0002.txt").write_text("two", encoding="utf-8")
    (tmp_path / "three.p0003.txt").write_text("not this", encoding="utf-8")
    (tmp_path / "three.p0003.gt.txt").write_text("this", encoding="utf-8")
    (tmp_path / "three.txt").write_text("of no page", encoding="utf-8")
    pages = load_pages(file)
    assert [page.id for page in pages] == [f"three{suffix}#{n}" for n in (1, 2, 3)]
    assert [(page.page_number, page.file, page.problem) for page in pages] == [(n, file, "") for n in (1, 2, 3)]
    assert [page.truth for page in pages] == [None, "two", "this"]
    assert [colour_of(page) for page in pages] == [rgb(colour) for colour in COLOURS]
    size = (2 * PDF_DPI, PDF_DPI) if suffix == ".pdf" else (200, 100)
    assert {page.open().size for page in pages} == {page_size(page) for page in pages} == {size}
    assert pages == load_pages(tmp_path) == load_pages(f"{tmp_path}/*{suffix}")
    assert pages[:2] == load_pages(tmp_path, limit=2)


def test_a_leafs_hash_is_its_own_and_a_pdfs_changes_with_dpi(tmp_path: Path) -> None:
    pdf, tiff = three(tmp_path, ".pdf"), three(tmp_path, ".tif")
    hashes = [page.sha256 for file in (pdf, tiff) for dpi in (150, 200) for page in load_pages(file, dpi=dpi)]
    assert len(set(hashes[:6])) == 6 and hashes[6:9] == hashes[9:] and len(set(hashes)) == 9
    assert load_pages(pdf, dpi=200)[0].open().size == (400, 200)
    with pytest.raises(PageError, match=r"dpi=0.*150 suits"):
        load_pages(pdf, dpi=0)
    drawn(pdf, Image.new("RGB", (200, 100), "red"))
    assert load_pages(pdf)[0].sha256 not in hashes


@pytest.mark.parametrize("points", [(612, 792), (595.276, 841.89), (100.1, 33.3), (1, 1), (144, 0.7)])
@pytest.mark.parametrize("dpi", [72, 150, 301])
def test_the_size_that_is_planned_is_the_size_that_is_drawn(
    tmp_path: Path, points: tuple[float, float], dpi: int
) -> None:
    import pypdfium2

    document = pypdfium2.PdfDocument.new()
    document.new_page(*points).set_rotation(90)
    document.save(tmp_path / "p.pdf")
    document.close()
    (page,) = load_pages(tmp_path / "p.pdf", dpi=dpi)
    if points == (144, 0.7) and dpi == 72:
        assert page.open().size == page_size(page) == (1, 144)
    if page.refused:
        assert "one side is more than 200 times the other" in page.problem
    else:
        assert page.open().size == page_size(page)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (LOCKED, "locked with a password; save it without one"),
        (b"", "empty (0 bytes)"),
        (b"%PDF-1.7 and nothing more", "not a PDF that opens"),
        (b"hello", "not a PDF that opens"),
        (PLAIN.replace(b"[3 0 R]/Count 1", b"[]/Count 0"), "export it again or remove it"),
        (PLAIN.replace(b"0 0 72 36", b"0 0 7200 1"), "200 times the other"),
    ],
    ids=["locked", "empty", "broken", "text", "no page", "long"],
)
def test_a_bad_pdf_is_listed_and_passed_over(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "b.pdf").write_bytes(content)
    for name in ("a.pdf", "c.pdf"):
        (tmp_path / name).write_bytes(PLAIN)
    first, bad, last = load_pages(tmp_path)
    assert bad.refused and expected in bad.problem and str(tmp_path / "b.pdf") in bad.problem
    for use in (Page.open, page_size):
        with pytest.raises(PageError, match=r"b\.pdf"):
            use(bad)
        assert use(first) and use(last)


def test_an_absurd_sheet_names_the_dpi_at_which_it_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "p.pdf").write_bytes(PLAIN.replace(b"0 0 72 36", b"0 0 14400 14400"))
    (page,) = load_pages(tmp_path / "p.pdf", dpi=150)
    assert page.refused and "page 1: 200 x 200 inches" in page.problem and "with a dpi of 65 or less" in page.problem
    with pytest.raises(PageError, match=r"p\.pdf: page 1: 200 x 200 inches"):
        replace(page, refused=False).open()
    assert not load_pages(tmp_path / "p.pdf", dpi=65)[0].refused
    (whole,) = load_pages(tmp_path / "p.pdf")
    assert not whole.refused and page_size(whole, 10_000) == whole.open(10_000).size == (100, 100)
    assert 0.99 < math.prod(page_size(whole)) / 2**25 < 1.01


def test_one_page_that_cannot_be_opened_costs_itself_only(tmp_path: Path) -> None:
    (tmp_path / "p.pdf").write_bytes(PLAIN.replace(b"[3 0 R]/Count 1", b"[3 0 R 9 0 R 3 0 R]/Count 3"))
    pages = load_pages(tmp_path / "p.pdf")
    assert [page.refused for page in pages] == [False, True, False]
    assert "page 2" in pages[1].problem and pages[2].open().size == (150, 75)


def test_ten_thousands_of_pages_are_listed_and_measured_at_once(tmp_path: Path) -> None:
    import pypdfium2

    document = pypdfium2.PdfDocument.new()
    for _ in range(20_000):
        document.new_page(612, 792)
    document.save(tmp_path / "many.pdf")
    document.close()
    before = documents._sizes_of.cache_info().misses
    pages = load_pages(tmp_path / "many.pdf")
    assert len(pages) == 20_000 and {page_size(page) for page in pages} == {pages[-1].open().size}
    assert documents._sizes_of.cache_info().misses == before + 1, "opened again for every page, it takes minutes"
    assert len(load_pages(tmp_path, limit=3)) == 3


def test_a_tiff_of_one_page_is_an_image_and_a_thumbnail_is_no_page(tmp_path: Path) -> None:
    one = drawn(tmp_path / "one.tif", Image.new("L", (30, 20)))
    (page,) = load_pages(one)
    assert page.page_number is None and page.id == "one.tif" and page.open().size == page_size(page) == (30, 20)
    for size, tags in (((30, 20), {}), ((3, 2), {254: 1}), ((40, 20), {})):
        frames(tmp_path / "preview.tif", tags, Image.new("L", size))
    assert [(page.page_number, page_size(page), page.open().size) for page in load_pages(tmp_path / "preview.tif")] == [
        (1, (30, 20), (30, 20)),
        (3, (40, 20), (40, 20)),
    ]


def test_a_tiffs_leaves_are_turned_scaled_and_limited_like_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, white = tmp_path / "p.tif", Image.new("I;16", (8, 8), 65_535)
    frames(file, {}, Image.new("L", (30, 20)))
    frames(file, {274: 6}, Image.linear_gradient("L").resize((30, 20)))
    frames(file, {}, white, Image.new("RGBA", (8, 8)))
    pages = load_pages(file)
    assert [page.open().size for page in pages] == [(30, 20), (20, 30), (8, 8), (8, 8)]
    turned = pages[1].open()
    assert page_size(pages[1]) == (20, 30) and turned.getpixel((0, 0)) == turned.getpixel((0, 29))
    assert turned.getpixel((0, 0))[0] > 200 > 50 > turned.getpixel((19, 0))[0]
    assert [page.open().getpixel((1, 1)) for page in pages[2:]] == [(255, 255, 255)] * 2
    monkeypatch.setattr(images_module, "MAX_IMAGE_PIXELS", 99)
    assert [page.refused for page in load_pages(file)] == [True, True, False, False]
    assert f"{file}: page 2: 20 x 30 pixels are more than the limit" in load_pages(file)[1].problem


def test_a_damaged_tiff_costs_its_own_pages(tmp_path: Path) -> None:
    whole = drawn(tmp_path / "whole.tif", *(Image.effect_noise((60, 60), 90) for _ in range(3)))
    (tmp_path / "cut.tif").write_bytes(whole.read_bytes()[:9_000])
    pages = {page.id: page for page in load_pages(tmp_path)}
    assert sum(page.file == whole for page in pages.values()) == 3
    for page in pages.values():
        if page.file == whole:
            assert page.open().size == (60, 60)
    with pytest.raises(PageError, match=r"cut\.tif"):
        [page.open() for page in pages.values() if page.file != whole]


def test_a_leaf_that_is_gone_by_the_time_it_is_opened(tmp_path: Path) -> None:
    for suffix in (".pdf", ".tif"):
        page = load_pages(three(tmp_path, suffix))[2]
        drawn(page.file, *[Image.new("RGB", (20, 10))] * 2)
        with pytest.raises(PageError, match=rf"three\{suffix}: was changed after it was listed"):
            page.open()
        for use in (Page.open, page_size):
            with pytest.raises(PageError, match=r"page 3"):
                use(replace(page, stamp=None))
        page.file.unlink()
        for use in (Page.open, page_size):
            with pytest.raises(PageError, match=rf"three\{suffix}"):
                use(page)


def _colours(pages: list[Page]) -> list[tuple[int, ...]]:
    return [colour_of(page) for page in pages]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_leaves_are_opened_in_threads_and_in_processes(tmp_path: Path, method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} on {os.name}")
    pages = [page for suffix in (".pdf", ".tif") for page in load_pages(three(tmp_path, suffix))] * 12
    wanted = [rgb(colour) for colour in COLOURS] * 24
    with ThreadPoolExecutor(8) as pool:
        # A process that is forked while threads draw must find the lock free.
        running = [pool.submit(_colours, pages) for _ in range(8)]
        with multiprocessing.get_context(method).Pool(2) as processes:
            found = processes.map_async(_colours, [pages] * 2).get(timeout=120)
        assert [*found, *(one.result() for one in running)] == [wanted] * 10


def test_planning_decodes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = [page for suffix in (".pdf", ".tif") for page in load_pages(three(tmp_path, suffix))]
    (tmp_path / "p.png").write_bytes(load_pages("lines", limit=1)[0].file.read_bytes())
    pages += load_pages(tmp_path / "p.png")
    sizes = [page.open().size for page in pages]

    def decoded(*_: object, **__: object) -> None:
        raise AssertionError("a page was decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decoded)
    monkeypatch.setattr(documents, "guarded", decoded)
    assert [page_size(page) for page in pages] == sizes


def test_a_manifests_pdf_says_where_its_pages_are(tmp_path: Path) -> None:
    three(tmp_path, ".pdf")
    (tmp_path / "manifest.jsonl").write_text(json.dumps({"file": "three.pdf"}), encoding="utf-8")
    (page,) = load_pages(tmp_path)
    with pytest.raises(PageError, match="load_pages gives each of its pages"):
        page.open()


def test_a_pdf_that_keeps_pdfium_busy_is_refused_by_name_once_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "endless.pdf").write_bytes(pdfs.endless())
    (tmp_path / "growing.pdf").write_bytes(pdfs.ever_growing())
    three(tmp_path, ".pdf")
    endless, growing, *others = load_pages(tmp_path)
    monkeypatch.setenv(documents.DEADLINE_VARIABLE, "0.5")
    with pytest.raises(PageError, match=r"endless\.pdf: page 1 keeps its decoder busy for 0\.5 s; .*DEADLINE_S=60"):
        endless.open()
    with pytest.raises(PageError, match=r"growing\.pdf: page 1 keeps its decoder busy"):
        text_layer(growing.file, 1)
    monkeypatch.delenv(documents.DEADLINE_VARIABLE)
    assert [colour_of(page) for page in others] == [rgb(colour) for colour in COLOURS]
    monkeypatch.setenv(documents.DEADLINE_VARIABLE, "0.5")
    monkeypatch.setattr(documents, "_helpers", {})
    monkeypatch.setattr(documents, "_started", None)
    with pytest.raises(PageError, match="keeps its decoder busy"):
        endless.open()


def greedy(_: Path) -> int:
    """Take more memory than PDFium may."""
    return len(bytearray(5 << 30))


def faulty(_: Path) -> None:
    """End as a segmentation fault does."""
    os.kill(os.getpid(), signal.SIGSEGV)


def test_a_pdf_that_takes_gigabytes_or_ends_its_process_costs_itself(tmp_path: Path) -> None:
    file = three(tmp_path, ".pdf")
    if sys.platform == "linux":
        with pytest.raises(PageError, match=r"three\.pdf: MemoryError.*export it again"):
            documents.guarded(greedy, file)
    with pytest.raises(PageError, match=r"three\.pdf: it ends its process \(exit code -?\d+\); export the file again"):
        documents.guarded(faulty, file)
    assert len(load_pages(file)) == 3 and load_pages(file)[2].open().size == load_pages(file)[2].size()


def test_formats_that_take_gigabytes_for_few_bytes_are_decoded_in_the_process_that_may_be_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A JPEG 2000 of 1,486 bytes and 144 megapixels took 16.7 s and 2.7 GiB here; an AVIF of 2,239 bytes 8 s and 2."""
    image = Image.new("RGB", (40, 20), "red")
    images_module.decodable("HEIF")
    for name in ("p.avif", "p.heic", "p.jp2", "p.png"):
        image.save(tmp_path / name)
    drawn(tmp_path / "two.gif", image, Image.new("RGB", (40, 20), "blue"))
    apart, inner = [], documents.guarded

    def guarded(function, file, *args):  # type: ignore[no-untyped-def]
        apart.append(file.name)
        return inner(function, file, *args)

    monkeypatch.setattr(documents, "guarded", guarded)
    assert _colours(load_pages(tmp_path)) == [rgb("red")] * 5 + [rgb("blue")]
    assert apart == ["p.avif", "p.heic", "p.jp2", "two.gif", "two.gif"]
    (tmp_path / "p.jp2").write_bytes((tmp_path / "p.jp2").read_bytes()[:90])
    with pytest.raises(PageError, match=rf"{re.escape(str(tmp_path / 'p.jp2'))}: truncated or damaged JPEG2000"):
        load_pages(tmp_path / "p.jp2")[0].open()
