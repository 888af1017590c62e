"""The truth that lies beside a page's file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ocrlab.pages.images import PageError


def truth_beside(file: Path, page_number: int | None = None) -> tuple[str | None, str]:
    """Return the truth from NAME.gt.txt or NAME.txt (None where there is none) and what is wrong with it, if anything.

    That of page 3 of a PDF or TIFF lies in NAME.p0003.gt.txt or NAME.p0003.txt. A byte order mark and CRLF line
    ends are accepted, and white space at the very end is dropped.
    """
    for name in names_beside(file.stem, page_number):
        beside = file.with_name(name)
        if beside.is_file():
            return read_truth(str(beside), beside.read_bytes)
    return None, ""


def names_beside(stem: str, page_number: int | None = None) -> tuple[str, str]:
    """Return the names under which the truth of a file's page may lie, the first one first."""
    stem = stem if page_number is None else f"{stem}.p{page_number:04d}"
    return f"{stem}.gt.txt", f"{stem}.txt"


def read_truth(name: str, read: Callable[[], bytes]) -> tuple[str | None, str]:
    """Return a truth's text, or None, and what is wrong with it; `read` gives its bytes, `name` is for the message."""
    try:
        text = read().decode("utf-8-sig")
    except (OSError, PageError) as error:
        return None, f"{name}: the truth cannot be read ({error}), so the page has no score"
    except UnicodeDecodeError as error:
        return None, (
            f"{name}: the truth is not UTF-8 (byte {error.start:,} is 0x{error.object[error.start]:02x}), so the page "
            "has no score; save it as UTF-8, for example: iconv -f CP1251 -t UTF-8"
        )
    return text.replace("\r\n", "\n").replace("\r", "\n").rstrip(), ""
