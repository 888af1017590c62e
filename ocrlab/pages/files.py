"""A user's own files as pages: a folder, one image or a glob, with truth in `.gt.txt` or `.txt` beside each image."""

from __future__ import annotations

import glob
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from ocrlab.pages.errors import PageError
from ocrlab.pages.images import SUFFIXES, pdf_problem
from ocrlab.pages.page import Page

LISTED = (*SUFFIXES, ".pdf")


def in_folder(folder: Path) -> list[Path]:
    """Return the folder's images and PDFs in natural order (p2 before p10), hidden ones left out.

    Raises:
        PageError: the folder cannot be listed, or holds none.
    """
    try:
        files = [f for f in folder.iterdir() if _is_page(f)]
    except OSError as error:
        raise PageError(f"{folder}: cannot be listed ({error.strerror}); check that you may read it") from error
    if not files:
        raise PageError(
            f"{folder}: no images here ({', '.join(s[1:] for s in SUFFIXES)}); "
            f'for images in folders below, give a pattern such as "{folder.name}/**/*.png"'
        )
    return sorted(files, key=natural)


def by_pattern(pattern: str) -> list[Path]:
    """Return the images and PDFs that a glob names (`**` goes down), in natural order.

    Raises:
        PageError: it names none.
    """
    # Path.glob takes no absolute pattern.
    named = [Path(name) for name in glob.glob(str(Path(pattern).expanduser()), recursive=True)]  # noqa: PTH207
    files = sorted((f for f in named if _is_page(f)), key=natural)
    if not files:
        raise PageError(f"{pattern}: no image matches this pattern, seen from {Path.cwd()}")
    return files


def natural(path: Path) -> list[tuple[int, int, str]]:
    """Return a sort key in which numbers count as numbers."""
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in re.split(r"(\d+)", path.as_posix().lower()) if p]


def as_pages(files: Sequence[Path], root: Path) -> list[Page]:
    """Return one page a file; its id is its path below `root`. No image is decoded here."""
    return [_page(file, file.relative_to(root).as_posix(), root.name) for file in files]


def _page(file: Path, name: str, set_name: str) -> Page:
    sha256, problem = hash_of(file)
    if not problem and file.suffix.lower() == ".pdf":
        problem = pdf_problem(file)
    refused = bool(problem)
    truth, truth_problem = truth_beside(file)
    return Page(
        id=name, file=file, sha256=sha256, set=set_name, truth=truth, problem=problem or truth_problem, refused=refused
    )


def hash_of(file: Path) -> tuple[str, str]:
    """Return a file's sha256 and an empty problem, or an empty hash and why it cannot be read."""
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest(), ""
    except FileNotFoundError:
        return "", f"{file}: no such file; put it back or remove its entry"
    except (OSError, ValueError) as error:
        return "", f"{file}: cannot be read ({error}); check that it is a file you may read"


def truth_beside(file: Path) -> tuple[str | None, str]:
    """Return the truth from NAME.gt.txt or NAME.txt (None where there is none) and what is wrong with it, if anything.

    A byte order mark and CRLF line ends are accepted, and white space at the very end is dropped.
    """
    for suffix in (".gt.txt", ".txt"):
        beside = file.with_name(file.stem + suffix)
        if beside.is_file():
            return _decoded(beside)
    return None, ""


def _decoded(file: Path) -> tuple[str | None, str]:
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return None, (
            f"{file}: the truth is not UTF-8 (byte {error.start:,} is 0x{error.object[error.start]:02x}), so the page "
            "has no score; save it as UTF-8, for example: iconv -f CP1251 -t UTF-8"
        )
    except OSError as error:
        return None, f"{file}: the truth cannot be read ({error.strerror}), so the page has no score"
    return text.replace("\r\n", "\n").replace("\r", "\n").rstrip(), ""


def _is_page(file: Path) -> bool:
    return file.suffix.lower() in LISTED and not file.name.startswith(".") and not file.is_dir()
