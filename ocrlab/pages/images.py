"""Open an image file as upright 8-bit RGB, or say by name why it cannot be read; its size from the header alone."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageOps

from ocrlab.pages.colours import to_rgb
from ocrlab.pages.errors import PageError
from ocrlab.pages.extent import expected_bytes, format_of

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
MAX_IMAGE_PIXELS = 178_956_970
"""Larger images are refused before they are decoded: Pillow's own limit for a decompression bomb."""
MAX_ASPECT_RATIO = 200
"""Qwen2-VL's `smart_resize` refuses what is longer than 200 times its width."""

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
DECODER_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, OverflowError, EOFError, MemoryError,
    struct.error, zlib.error,
)  # fmt: skip
"""What Pillow's decoders raise on damaged files."""


def open_image(path: str | Path) -> Image.Image:
    """Return the image in mode RGB, turned as its EXIF says; transparency lies on white, 16 bits are scaled to 8.

    Raises:
        PageError: absent, empty, truncated, not an image, too many pixels, too long for its width, several pages.
    """
    path = Path(path)
    data = _read(path)
    image = _identify(path, data)
    if problem := shape_problem(*image.size):
        raise PageError(f"{path}: {problem}")
    try:
        pages = getattr(image, "n_frames", 1)
        image.load()
        upright = ImageOps.exif_transpose(image)
    except DECODER_ERRORS as error:
        raise PageError(_decoding_problem(path, data, image.format or "", error)) from error
    # A phone's JPEG (MPO) carries a preview behind the photograph; every other format means pages or an animation.
    if pages > 1 and image.format != "MPO":
        remedy = "load_pages gives each as a page" if image.format == "TIFF" else "save the one to read as a file"
        raise PageError(f"{path}: holds {pages} pages or frames; {remedy}")
    return to_rgb(path, upright, dict(getattr(image, "tag_v2", {})))


def image_size(path: Path) -> tuple[int, int]:
    """Return width and height in pixels from the header alone, before any turn that EXIF asks for.

    Raises:
        PageError: the header cannot be read.
    """
    try:
        with large_allowed(), Image.open(path, formats=_FORMATS) as image:
            return image.size
    except (Image.DecompressionBombError, *DECODER_ERRORS):
        return open_image(path).size  # says what is wrong


def size_from(beginning: bytes) -> tuple[int, int] | None:
    """Return width and height in pixels from an image's first bytes, or None where these do not tell."""
    try:
        with large_allowed(), Image.open(io.BytesIO(beginning), formats=_FORMATS) as image:
            return image.size
    except (Image.DecompressionBombError, *DECODER_ERRORS):
        return None


def shape_problem(width: int, height: int) -> str:
    """Return why an image of so many pixels is not read, with what to do; empty where it is."""
    if width * height > MAX_IMAGE_PIXELS:
        return (
            f"{width:,} x {height:,} pixels are more than the limit of {MAX_IMAGE_PIXELS:,} "
            "(it may be a decompression bomb); scale the page down before it is read"
        )
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        return (
            f"{width} x {height} pixels: one side is more than {MAX_ASPECT_RATIO} times the other, "
            "which Qwen2-VL refuses; cut it into pieces"
        )
    return ""


@contextmanager
def large_allowed() -> Iterator[None]:
    """Keep Pillow from warning of a bomb: it does so from half our limit on, and the limit is enforced here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def _read(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise PageError(f"{path}: no such file; check the name") from None
    except OSError as error:
        raise PageError(f"{path}: cannot be read ({error.strerror}); check that it is a file you may read") from error
    if not data:
        raise PageError(f"{path}: the file is empty (0 bytes); export it again or remove it")
    if begins_as_pdf(data):
        raise PageError(f"{path}: is a PDF, not an image; load_pages gives each of its pages")
    return data


def begins_as_pdf(start: bytes) -> bool:
    """Return whether a file's first bytes are a PDF's."""
    return start[:1024].lstrip().startswith(b"%PDF")


def _identify(path: Path, data: bytes) -> Image.Image:
    try:
        with large_allowed():
            return Image.open(io.BytesIO(data), formats=_FORMATS)
    except Image.DecompressionBombError as error:
        raise PageError(f"{path}: {error}; scale the page down before it is read") from error
    except DECODER_ERRORS as error:
        raise PageError(_header_problem(path, data, error)) from error


def _header_problem(path: Path, data: bytes, error: Exception) -> str:
    kinds = "PNG, JPEG, WebP, BMP or TIFF"
    if name := format_of(data):
        return _decoding_problem(path, data, name, error)
    if _is_text(data[:4096]):
        beginning = data[:4096].decode("utf-8", "replace").strip()[:40]
        return f"{path}: is text, not an image (it begins with {beginning!r}); give a {kinds} file or remove it"
    return f"{path}: not a {kinds} file; export it as PNG or remove it"


def _is_text(start: bytes) -> bool:
    return b"\0" not in start and all(byte >= 32 or byte in b"\t\r\n\f" for byte in start)


def _decoding_problem(path: Path, data: bytes, name: str, error: Exception) -> str:
    remedy = "re-export it or remove it"
    expected = expected_bytes(data, name)
    if expected > len(data):
        least = "" if name in ("BMP", "WEBP") else "at least "
        return f"{path}: truncated {name} (read {len(data):,} of {least}{expected:,} bytes); {remedy}"
    if name in ("JPEG", "MPO") and b"\xff\xd9" not in data[-64:]:
        return f"{path}: truncated {name} ({len(data):,} bytes without an end marker); {remedy}"
    return f"{path}: damaged {name} ({error}); {remedy}"
