"""Pages of a store: listed without their bytes, fetched where they are opened, found again, and refused in words."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import known_implementations
from PIL import Image

from ocrlab import paths
from ocrlab.commands.cli import main
from ocrlab.commands.library import RECORDS, gather, target_files
from ocrlab.pages import Page, PageError, load_pages, page_size
from ocrlab.scoring.outcomes import WITH_TEXT
from ocrlab.study.rereading import pages_by_hash


def picture(*colours: str, kind: str = "PNG", size: tuple[int, int] = (60, 30)) -> bytes:
    """An image, or several in a PDF or TIFF."""
    first, *others = [Image.new("RGB", size, colour) for colour in colours]
    file = io.BytesIO()
    more = {"save_all": True, "append_images": others, "resolution": 60} if kind in ("PDF", "TIFF") else {}
    first.save(file, kind, **more)
    return file.getvalue()


def colour_of(page: Page) -> str:
    """A page's colour; a PDF's is compressed with loss."""
    near = tuple(255 * (value > 127) for value in page.open().getpixel((5, 5)))
    return {(255, 0, 0): "red", (0, 255, 0): "lime", (0, 0, 255): "blue"}[near]


@pytest.fixture
def memory() -> Iterator[MemoryFileSystem]:
    """A store in this process with a folder `scans`."""
    store = fsspec.filesystem("memory")
    objects = {
        "p10.png": picture("red"),
        "p2.png": picture("lime", size=(40, 20)),
        "p2.gt.txt": b"lime\r\n",
        "below/x.jpg": picture("blue", kind="JPEG"),
        "book.pdf": picture("red", "blue", kind="PDF"),
        "book.p0002.txt": b"blue",
        "two.tif": picture("red", "lime", kind="TIFF"),
        "one.tiff": picture("red", kind="TIFF"),
        ".hidden.png": picture("red"),
        ".trash/x.png": picture("red"),
        "notes.md": b"#",
        "broken.pdf": b"%PDF-1.7 no more",
        "cut.png": picture("red")[:-40],
    }
    for name, data in objects.items():
        store.pipe(f"/scans/{name}", data)
    yield store
    store.rm("/", recursive=True)
    fsspec.filesystem("memory").store.clear()


@pytest.fixture
def fetched(memory: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the objects that were fetched whole, as they are."""
    names, original = [], MemoryFileSystem.cat_file

    def counted(self: MemoryFileSystem, path: str, start: int | None = None, end: int | None = None) -> bytes:
        if end is None:
            names.append(path.rpartition("/")[2])
        return original(self, path, start, end)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", counted)
    return names


IDS = [
    "below/x.jpg",
    "book.pdf#1",
    "book.pdf#2",
    "broken.pdf",
    "cut.png",
    "one.tiff",
    "p2.png",
    "p10.png",
    "two.tif#1",
    "two.tif#2",
]
URL = "memory://scans"


def test_a_folder_is_listed_in_natural_order_and_only_what_must_be_is_fetched(fetched: list[str]) -> None:
    pages = {page.id: page for page in load_pages(URL, recursive=True)}
    assert list(pages) == IDS and list({page.id for page in load_pages(URL)} ^ set(IDS)) == ["below/x.jpg"]
    assert sorted(set(fetched)) == ["book.p0002.txt", "book.pdf", "broken.pdf", "one.tiff", "p2.gt.txt", "two.tif"]
    assert pages["p2.png"].truth == "lime" and pages["book.pdf#2"].truth == "blue"
    assert [page.id for page in pages.values() if page.refused] == ["broken.pdf"]
    assert pages["broken.pdf"].problem.startswith("memory://scans/broken.pdf: not a PDF that opens")
    fetched.clear()
    sizes = {page.id: page_size(page) for page in pages.values() if not page.refused}
    assert set(fetched) <= {"book.pdf", "one.tiff", "two.tif"}, "an image's size is in its first bytes"
    assert sizes["p2.png"] == (40, 20) and sizes["book.pdf#1"] == pages["book.pdf#1"].open().size == (150, 75)
    fetched.clear()
    assert [colour_of(pages[f"book.pdf#{number}"]) for number in (1, 2)] == ["red", "blue"]
    assert fetched == [], "a PDF is kept while its pages are opened one after the other"
    assert colour_of(pages["two.tif#2"]) == "lime" and fetched == ["two.tif"]
    with pytest.raises(PageError, match=r"memory://scans/cut\.png: truncated or damaged PNG"):
        pages["cut.png"].open()


def test_one_object_a_limit_and_another_dpi(fetched: list[str]) -> None:
    (page,) = load_pages(f"{URL}/p2.png")
    assert (page.id, page.truth, page.open().size, page.where) == ("p2.png", "lime", (40, 20), f"{URL}/p2.png")
    assert page in load_pages(URL), "the same page in the folder"
    fetched.clear()
    assert [page.id for page in load_pages(URL, limit=1)] == ["book.pdf#1"] and fetched == ["book.pdf"]
    drawn = load_pages(f"{URL}/book.pdf", dpi=300)
    assert drawn[0].open().size == page_size(drawn[0]) == (300, 150)
    assert drawn[0].sha256 != load_pages(f"{URL}/book.pdf")[0].sha256
    assert drawn[1].sha256 in pages_by_hash([URL], [300]) and drawn[1].sha256 not in pages_by_hash([URL])


def test_an_object_that_changed_is_another_page_and_an_unchanged_one_is_the_same(memory: MemoryFileSystem) -> None:
    before = {page.id: page.sha256 for page in load_pages(URL)}
    assert before == {page.id: page.sha256 for page in load_pages(URL)} and len(set(before.values())) == len(before)
    memory.pipe("/scans/p2.png", picture("blue", size=(40, 20)))
    memory.pipe("/scans/book.pdf", picture("red", "lime", kind="PDF"))
    now = {page.id: page.sha256 for page in load_pages(URL)}
    assert {name for name in before if before[name] != now[name]} == {"p2.png", "book.pdf#1", "book.pdf#2"}
    assert colour_of(load_pages(f"{URL}/book.pdf")[1]) == "lime", "the old one is not kept"


def test_a_page_travels_and_nothing_of_it_stays(memory: MemoryFileSystem, tmp_path: Path) -> None:
    (page,) = pickle.loads(pickle.dumps(load_pages(f"{URL}/p10.png")))
    with page.local() as file:
        assert file.read_bytes() == memory.cat_file("/scans/p10.png") and file.suffix == ".png"
    assert not file.exists() and not file.parent.exists()


def test_a_web_of_links_in_one_url_reaches_into_a_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("in/p1.png", picture("red"))
        archive.writestr("in/p1.txt", "one")
    url = f"zip://in::file://{tmp_path}/a.zip"
    (page,) = load_pages(url)
    assert (page.where, page.truth, page.open().size) == (f"zip://in/p1.png::file://{tmp_path}/a.zip", "one", (60, 30))
    assert load_pages(page.where)[0].sha256 == page.sha256


def test_mirrored_names_stay_below_the_folder(memory: MemoryFileSystem, tmp_path: Path) -> None:
    sourced = gather([URL], limit=None, dpi=150)
    assert sourced.names == [name.partition("#")[0] for name in IDS] and sourced.root == Path.cwd()
    files = [file.relative_to(tmp_path).as_posix() for file in target_files(sourced.pages, sourced.names, tmp_path)]
    assert files[:3] == ["below/x.jpg.txt", "book.pdf.p0001.txt", "book.pdf.p0002.txt"]
    memory.pipe("/more/p2.png", picture("red"))
    both = gather([URL, "memory://more", f"{URL}/p2.png"], limit=None, dpi=150)
    assert len(both.pages) == len(IDS) + 1, "the object that two sources hold is taken once"
    assert both.names[-1] == "more/p2.png" and both.pages[-1].id == "memory://more/p2.png"
    with pytest.raises(PageError, match="nothing is written into a store; choose a folder with --out"):
        target_files(sourced.pages, sourced.names, None)


def test_a_key_that_leads_out_of_the_folder_is_no_page(
    memory: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = {"type": "file", "size": 9, "created": 1}
    keys = ["/scans/a/../../../x.png", "/scans//y.png", "/scans/a\\..\\..\\z.png", "/scans/w.png"]
    monkeypatch.setattr(MemoryFileSystem, "find", lambda self, path, **_: {key: info | {"name": key} for key in keys})
    monkeypatch.setattr(MemoryFileSystem, "checksum", lambda *_: 1)
    assert gather([URL], limit=None, dpi=150).names == ["y.png", "w.png"]


def test_what_cannot_be_had_is_said_with_its_url_and_a_remedy(
    memory: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.pipe("/scans/empty/.x.png", b"")
    monkeypatch.setitem(known_implementations, "lost", {"class": "lostfs.core.Lost", "err": "Install lostfs"})
    for url, says in {
        "memory://gone": r"memory://gone: cannot be read \(FileNotFoundError.*check the name",
        "nowhere://x": "nowhere://x: cannot be read .*Protocol not known",
        "lost://b/x": r"lost://b/x: cannot be read \(ImportError: Install lostfs\)",
        f"{URL}/empty": "no images here",
        f"{URL}/notes.md": "no images here",
        "http://[": r"http://\[: cannot be read",
    }.items():
        with pytest.raises(PageError, match=says):
            load_pages(url, recursive=True)
    with pytest.raises(PageError, match="no kinds"):
        load_pages(URL, kind="label")
    memory.pipe("/scans/manifest.jsonl", b"{}")
    with pytest.raises(PageError, match=r"holds a manifest\.jsonl, which is read in local folders only"):
        load_pages(URL)


class NoCredentialsError(Exception):
    """As botocore has it: no OSError."""


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            PermissionError("Access Denied"),
            r"cannot be read \(PermissionError: Access Denied\); check .*your credentials",
        ),
        (
            NoCredentialsError("Unable to locate credentials"),
            r"cannot be read \(NoCredentialsError: Unable.*your credentials",
        ),
        (TimeoutError("after 30 s"), r"cannot be read \(TimeoutError: after 30 s\); check .*the network"),
    ],
    ids=["denied", "no credentials", "network"],
)
def test_a_store_that_fails_while_it_is_listed_and_while_a_page_is_opened(
    memory: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch, error: Exception, says: str
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    pages = {page.id: page for page in load_pages(URL)}
    with monkeypatch.context() as planted:
        planted.setattr(MemoryFileSystem, "cat_file", fails)
        with pytest.raises(PageError, match=rf"memory://scans/p10\.png: {says}"):
            pages["p10.png"].open()
        listed = {page.id: page for page in load_pages(URL)}
        assert not listed["p10.png"].refused, "it may be there when it is opened"
        assert "the page has no score" in listed["p2.png"].problem and listed["p2.png"].truth is None
        assert listed["book.pdf"].refused and "memory://scans/book.pdf: " in listed["book.pdf"].problem
    monkeypatch.setattr(MemoryFileSystem, "info", fails)
    with pytest.raises(PageError, match=rf"memory://scans: {says}"):
        load_pages(URL)


@pytest.mark.parametrize(
    "url", ["s3://me:hunter2@bucket/x", "https://h/x?X-Amz-Signature=hunter2", "zip://a::sftp://me:hunter2@h/a.zip"]
)
def test_a_url_with_a_password_is_refused_without_saying_it(url: str) -> None:
    with pytest.raises(PageError, match="holds a password or key") as caught:
        load_pages(url)
    assert "hunter2" not in str(caught.value) and "environment" in str(caught.value)


FLAKY = """
from fsspec.implementations.local import LocalFileSystem

class Flaky(LocalFileSystem):
    protocol = "flaky"

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).removeprefix("flaky://"))

    def cat_file(self, path, start=None, end=None, **kwargs):
        if end is None and path.endswith("p1.png"):
            raise ConnectionResetError("the connection was reset")
        return super().cat_file(path, start, end, **kwargs)
"""


def test_stores_are_read_to_the_end_though_one_page_fails_and_are_not_read_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = load_pages("lines", limit=3)
    for i, folder in enumerate(("plain", "plain/below", "flaky")):
        (tmp_path / folder).mkdir()
        own[i].open().save(tmp_path / folder / "p2.png")
    (tmp_path / "plain" / "p2.gt.txt").write_text(own[0].truth or "", encoding="utf-8")
    own[0].open().save(tmp_path / "flaky" / "p1.png")
    # As an installed package would bring its file system: every process finds it.
    (tmp_path / "flakyfs.py").write_text(FLAKY)
    (tmp_path / "flakyfs-1.dist-info").mkdir()
    (tmp_path / "flakyfs-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: flakyfs\nVersion: 1\n")
    (tmp_path / "flakyfs-1.dist-info" / "entry_points.txt").write_text("[fsspec.specs]\nflaky=flakyfs:Flaky\n")
    urls = [f"file://{tmp_path}/plain", f"flaky://{tmp_path}/flaky"]
    read = ["read", *urls, "--out", str(tmp_path / "out"), "--max_new_tokens", "64"]
    command, environment = [sys.executable, "-m", "ocrlab", *read], os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=paths.ROOT, env=environment, check=False)
    assert done.returncode == 1, done.stderr
    lines = (tmp_path / "out" / RECORDS).read_text(encoding="utf-8").splitlines()
    found = {line["file"]: line for line in map(json.loads, lines)}
    failed = found.pop(f"{urls[1]}/p1.png")
    assert failed["status"] == "error" and f"{urls[1]}/p1.png: cannot be read (ConnectionReset" in failed["reason"]
    assert sorted(found) == [f"{urls[0]}/below/p2.png", f"{urls[0]}/p2.png", f"{urls[1]}/p2.png"]
    assert all(line["status"] in WITH_TEXT for line in found.values()) and found[f"{urls[0]}/p2.png"]["cer"] is not None
    names = {file.relative_to(tmp_path / "out").as_posix() for file in (tmp_path / "out").rglob("*.txt")}
    assert names == {"plain/p2.png.txt", "plain/below/p2.png.txt", "flaky/p2.png.txt"}
    monkeypatch.syspath_prepend(tmp_path)
    fsspec.register_implementation("flaky", "flakyfs.Flaky", clobber=True)
    assert main(read) == 0 and "4 of 4 pages were read before" in capsys.readouterr().err
