"""Lists of paths as other programs write them become pages; what is no page tells its line."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from ocrlab.pages import PageError, expand


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three images, a PDF of two pages and a text, and the process among them."""
    for name in ("b.png", "a.png", "наб ор/p 1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (12, 8)).save(tmp_path / name)
    Image.new("L", (12, 8)).save(tmp_path / "two.pdf", save_all=True, append_images=[Image.new("L", (12, 8))])
    (tmp_path / "notes.txt").write_text("x", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


IDS = ["b.png", "наб ор/p 1.png", "two.pdf#1", "two.pdf#2", "a.png"]
NAMES = ["b.png", "наб ор/p 1.png", "two.pdf", "a.png"]


@pytest.mark.parametrize(
    "lines",
    [
        "\n".join(NAMES).encode(),
        ("\ufeff" + "\r\n".join(["", *NAMES, "  "]) + "\r\n").encode(),
        ("\0".join(NAMES) + "\0").encode(),
        ("\ufeff" + "\r\n".join(NAMES)).encode("utf-16-le"),
    ],
    ids=["lines", "bom, crlf, empty", "nul", "utf-16"],
)
@pytest.mark.usefixtures("here")
def test_a_list_in_any_form_keeps_its_order(lines: bytes) -> None:
    pages = expand(lines)
    assert [page.id for page in pages] == IDS and not any(page.problem for page in pages)
    assert pages[2].open().size == (25, 17)


def test_absolute_paths_and_twice_the_same_file(here: Path) -> None:
    pages = expand(f"{here / 'a.png'}\na.png\n./наб ор/../a.png\nb.png".encode())
    assert [page.id for page in pages] == ["a.png", "b.png"]
    assert expand(b"two.pdf", dpi=300)[0].open().size == (50, 34)


def test_what_is_no_page_is_refused_with_its_line(here: Path) -> None:
    found = expand("b.png\n\ngone.png\nnotes.txt\nнаб ор\na.png".encode())
    assert [page.refused for page in found] == [False, True, True, True, False]
    gone, notes, folder = found[1:4]
    assert gone.problem.startswith(f"line 3 of the list: {here / 'gone.png'}: no such file")
    assert "line 4 of the list" in notes.problem and "not a page; give a PDF" in notes.problem
    assert "line 5 of the list" in folder.problem and str(here / "наб ор") in folder.problem
    with pytest.raises(PageError, match="line 3"):
        gone.open()


def test_a_name_may_hold_what_lines_cannot(here: Path) -> None:
    name = "two\nlines.png"
    try:
        (here / "a.png").rename(here / name)
    except OSError:
        pytest.skip("this file system takes no line end in a name")
    (page,) = expand(f"{name}\0".encode())
    assert page.id == name and page.open().size == (12, 8)


def test_a_name_that_is_not_utf8(here: Path) -> None:
    raw = "стр.png".encode("cp1251")
    try:
        (here / "a.png").rename(Path(here.parent.as_posix()) / here.name / raw.decode("utf-8", "surrogateescape"))
    except (OSError, UnicodeError):
        pytest.skip("this file system takes only Unicode names")
    (page,) = expand(raw + b"\n")
    assert not page.problem and page.open().size == (12, 8)


def test_nothing_is_no_page() -> None:
    assert expand(b"") == expand(b"\n\n") == expand(b"\xef\xbb\xbf\r\n") == []
    with pytest.raises(PageError, match="dpi=-1"):
        expand(b"a.png", dpi=-1)
