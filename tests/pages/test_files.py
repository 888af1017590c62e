"""A user's own pages, in every shape: folder, one image, glob, manifest; and what may be wrong with them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from pathlib import Path

import pytest
from PIL import Image

from ocrlab.pages import Page, PageError, files, images as images_module, load_pages, page_size
from ocrlab.pages.files import natural


def image(path: Path, value: int = 200) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (12, 8), value).save(path)
    return path


def manifest(folder: Path, *entries: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = (entry if isinstance(entry, str) else json.dumps(entry, ensure_ascii=False) for entry in entries)
    (folder / "manifest.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "manifest.jsonl"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def message(source: str | Path, **options: object) -> str:
    with pytest.raises(PageError) as error:
        load_pages(source, **options)
    return str(error.value)


def truths(pages: list[Page]) -> dict[str, str | None]:
    return {page.id: page.truth for page in pages}


def test_a_folder_in_natural_order_with_truth_beside(tmp_path: Path) -> None:
    for name in ("p10.png", "p2.png", "P1.JPG", ".hidden.png", "below/p3.png"):
        image(tmp_path / name)
    (tmp_path / "p2.txt").write_bytes("\ufeffStraße\r\nд. 5\r\n".encode())
    (tmp_path / "p10.txt").write_text("not this", encoding="utf-8")
    (tmp_path / "p10.gt.txt").write_text("this", encoding="utf-8")
    (tmp_path / "notes.md").write_bytes(b"x")
    pages = load_pages(tmp_path)
    assert all(page.page_number is None for page in pages)
    assert truths(pages) == {"P1.JPG": None, "p2.png": "Straße\nд. 5", "p10.png": "this"}
    assert [page.id for page in pages] == ["P1.JPG", "p2.png", "p10.png"]
    assert all(page.set == tmp_path.name and page.problem == "" for page in pages)
    assert pages[1].sha256 == sha256(tmp_path / "p2.png")
    assert load_pages(str(tmp_path)) == pages
    assert [page.id for page in load_pages(tmp_path, limit=2)] == ["P1.JPG", "p2.png"]


def test_listing_decodes_nothing_and_survives_bad_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image(tmp_path / "good.png")
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("hello", encoding="utf-8")
    (tmp_path / "scan.pdf").write_bytes(b"%PDF-1.4")
    try:
        (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    except OSError:  # Windows, for most of its users
        pytest.skip("no symbolic links here")

    def opened(*_: object, **__: object) -> None:
        raise AssertionError("an image was decoded")

    with monkeypatch.context() as patch:
        patch.setattr(images_module.Image, "open", opened)
        pages = {page.id: page for page in load_pages(tmp_path)}
    assert pages.keys() == {"good.png", "empty.png", "text.png", "scan.pdf", "gone.png"}
    assert "not a PDF that opens" in pages["scan.pdf"].problem and pages["scan.pdf"].refused
    assert "gone.png" in pages["gone.png"].problem and pages["gone.png"].refused
    assert pages["good.png"].open().size == (12, 8)
    for name in pages.keys() - {"good.png"}:
        with pytest.raises(PageError, match=name):
            pages[name].open()


def test_truth_that_is_not_utf8_costs_the_score_only(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    image(tmp_path / "b.png")
    (tmp_path / "a.txt").write_bytes("Цена".encode("cp1251"))
    (tmp_path / "b.txt").write_text("Цена", encoding="utf-8")
    a, b = load_pages(tmp_path)
    assert a.truth is None and not a.refused and a.open().size == (12, 8)
    assert str(tmp_path / "a.txt") in a.problem and "byte 0" in a.problem and "iconv" in a.problem
    assert b.truth == "Цена" and b.problem == ""


def test_the_byte_where_the_truth_breaks_is_named(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    (tmp_path / "a.gt.txt").write_bytes(b"twelve bytes\xff")
    assert "byte 12 is 0xff" in load_pages(tmp_path)[0].problem


def test_an_empty_truth_is_a_blank_page(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    (tmp_path / "a.txt").touch()
    assert load_pages(tmp_path)[0].truth == ""


def test_one_image(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    image(tmp_path / "b.png")
    (tmp_path / "a.gt.txt").write_text("A", encoding="utf-8")
    assert truths(load_pages(tmp_path / "a.png")) == {"a.png": "A"}


def test_a_glob_reaches_below_and_keeps_ids_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("x/p2.png", "x/p10.png", "y/p2.png", "y/p3.jpg"):
        image(tmp_path / name)
    (tmp_path / "x" / "p2.txt").write_text("X", encoding="utf-8")
    assert truths(load_pages(f"{tmp_path}/**/*.png")) == {"x/p2.png": "X", "x/p10.png": None, "y/p2.png": None}
    monkeypatch.chdir(tmp_path)
    assert [page.id for page in load_pages("y/*")] == ["p2.png", "p3.jpg"]
    assert "no image matches" in message("z/*.png") and str(tmp_path) in message("z/*.png")


def test_a_folder_whose_name_looks_like_a_glob(tmp_path: Path) -> None:
    image(tmp_path / "scans [2024]" / "a.png")
    assert len(load_pages(tmp_path / "scans [2024]")) == 1


def test_folders_below_are_read_once_when_asked(tmp_path: Path) -> None:
    names = ("p10.png", "p2.png", "B/1.png", "b.png", "a/deep/x.JPG", ".git/x.png", "a/.cache/y.png")
    for name in names:
        image(tmp_path / name)
    (tmp_path / "a" / "notes.md").write_bytes(b"x")
    try:
        (tmp_path / "a" / "deep" / "up").symlink_to(tmp_path)
        (tmp_path / "again").symlink_to(tmp_path / "a")
    except OSError:
        pytest.skip("no symbolic links here")
    assert [page.id for page in load_pages(tmp_path)] == ["b.png", "p2.png", "p10.png"]
    ids = [page.id for page in load_pages(tmp_path, recursive=True)]
    assert ids == ["a/deep/x.JPG", "b.png", "B/1.png", "p2.png", "p10.png"]
    assert ids == [page.id for page in load_pages(tmp_path, recursive=True)]
    assert "no images here" in message(tmp_path / "a") and "recursive=True" in message(tmp_path / "a")
    (tmp_path / "empty").mkdir()
    assert "no images here" in message(tmp_path / "empty", recursive=True)


def test_a_folder_below_that_cannot_be_listed_is_a_refused_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image(tmp_path / "good.png")
    image(tmp_path / "shut" / "x.png")
    listed = Path.iterdir

    def iterdir(folder: Path):  # type: ignore[no-untyped-def]  # root may list any folder, so the refusal is planted
        if folder.name == "shut":
            raise PermissionError(13, "Permission denied")
        return listed(folder)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    good, shut = load_pages(tmp_path, recursive=True)
    assert good.open().size == (12, 8) and (shut.id, shut.refused) == ("shut", True)
    assert str(tmp_path / "shut") in shut.problem and "check that you may" in shut.problem


def test_names_that_differ_in_case_alone_keep_one_order(tmp_path: Path) -> None:
    for name in ("A.png", "a.png"):
        image(tmp_path / name)
    if len(list(tmp_path.iterdir())) < 2:
        pytest.skip("this file system ignores case")
    found = [tmp_path / "a.png", tmp_path / "A.png"]
    assert sorted(found, key=natural) == sorted(reversed(found), key=natural) == found[::-1]


def test_places_that_hold_no_page(tmp_path: Path) -> None:
    absent = message(tmp_path / "absent")
    assert str(tmp_path / "absent") in absent and "lines, labels, sizes" in absent
    assert "'label'" not in absent
    assert "no set of this name" in message("lables") and "labels" in message("lables")
    assert "no such file" in message("") and "no such file" in message("a\0b")
    assert os.name != "posix" or "no usable path" in message("~nobody-here-of-this-name/a.png")
    assert "no images here" in message(tmp_path)
    (tmp_path / "notes.md").write_bytes(b"x")
    assert "not a page; give a PDF or an image (PNG, JPEG, HEIC" in message(tmp_path / "notes.md")


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("two words.docx", "soffice --headless --convert-to pdf 'two words.docx'"),
        ("p.ODT", "--convert-to pdf p.ODT"),
        ("p.rtf", "--convert-to pdf"),
        ("p.pptx", "--convert-to pdf"),
        ("p.djvu", "ddjvu -format=pdf p.djvu p.pdf"),
        ("p.epub", "ebook-convert p.epub p.pdf"),
        ("p.cr2", "magick p.cr2 p.png"),
        ("p.jxl", "install it (pip install pillow-jxl-plugin)"),
    ],
)
def test_a_page_in_a_format_that_is_not_read_is_named_with_what_turns_it_into_one(
    tmp_path: Path, name: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_jxl", None)
    images_module.decodable.cache_clear()
    (tmp_path / name).write_bytes(b"PK\x03\x04")
    image(tmp_path / "good.png")
    unread, good = sorted(load_pages(tmp_path), key=lambda page: page.file.name == "good.png")
    assert good.open().size == (12, 8) and load_pages(tmp_path / name)[0].problem == unread.problem
    for use in (Page.open, page_size):
        with pytest.raises(PageError, match=re.escape(f"{tmp_path / name}: ") + ".*" + re.escape(remedy)):
            use(unread)


def test_limits_and_kinds(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    assert "limit=0" in message(tmp_path, limit=0)
    assert "have no kinds" in message(tmp_path, kind="label")


def test_a_users_manifest(tmp_path: Path) -> None:
    first, second = image(tmp_path / "img" / "1.png"), image(tmp_path / "2.png")
    (tmp_path / "2.txt").write_text("beside", encoding="utf-8")
    image(tmp_path / "not-listed.png")
    path = manifest(
        tmp_path,
        {"id": "one", "file": "img/1.png", "sha256": sha256(first).upper(), "truth": "Eins\u2028Zwei", "kind": "k"},
        {"file": "2.png", "language": "de"},
        "",
        {"id": "3", "file": "2.png", "truth": None, "set": "mine"},
    )
    pages = load_pages(path)
    assert truths(pages) == {"one": "Eins\u2028Zwei", "2.png": "beside", "3": None}
    assert [page.problem for page in pages] == ["", "", ""]
    assert (pages[0].kind, pages[1].language, pages[2].set) == ("k", "de", "mine")
    assert pages[1].sha256 == sha256(second)
    assert load_pages(tmp_path) == pages
    assert [page.id for page in load_pages(tmp_path, kind="k")] == ["one"]
    assert "its kinds are k" in message(tmp_path, kind="table")


def test_wrong_hash_and_missing_file_cost_their_page_only(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    manifest(
        tmp_path,
        {"id": "changed", "file": "a.png", "sha256": "0" * 64, "truth": "A"},
        {"id": "gone", "file": "gone.png", "truth": "B"},
        {"id": "folder", "file": ".", "truth": "C"},
        {"id": "good", "file": "a.png", "truth": "D"},
    )
    pages = {page.id: page for page in load_pages(tmp_path)}
    assert "sha256" in pages["changed"].problem and "a.png" in pages["changed"].problem
    assert "no such file" in pages["gone"].problem and "gone.png" in pages["gone"].problem
    assert [pages[name].refused for name in pages] == [True, True, True, False]
    assert [pages[name].truth for name in pages] == [None, None, None, "D"]
    with pytest.raises(PageError, match="sha256"):
        pages["changed"].open()
    assert pages["good"].open().size == (12, 8)


@pytest.mark.parametrize(
    "name", ["../secret.png", "sub/../good.png", "sub/../../secret.png", "ABSOLUTE", "link.png", "linked/secret.png"]
)
def test_a_path_outside_the_manifests_folder_is_refused(tmp_path: Path, name: str) -> None:
    secret = image(tmp_path / "secret.png")
    image(tmp_path / "away" / "secret.png")
    good = image(tmp_path / "pages" / "good.png")
    (tmp_path / "pages" / "sub").mkdir()
    try:
        (tmp_path / "pages" / "link.png").symlink_to(secret)
        (tmp_path / "pages" / "linked").symlink_to(tmp_path / "away")
    except OSError:
        pytest.skip("no symbolic links here")
    listed = str(secret) if name == "ABSOLUTE" else name
    manifest(good.parent, {"file": listed, "truth": "secret"}, {"file": "good.png"})
    outside, inside = load_pages(good.parent)
    assert outside.refused and "outside" in outside.problem and outside.sha256 == "" and outside.truth is None
    with pytest.raises(PageError, match="outside"):
        outside.open()
    assert inside.problem == "" and inside.open().size == (12, 8)


def test_a_link_that_stays_inside_is_fine(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    try:
        (tmp_path / "b.png").symlink_to("a.png")
    except OSError:
        pytest.skip("no symbolic links here")
    manifest(tmp_path, {"file": "b.png"})
    assert load_pages(tmp_path)[0].problem == ""


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"file": "a.png"', "not JSON"),
        ('["a.png"]', 'no "file"'),
        ('{"id": "x"}', 'no "file"'),
        ('{"file": 7}', 'no "file"'),
        ('{"file": "a.png", "truth": 7}', '"truth" is 7'),
        ('{"file": "a.png", "sha256": null}', '"sha256" is None'),
        ('{"id": "first", "file": "a.png"}', "'first' is used twice"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, expected: str) -> None:
    image(tmp_path / "a.png")
    path = manifest(tmp_path, {"id": "first", "file": "a.png"}, "", line)
    assert expected in message(tmp_path) and f"{path}, line 3" in message(tmp_path)


def test_a_manifest_that_is_none(tmp_path: Path) -> None:
    path = manifest(tmp_path, "")
    assert "empty" in message(path)
    path.write_bytes(b'{"file": "\xff.png"}')
    assert "not UTF-8 at byte 10" in message(path)
    path.write_bytes(b'\xef\xbb\xbf{"file": "a.png"}')
    image(tmp_path / "a.png")
    assert [page.id for page in load_pages(path)] == ["a.png"]
    (tmp_path / "folder.jsonl").mkdir()
    assert "no images here" in message(tmp_path / "folder.jsonl")


def test_a_large_folder_asks_the_file_system_as_often_per_file_as_a_small_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    real = os.stat
    monkeypatch.setattr(os, "stat", lambda *given, **options: asked.append(1) or real(*given, **options))
    compared = []
    real_key = files.natural
    monkeypatch.setattr(files, "natural", lambda path: compared.append(1) or real_key(path))
    costs = []
    for count in (40, 400):
        folder = tmp_path / str(count)
        folder.mkdir()
        for number in range(count):
            (folder / f"{number}.png").touch()
        asked.clear()
        compared.clear()
        assert len(load_pages(folder, recursive=True)) == count
        costs.append((len(asked) / count, len(compared) / count))
    assert costs[1] <= (costs[0][0] + 0.1, costs[0][1] + 0.1) and costs[1][0] < 16
