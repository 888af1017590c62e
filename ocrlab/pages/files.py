"""Users' own files as pages: which a folder or glob names, and each file's page or pages, with truth beside."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path, PurePath
from typing import TypeVar

from ocrlab.pages.documents import is_pdf, pages_inside
from ocrlab.pages.images import KINDS, SUFFIXES, UNREAD, PageError, unread
from ocrlab.pages.page import Page, stamp_of
from ocrlab.pages.truth import UTF_8, truth_beside

LISTED = (*SUFFIXES, ".pdf", *UNREAD)
#: How files end whose bytes say how many pages they hold.
SEVERAL = (".pdf", ".tif", ".tiff", ".gif")
MANIFEST = "manifest.jsonl"
NO_PAGE = f"not a page; give a PDF or an image ({KINDS})"
_THREADS, _AT_ONCE = 4, 512
_P = TypeVar("_P", bound=Page)
_Named = TypeVar("_Named", str, Path)


def in_folder(folder: Path, *, recursive: bool = False) -> list[Path]:
    """Return the folder's images and PDFs in natural order (p2 before p10), hidden ones left out.

    With `recursive` those of the folders below too, hidden ones left out, links followed, each folder once; one that
    cannot be listed is listed among the files, so that it becomes a refused page.

    Raises:
        PageError: the folder cannot be listed, or holds none.
    """
    try:
        files = list(_below(folder, set()) if recursive else filter(is_page, folder.iterdir()))
    except OSError as error:
        raise PageError(f"{folder}: cannot be listed ({error.strerror}); check that you may read it") from error
    return in_order(folder, files, recursive)


def in_order(place: object, found: Iterable[_Named], recursive: bool) -> list[_Named]:
    """Return what was found at a place in natural order.

    Raises:
        PageError: nothing was found.
    """
    pages = sorted(found, key=natural)
    if not pages:
        remedy = "give a folder that holds some" if recursive else "folders below are read with recursive=True"
        raise PageError(f"{place}: no images here (PDF, {KINDS}); {remedy}")
    return pages


def _below(folder: Path, seen: set[str]) -> Iterator[Path]:
    """Yield the pages of a folder and of those below it; `seen` are folders listed before, by their real path."""
    seen.add(os.path.realpath(folder))
    entries = sorted(folder.iterdir(), key=natural)
    yield from (entry for entry in entries if is_page(entry))
    for entry in entries:
        if entry.is_dir() and not entry.name.startswith(".") and os.path.realpath(entry) not in seen:
            try:
                yield from _below(entry, seen)
            except OSError:
                yield entry


def by_pattern(pattern: str) -> list[Path]:
    """Return the images and PDFs that a glob names (`**` goes down), in natural order.

    Raises:
        PageError: it names none.
    """
    # Path.glob takes no absolute pattern.
    named = {Path(name) for name in glob.glob(str(Path(pattern).expanduser()), recursive=True)}  # noqa: PTH207
    files = sorted((f for f in named if is_page(f)), key=natural)
    if not files:
        raise PageError(f"{pattern}: no image matches this pattern, seen from {Path.cwd()}")
    return files


def natural(path: str | PurePath) -> tuple[list[tuple[int, int, str]], str]:
    """Return a sort key in which numbers count as numbers; names that differ in case alone keep one order."""
    text = path if isinstance(path, str) else path.as_posix()
    parts = [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in re.split(r"(\d+)", text.lower()) if p]
    return parts, text


def as_pages(
    files: Sequence[Path], root: Path, *, limit: int | None = None, dpi: int | None = None, encoding: str = UTF_8
) -> list[Page]:
    """Return each file's page, or pages where it is a PDF or a multipage TIFF; at most `limit` in all.

    A page's id is its path below `root`, with `#3` for page 3 of a file. No image is decoded and no page drawn here.
    """
    return list(islice(_pages(files, root, dpi, encoding), limit))


def _pages(files: Sequence[Path], root: Path, dpi: int | None, encoding: str) -> Iterator[Page]:
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(files), _AT_ONCE):  # so that a limit does not hash what it leaves out
            some = files[start : start + _AT_ONCE]
            for file, (sha256, problem, stamp) in zip(some, pool.map(_known, some), strict=True):
                name = (file.relative_to(root) if file.is_relative_to(root) else file).as_posix()
                page = Page(name, file, sha256, root.name, problem=problem, refused=bool(problem), dpi=dpi, stamp=stamp)
                for one in [page] if problem else parts_of(page):
                    truth, facts, unusable = truth_beside(file, one.page_number, encoding)
                    yield replace(one, truth=truth, facts=facts, problem=one.problem or unusable)


def parts_of(whole: _P) -> list[_P]:
    """Return the pages of a file, given as one; what is wrong with the whole file is one refused page."""
    if problem := unread(whole.where):
        return [replace(whole, problem=problem, refused=True)]
    try:
        with whole.local() as file:
            inside = pages_inside(file, whole.dpi)
            drawn = f"@{whole.dpi}" if inside and whole.dpi and is_pdf(file) else ""
    except PageError as error:
        return [replace(whole, problem=str(error), refused=True)]
    if inside is None:
        return [whole]
    return [_part(whole, number, wrong, drawn) for number, wrong in inside.items()]


def _part(whole: _P, number: int, wrong: str, drawn: str) -> _P:
    sha256 = hashlib.sha256(f"{whole.sha256}#{number}{drawn}".encode()).hexdigest()
    problem = f"{whole.where}: page {number}: {wrong}" if wrong else ""
    name = f"{whole.id}#{number}"
    return replace(whole, id=name, sha256=sha256, page_number=number, problem=problem, refused=bool(wrong))


def _known(file: Path) -> tuple[str, str, tuple[int, int] | None]:
    try:
        stamp = stamp_of(file)  # before the hash, so that no later change goes unseen
    except (OSError, ValueError):
        stamp = None  # the hash says why
    return *hash_of(file), stamp


def hash_of(file: Path) -> tuple[str, str]:
    """Return a file's sha256 and an empty problem, or an empty hash and why it cannot be read."""
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest(), ""
    except (OSError, ValueError) as error:
        why = str(getattr(error, "strerror", error)).lower()
        return "", f"{file}: {why}; put it back, remove its entry, or check that you may read it"


def is_page(file: PurePath) -> bool:
    """Return whether a file's name is that of an image or PDF, not hidden."""
    if file.suffix.lower() not in LISTED or file.name.startswith("."):
        return False
    return not (isinstance(file, Path) and file.is_dir())
