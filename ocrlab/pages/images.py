"""Open an image file as upright 8-bit RGB, or say by name why it cannot be read. The only door for image files."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ocrlab.pages.errors import PageError
from ocrlab.pages.extent import expected_bytes, format_of

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
MAX_IMAGE_PIXELS = 178_956_970
"""Larger images are refused before they are decoded: Pillow's own limit for a decompression bomb."""
MAX_ASPECT_RATIO = 200
"""Qwen2-VL's `smart_resize` refuses what is longer than 200 times its width."""

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
# What Pillow's decoders raise on damaged files.
_DECODER_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, OverflowError, EOFError, MemoryError,
    struct.error, zlib.error,
)  # fmt: skip


def open_image(path: str | Path) -> Image.Image:
    """Return the image in mode RGB, turned as its EXIF says; transparency lies on white, 16 bits are scaled to 8.

    Raises:
        PageError: absent, empty, truncated, not an image, too many pixels, too long for its width, several pages.
    """
    path = Path(path)
    data = _read(path)
    image = _identify(path, data)
    _check_shape(path, image)
    try:
        pages = getattr(image, "n_frames", 1)
        image.load()
        upright = ImageOps.exif_transpose(image)
    except _DECODER_ERRORS as error:
        raise PageError(_decoding_problem(path, data, image.format or "", error)) from error
    # A phone's JPEG (MPO) carries a preview behind the photograph; every other format means pages or an animation.
    if pages > 1 and image.format != "MPO":
        raise PageError(
            f"{path}: holds {pages} pages or frames, and files of several pages are not read yet; "
            "save each as a file of its own (TIFF: tiffsplit)"
        )
    return _to_rgb(path, upright, dict(getattr(image, "tag_v2", {})))


def _read(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise PageError(f"{path}: no such file; check the name") from None
    except OSError as error:
        raise PageError(f"{path}: cannot be read ({error.strerror}); check that it is a file you may read") from error
    if not data:
        raise PageError(f"{path}: the file is empty (0 bytes); export it again or remove it")
    if data[:1024].lstrip().startswith(b"%PDF"):
        raise PageError(pdf_problem(path))
    return data


def pdf_problem(path: Path) -> str:
    """Return the message for a PDF, with the command that makes images of it."""
    return (
        f"{path}: PDF files are not read yet; make an image of each page first, "
        f'for example: pdftoppm -r 150 -png "{path.name}" "{path.stem}"'
    )


def _identify(path: Path, data: bytes) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # Pillow warns from half our limit on; the limit itself is enforced below.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(io.BytesIO(data), formats=_FORMATS)
    except Image.DecompressionBombError as error:
        raise PageError(f"{path}: {error}; scale the page down before it is read") from error
    except _DECODER_ERRORS as error:
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


def _check_shape(path: Path, image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_IMAGE_PIXELS:
        raise PageError(
            f"{path}: {width:,} x {height:,} pixels are more than the limit of {MAX_IMAGE_PIXELS:,} "
            "(it may be a decompression bomb); scale the page down before it is read"
        )
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise PageError(
            f"{path}: {width} x {height} pixels: one side is more than {MAX_ASPECT_RATIO} times the other, "
            "which Qwen2-VL refuses; cut it into pieces"
        )


def _decoding_problem(path: Path, data: bytes, name: str, error: Exception) -> str:
    remedy = "re-export it or remove it"
    expected = expected_bytes(data, name)
    if expected > len(data):
        least = "" if name in ("BMP", "WEBP") else "at least "
        return f"{path}: truncated {name} (read {len(data):,} of {least}{expected:,} bytes); {remedy}"
    if name in ("JPEG", "MPO") and b"\xff\xd9" not in data[-64:]:
        return f"{path}: truncated {name} ({len(data):,} bytes without an end marker); {remedy}"
    return f"{path}: damaged {name} ({error}); {remedy}"


def _to_rgb(path: Path, image: Image.Image, tags: dict[int, Any]) -> Image.Image:
    if image.mode.startswith("I"):
        return _from_16_bit(path, image, tags).convert("RGB")
    if image.mode in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa") and image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    if image.mode in ("1", "L", "RGB", "P", "CMYK", "YCbCr", "HSV"):
        return image.convert("RGB")
    raise PageError(f"{path}: pixels of mode {image.mode} have no defined black and white; export it as 8-bit PNG")


def _from_16_bit(path: Path, image: Image.Image, tags: dict[int, Any]) -> Image.Image:
    """Return greyscale of more than 8 bits scaled (not cut off) to 8, black where the file says black."""
    depth = int(tags.get(258, (16,))[0])
    values = np.asarray(image)
    white = 2**depth - 1
    if depth > 16 or values.min() < 0 or values.max() > white:
        raise PageError(f"{path}: {depth}-bit integers have no defined white; export it as 8-bit greyscale")
    if tags.get(262) == 0:
        # Pillow inverts "minimum is white" up to 8 bits only.
        values = white - values
    return Image.fromarray(((values.astype(np.uint32) * 255 + white // 2) // white).astype(np.uint8))
