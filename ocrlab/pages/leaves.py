"""One page out of a file of several: a PDF or a TIFF becomes an image file that can be read like any other."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, UnidentifiedImageError

from ocrlab.pages.errors import PageError
from ocrlab.pages.images import MAX_IMAGE_PIXELS

PDF_DPI = 150
"""Dots per inch at which a PDF page is drawn: print of 10 points is then some 20 pixels high."""


def count_leaves(file: Path) -> int:
    """Return how many pages a file holds: above one for PDF and TIFF only.

    Raises:
        PageError: a PDF or TIFF that cannot be opened.
    """
    if is_pdf(file):
        document = _pdf(file)
        try:
            return len(document)
        finally:
            document.close()
    try:
        with Image.open(file) as image:
            return int(getattr(image, "n_frames", 1)) if image.format == "TIFF" else 1
    except Image.DecompressionBombError as error:
        raise PageError(f"{file}: {error}; scale the page down before it is read") from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        return 1  # opening it as a page says what is wrong


def extract_leaf(file: Path, number: int, folder: Path) -> Path:
    """Return page `number` (from 1) of a PDF or TIFF as a PNG in `folder`; a file of one image is returned as it is.

    Raises:
        PageError: no such page, a page that cannot be drawn, or one that is too large.
    """
    count = count_leaves(file)
    if not 1 <= number <= count:
        raise PageError(f"{file}: has {count} page(s), so there is no page {number}")
    if not is_pdf(file) and count == 1:
        return file
    target = folder / f"{file.stem}-p{number}.png"
    if is_pdf(file):
        _draw(file, number, target)
        return target
    try:
        with Image.open(file) as image:
            image.seek(number - 1)
            image.save(target)
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise PageError(f"{file}: page {number} is damaged ({error}); re-export it") from error
    return target


def is_pdf(file: Path) -> bool:
    """Return whether a file begins as a PDF does, whatever its name.

    Raises:
        PageError: it cannot be read.
    """
    try:
        with file.open("rb") as opened:
            return opened.read(1024).lstrip().startswith(b"%PDF")
    except OSError as error:
        raise PageError(f"{file}: cannot be read ({error.strerror}); check that it is a file you may read") from error


def _pdf(file: Path):  # type: ignore[no-untyped-def]  # pypdfium2's types are not exported
    import pypdfium2

    try:
        return pypdfium2.PdfDocument(file)
    except pypdfium2.PdfiumError as error:
        raise PageError(f"{file}: not a PDF that can be opened ({error}); re-export it, without a password") from error


def _draw(file: Path, number: int, target: Path) -> None:
    import pypdfium2

    document = _pdf(file)
    try:
        page = document[number - 1]
        scale = PDF_DPI / 72
        width, height = page.get_size()
        if width * scale * height * scale > MAX_IMAGE_PIXELS:
            raise PageError(
                f"{file}: page {number} is {width / 72:.0f} x {height / 72:.0f} inches, at {PDF_DPI} dots an inch "
                f"more than the limit of {MAX_IMAGE_PIXELS:,} pixels; make a smaller image of it first"
            )
        page.render(scale=scale).to_pil().convert("RGB").save(target)
    except pypdfium2.PdfiumError as error:
        raise PageError(f"{file}: page {number} cannot be drawn ({error}); re-export it") from error
    finally:
        document.close()
