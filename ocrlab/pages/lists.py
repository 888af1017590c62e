"""Pages from a list of paths, as other programs write it: one a line, or with NUL between."""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from ocrlab.pages import files
from ocrlab.pages.page import Page
from ocrlab.pages.pdf import PDF_DPI
from ocrlab.pages.sets import check_dpi, root_of


def expand(lines: bytes | Iterable[str | bytes], *, dpi: int = PDF_DPI) -> list[Page]:
    """Return the pages of the files that a list names, in its order; a file named twice is taken once.

    The list is all of standard input as bytes, or its lines: UTF-8 (UTF-16 with its mark), one path a line, or with
    NUL between as `find -print0` writes it. Empty lines, a byte order mark and CRLF are passed over. A path that is
    no page becomes a refused page that tells its line. Ids are paths below the lowest folder that holds all.

    Raises:
        PageError: dpi below 1.
    """
    check_dpi(dpi)
    named: dict[Path, int] = {}
    for number, name in enumerate(_names(lines), 1):
        if name.strip():
            named.setdefault(Path(os.path.normpath(Path(name).absolute())), number)
    if not named:
        return []
    return [_told(page, named[page.file]) for page in files.as_pages(list(named), root_of(list(named)), dpi=dpi)]


def _told(page: Page, number: int) -> Page:
    known = page.file.suffix.lower() in files.LISTED
    if page.refused or not known:
        problem = page.problem if page.refused else f"{page.file}: {files.NO_PAGE}"
        return replace(page, problem=f"line {number} of the list: {problem}", refused=True)
    return page


def _names(lines: bytes | Iterable[str | bytes]) -> list[str]:
    items = [lines] if isinstance(lines, bytes) else [os.fsencode(line) for line in lines]
    whole = b"".join(items)
    if whole.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        items = [whole.decode("utf-16", "replace").encode()]
    elif b"\0" in whole:
        return [os.fsdecode(name) for name in whole.removeprefix(codecs.BOM_UTF8).split(b"\0")]
    if items:
        items[0] = items[0].removeprefix(codecs.BOM_UTF8)
    return [os.fsdecode(name.removesuffix(b"\r")) for item in items for name in item.removesuffix(b"\n").split(b"\n")]
