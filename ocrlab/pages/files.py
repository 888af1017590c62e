"""Users' own files as pages: which a folder or glob names, and each file's page or pages, with truth beside."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path, PurePath

from ocrlab.pages.errors import PageError
from ocrlab.pages.images import SUFFIXES
from ocrlab.pages.leaves import is_pdf, leaves
from ocrlab.pages.page import Page
from ocrlab.pages.pdf import PDF_DPI
from ocrlab.pages.truth import truth_beside

LISTED = (*SUFFIXES, ".pdf")
NO_PAGE = "not a page; give an image (PNG, JPEG, WebP, BMP, TIFF) or a PDF"
_THREADS, _AT_ONCE = 4, 512


def in_folder(folder: Path, *, recursive: bool = False) -> list[Path]:
    """Return the folder's images and PDFs in natural order (p2 before p10), hidden ones left out.

    With `recursive` those of the folders below too, hidden ones left out, links followed, each folder once; one that
    cannot be listed stands among the files, so that it becomes a refused page.

    Raises:
        PageError: the folder cannot be listed, or holds none.
    """
    try:
        files = list(_below(folder, set())) if recursive else [f for f in folder.iterdir() if is_page(f)]
    except OSError as error:
        raise PageError(f"{folder}: cannot be listed ({error.strerror}); check that you may read it") from error
    if not files:
        remedy = "give a folder that holds some" if recursive else "folders below are read with recursive=True"
        raise PageError(f"{folder}: no images here ({', '.join(s[1:] for s in LISTED)}); {remedy}")
    return sorted(files, key=natural)


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


def natural(path: PurePath) -> tuple[list[tuple[int, int, str]], str]:
    """Return a sort key in which numbers count as numbers; names that differ in case alone keep one order."""
    text = path.as_posix()
    parts = [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in re.split(r"(\d+)", text.lower()) if p]
    return parts, text


def as_pages(files: Sequence[Path], root: Path, *, limit: int | None = None, dpi: int = PDF_DPI) -> list[Page]:
    """Return each file's page, or pages where it is a PDF or a TIFF of several; at most `limit` in all.

    A page's id is its path below `root`, with `#3` for leaf 3. No image is decoded and no page drawn here.
    """
    return list(islice(_pages(files, root, dpi), limit))


def _pages(files: Sequence[Path], root: Path, dpi: int) -> Iterator[Page]:
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(files), _AT_ONCE):  # so that a limit does not hash what it leaves out
            some = files[start : start + _AT_ONCE]
            for file, (sha256, problem, beginning) in zip(some, pool.map(_read, some), strict=True):
                yield from _of_file(file, sha256, problem, beginning, root, dpi)


def _of_file(file: Path, sha256: str, problem: str, beginning: bytes, root: Path, dpi: int) -> Iterator[Page]:
    """Yield a file's pages; what is wrong with the whole file is one refused page."""
    name = (file.relative_to(root) if file.is_relative_to(root) else file).as_posix()
    inside = None
    if not problem:
        try:
            inside = leaves(file, beginning, dpi)
        except PageError as error:
            problem = str(error)
    if inside is None:
        truth, unusable = truth_beside(file)
        yield Page(name, file, sha256, root.name, truth=truth, problem=problem or unusable, refused=bool(problem))
        return
    drawn = dpi if is_pdf(file, beginning) else None
    for leaf, wrong in inside.items():
        truth, unusable = truth_beside(file, leaf)
        own = hash_of_leaf(sha256, leaf, drawn)
        problem = f"{file}: page {leaf}: {wrong}" if wrong else unusable
        yield Page(f"{name}#{leaf}", file, own, root.name, truth=truth, problem=problem, refused=bool(wrong),
                   leaf=leaf, dpi=dpi)  # fmt: skip


def hash_of_leaf(sha256: str, leaf: int, dpi: int | None) -> str:
    """Return a leaf's own hash from its file's and, where it is drawn, its resolution."""
    return hashlib.sha256(f"{sha256}#{leaf}{f'@{dpi}' if dpi is not None else ''}".encode()).hexdigest()


def hash_of(file: Path) -> tuple[str, str]:
    """Return a file's sha256 and an empty problem, or an empty hash and why it cannot be read."""
    return _read(file)[:2]


def _read(file: Path) -> tuple[str, str, bytes]:
    """Return a file's sha256, why it cannot be read, and its first bytes."""
    try:
        with file.open("rb") as opened:
            beginning = opened.read(1024)
            opened.seek(0)
            return hashlib.file_digest(opened, "sha256").hexdigest(), "", beginning
    except FileNotFoundError:
        return "", f"{file}: no such file; put it back or remove its entry", b""
    except IsADirectoryError:
        return "", f"{file}: a folder, not a page; check that you may list it, or give its files", b""
    except (OSError, ValueError) as error:
        return "", f"{file}: cannot be read ({error}); check that it is a file you may read", b""


def is_page(file: Path) -> bool:
    """Return whether a file's name is that of an image or PDF, not hidden."""
    return file.suffix.lower() in LISTED and not file.name.startswith(".") and not file.is_dir()
