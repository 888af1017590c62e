"""PDF pages through pypdfium2: their sizes without drawing, and one drawn as an image."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image

from ocrlab.pages.errors import PageError
from ocrlab.pages.images import MAX_IMAGE_PIXELS, shape_problem

PDF_DPI = 150
"""Dots per inch at which a PDF page is drawn: print of 10 points is then some 20 pixels high."""
_POINTS = 72  # of a PDF's canvas, in an inch

# PDFium is not thread-safe. Held over a fork too, so that no child begins in the middle of somebody's drawing.
_LOCK = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_LOCK.acquire, after_in_parent=_LOCK.release, after_in_child=_LOCK.release)

Size = tuple[float, float] | None


def page_sizes(file: Path) -> tuple[Size, ...]:
    """Return each page's width and height in points (1/72 inch); None for a page that cannot be opened.

    Raises:
        PageError: absent, not a PDF, locked with a password, without pages.
    """
    try:
        stat = file.stat()
    except OSError as error:
        raise PageError(f"{file}: cannot be read ({error.strerror}); check that it is a file you may read") from error
    return _page_sizes(file, stat.st_mtime_ns, stat.st_size)


def drawn_size(size: tuple[float, float], dpi: int) -> tuple[int, int]:
    """Return the pixels of a page of so many points."""
    width, height = (math.ceil(side * (dpi / _POINTS)) for side in size)  # as pypdfium2 rounds
    return width, height


def page_problem(size: Size, dpi: int) -> str:
    """Return why a page of this size is not drawn, with what to do; empty where it is."""
    if size is None:
        return "cannot be opened; export the file again"
    width, height = drawn_size(size, dpi)
    if width * height <= MAX_IMAGE_PIXELS:
        return shape_problem(width, height)
    fits = math.floor(_POINTS * math.sqrt(MAX_IMAGE_PIXELS / (size[0] * size[1])))
    return (
        f"{size[0] / _POINTS:.0f} x {size[1] / _POINTS:.0f} inches are {width:,} x {height:,} pixels at {dpi} dpi, "
        f"more than the limit of {MAX_IMAGE_PIXELS:,}; read it with a dpi of {max(1, fits - 1)} or less"
    )


def draw_page(file: Path, number: int, dpi: int) -> Image.Image:
    """Return page `number` (from 1) drawn on white in mode RGB; safe to call from any thread.

    Raises:
        PageError: no such page, or one that cannot be drawn or would be too large.
    """
    with _document(file) as document:
        if not 1 <= number <= len(document):
            raise PageError(f"{file}: has {len(document)} page(s), so there is no page {number}")
        if problem := page_problem(_size(document, number - 1), dpi):
            raise PageError(f"{file}: page {number}: {problem}")
        import pypdfium2

        try:
            page = document[number - 1]
            bitmap = page.render(scale=dpi / _POINTS)
        except (pypdfium2.PdfiumError, ValueError, MemoryError) as error:
            raise PageError(f"{file}: page {number} cannot be drawn ({error}); export the file again") from error
        image = bitmap.to_pil().convert("RGB")
        bitmap.close()
        return image


@lru_cache(maxsize=64)
def _page_sizes(file: Path, _changed: int, length: int) -> tuple[Size, ...]:
    if length == 0:
        raise PageError(f"{file}: the file is empty (0 bytes); export it again or remove it")
    with _document(file) as document:
        if not len(document):
            raise PageError(f"{file}: a PDF without pages; export it again or remove it")
        return tuple(_size(document, index) for index in range(len(document)))


def _size(document: Any, index: int) -> Size:
    import pypdfium2

    try:
        width, height = document.get_page_size(index)
    except pypdfium2.PdfiumError:
        return None
    return (width, height) if width > 0 and height > 0 else None


@contextmanager
def _document(file: Path) -> Iterator[Any]:
    """Hold the document open and PDFium to ourselves; closing closes its pages too."""
    import pypdfium2

    with _LOCK:
        try:
            document = pypdfium2.PdfDocument(file)
        except (pypdfium2.PdfiumError, OSError) as error:
            locked = "password" in str(error).lower()
            problem = "locked with a password" if locked else f"not a PDF that opens ({str(error).rstrip('.')})"
            remedy = "save it without one (qpdf --decrypt)" if locked else "export it again or remove it"
            raise PageError(f"{file}: {problem}; {remedy}") from error
        try:
            yield document
        finally:
            document.close()
