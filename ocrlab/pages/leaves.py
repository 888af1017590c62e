"""The leaves of a file of several pages, PDF or TIFF: which there are, how large each is, and one opened."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageOps

from ocrlab.pages import pdf
from ocrlab.pages.colours import to_rgb
from ocrlab.pages.errors import PageError
from ocrlab.pages.images import DECODER_ERRORS, begins_as_pdf, large_allowed, shape_problem

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_SUBFILE_TYPE, _REDUCED = 254, 1  # TIFF 6.0: bit 0 is set on a smaller copy of another page


def is_pdf(file: Path, start: bytes) -> bool:
    """Return whether a file is taken for a PDF: by its first bytes, or by its name."""
    return begins_as_pdf(start) or file.suffix.lower() == ".pdf"


def may_hold_several(file: Path, start: bytes) -> bool:
    """Return whether a file with these first bytes can be of several pages: a PDF or a TIFF."""
    return is_pdf(file, start) or start.startswith(_TIFF)


def leaves(file: Path, start: bytes, dpi: int) -> dict[int, str] | None:
    """Return a PDF's or multi-page TIFF's leaves, numbered from 1, each with its problem (or ""); None: one image.

    `start` are the file's first bytes. Thumbnails inside a TIFF are no leaves.

    Raises:
        PageError: a PDF that cannot be opened or has no pages.
    """
    if is_pdf(file, start):
        return {number: pdf.page_problem(size, dpi) for number, size in enumerate(pdf.page_sizes(file), 1)}
    if not start.startswith(_TIFF):
        return None
    try:
        frames = _frames_of(file)
    except (Image.DecompressionBombError, *DECODER_ERRORS):
        return None  # opening it as an image says what is wrong
    if len(frames) < 2:
        return None
    return {number: shape_problem(*size) for number, size in enumerate(frames, 1) if size is not None}


def open_leaf(file: Path, number: int, dpi: int) -> Image.Image:
    """Return a leaf as upright 8-bit RGB; `dpi` is for PDFs.

    Raises:
        PageError: no such leaf, or one that cannot be read or is too large.
    """
    if _is_pdf_here(file):
        return pdf.draw_page(file, number, dpi)
    name = f"{file}: page {number}"
    try:
        # By a file object: from a path, Pillow 13 maps an uncompressed turned frame with its sides exchanged.
        with file.open("rb") as opened, large_allowed(), Image.open(opened, formats=("TIFF",)) as image:
            image.seek(number - 1)
            if problem := shape_problem(*image.size):
                raise PageError(f"{name}: {problem}")
            image.load()
            return to_rgb(name, ImageOps.exif_transpose(image), dict(getattr(image, "tag_v2", {})))
    except PageError:
        raise
    except (Image.DecompressionBombError, *DECODER_ERRORS) as error:
        raise PageError(f"{name} is damaged or absent ({error}); export the file again or remove it") from error


def leaf_size(file: Path, number: int, dpi: int) -> tuple[int, int]:
    """Return the pixels that a leaf has once opened, without decoding it.

    Raises:
        PageError: no such leaf, or its file cannot be read.
    """
    try:
        sizes = pdf.page_sizes(file) if _is_pdf_here(file) else _frames_of(file)
    except PageError:
        raise
    except (Image.DecompressionBombError, *DECODER_ERRORS) as error:
        raise PageError(f"{file}: damaged TIFF ({error}); export it again or remove it") from error
    size = sizes[number - 1] if 1 <= number <= len(sizes) else None
    if size is None:
        raise PageError(f"{file}: page {number} of {len(sizes)} is absent or cannot be opened; export the file again")
    return pdf.drawn_size(size, dpi) if _is_pdf_here(file) else (int(size[0]), int(size[1]))


def _is_pdf_here(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            return is_pdf(file, opened.read(1024))
    except OSError as error:
        raise PageError(f"{file}: cannot be read ({error.strerror}); check that it is a file you may read") from error


def _frames_of(file: Path) -> tuple[tuple[int, int] | None, ...]:
    stat = file.stat()
    return _frames(file, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=64)
def _frames(file: Path, _changed: int, _length: int) -> tuple[tuple[int, int] | None, ...]:
    """Return the size of each frame, None for a smaller copy of another."""
    sizes = []
    with large_allowed(), Image.open(file, formats=("TIFF",)) as image:
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            tags = getattr(image, "tag_v2", {})
            sizes.append(None if tags.get(_SUBFILE_TYPE, 0) & _REDUCED else image.size)
    return tuple(sizes)
