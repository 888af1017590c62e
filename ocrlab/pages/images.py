"""Open an image file as upright 8-bit RGB, or say by name why it cannot be read; its size from the header alone."""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path, PurePath
from shlex import quote
from typing import Any

import numpy as np
import yaml
from PIL import Image, ImageOps

_TABLE: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("formats.yaml").read_text(encoding="utf-8"))
_READ: dict[str, dict[str, Any]] = _TABLE["read"]
_BEGINS = {name: re.compile(one["begins"].encode("latin-1"), re.DOTALL) for name, one in _READ.items()}
_CONVERTED = {f".{end}": command for command, ends in _TABLE["converted"].items() for end in ends}
#: How the names of images end that are read, and of files that hold pages and are not.
SUFFIXES = tuple(f".{end}" for one in _READ.values() for end in one["ends"])
UNREAD = tuple(_CONVERTED)
#: Formats whose files may hold several pages.
SEVERAL = ("PDF", "TIFF", "GIF")
KINDS = "PNG, JPEG, HEIC, AVIF, WebP, TIFF, GIF, BMP, JPEG 2000 or PBM/PGM/PPM"
#: Larger images are refused before they are decoded: Pillow's own limit for a decompression bomb.
MAX_IMAGE_PIXELS = 178_956_970
#: Qwen2-VL's `smart_resize` refuses what is longer than 200 times its width.
MAX_ASPECT_RATIO = 200

#: What Pillow's decoders raise on damaged files.
DECODER_ERRORS = (
    *(OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, OverflowError, EOFError, MemoryError),
    *(RuntimeError, struct.error, zlib.error, Image.DecompressionBombError),
)


class PageError(ValueError):
    """A file or set cannot be used; the message names it, says what is wrong and what to do."""


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
        raise PageError(_decoding_problem(path, image.format or "image", error)) from error
    # A phone's JPEG (MPO) or HEIF carries more behind the photograph; other formats mean pages or an animation.
    if pages > 1 and image.format not in ("MPO", "HEIF"):
        remedy = "load_pages gives each as a page" if image.format in SEVERAL else "save the one to read as a file"
        raise PageError(f"{path}: holds {pages} pages or frames; {remedy}")
    return to_rgb(path, upright, dict(getattr(image, "tag_v2", {})))


def image_size(path: Path) -> tuple[int, int]:
    """Return width and height in pixels from the header alone, before any turn that EXIF asks for.

    Raises:
        PageError: the header cannot be read.
    """
    return _size(path) or open_image(path).size  # which says what is wrong


def size_from(beginning: bytes) -> tuple[int, int] | None:
    """Return width and height in pixels from an image's first bytes, or None where these do not show it."""
    return _size(io.BytesIO(beginning))


def _size(file: Path | io.BytesIO) -> tuple[int, int] | None:
    try:
        with io.BytesIO(file.getvalue()) if isinstance(file, io.BytesIO) else file.open("rb") as opened:
            kind = begins_as(opened.read(1024))
            with large_allowed(), Image.open(opened, formats=(decodable(kind),)) as image:
                return image.size
    except (PageError, *DECODER_ERRORS):
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


def is_blank(image: Image.Image) -> bool:
    """Return whether nothing is printed on a page, as far as its pixels tell: one colour, show-through, or noise.

    Of blocks of 8 × 8 pixels, fewer than one in 10,000 may differ from their median by more than 16 grey levels; where
    the page is noisy, by more than five standard deviations of a block's mean.
    """
    grey = image.convert("L")
    steps = np.abs(np.diff(np.asarray(grey)[::8].astype(np.int16), axis=1))
    noise = float(np.median(steps)) / 0.954 if steps.size else 0.0  # the median step between normal values
    blocks = np.asarray(grey.reduce(8), dtype=np.float32)
    return bool((np.abs(blocks - np.median(blocks)) > max(16, 5 * noise / 8)).mean() < 1e-4)


@contextmanager
def large_allowed() -> Iterator[None]:
    """Keep Pillow from warning of a bomb: it does so from half our limit on, and the limit is enforced here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def begins_as(start: bytes) -> str:
    """Return the format that a file's first bytes announce, by Pillow's name or "PDF", or an empty string."""
    if start[:1024].lstrip().startswith(b"%PDF"):
        return "PDF"
    return next((name for name, begins in _BEGINS.items() if begins.match(start)), "")


@cache
def decodable(kind: str) -> str:
    """Return a format's name once Pillow can open it.

    Raises:
        PageError: no such format, or the package for it is not installed.
    """
    if module := _READ.get(kind, {}).get("module"):
        try:
            import_module(module)
            if kind == "HEIF":
                import_module(module).register_heif_opener()
        except ImportError as error:
            package = _READ[kind]["package"]
            raise PageError(f"{kind} is read with {package}; install it (pip install {package})") from error
    if kind not in _READ:
        raise PageError(f"not a {KINDS} file; export it as PNG or remove it")
    return kind


def unread(name: str | PurePath) -> str:
    """Return why a file of this name is not read though it holds pages, with what to do; empty where it may be."""
    suffix = PurePath(name).suffix.lower()
    if suffix in UNREAD:
        file = PurePath(name)
        words = _CONVERTED[suffix].replace("{}.", f"{quote(file.stem)}.").replace("{}", quote(file.name))
        return f"{name}: {suffix[1:].upper()} is not read here; turn it into what is ({words})"
    try:
        decodable(next((kind for kind, one in _READ.items() if suffix[1:] in one["ends"]), "PNG"))
    except PageError as error:
        return f"{name}: {error}"
    return ""


def to_rgb(path: str | Path, image: Image.Image, tags: dict[int, Any]) -> Image.Image:
    """Return a loaded image in mode RGB; `path` names it in errors, `tags` are a TIFF's own.

    Raises:
        PageError: its pixels have no defined black and white.
    """
    if image.mode.startswith("I"):
        return _from_16_bit(path, image, tags).convert("RGB")
    if image.mode in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa") and image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    if image.mode in ("1", "L", "RGB", "P", "CMYK", "YCbCr", "HSV"):
        return image.convert("RGB")
    raise PageError(f"{path}: pixels of mode {image.mode} have no defined black and white; export it as 8-bit PNG")


def _from_16_bit(path: str | Path, image: Image.Image, tags: dict[int, Any]) -> Image.Image:
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


def _read(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        why = str(error.strerror).lower()
        raise PageError(f"{path}: cannot be read ({why}); check the name, and that you may read it") from error
    if not data:
        raise PageError(f"{path}: the file is empty (0 bytes); export it again or remove it")
    if begins_as(data) == "PDF":
        raise PageError(f"{path}: is a PDF, not an image; load_pages gives each of its pages")
    return data


def _identify(path: Path, data: bytes) -> Image.Image:
    try:
        with large_allowed():
            return Image.open(io.BytesIO(data), formats=(decodable(begins_as(data)),))
    except PageError as error:
        raise PageError(_header_problem(path, data, error)) from error
    except Image.DecompressionBombError as error:
        raise PageError(f"{path}: {error}; scale the page down before it is read") from error
    except DECODER_ERRORS as error:
        raise PageError(_header_problem(path, data, error)) from error


def _header_problem(path: Path, data: bytes, error: Exception) -> str:
    if begins_as(data) and not isinstance(error, PageError):
        name = begins_as(data)
        return _decoding_problem(path, name, "its header is incomplete" if "BytesIO" in str(error) else error)
    start = data[:4096]
    if all(byte >= 32 or byte in b"\t\r\n\f" for byte in start):
        beginning = start.decode("utf-8", "replace").strip()[:40]
        return f"{path}: is text, not an image (it begins with {beginning!r}); give a {KINDS} file or remove it"
    return unread(path) or f"{path}: {error}"


def _decoding_problem(path: Path, name: str, error: Exception | str) -> str:
    return f"{path}: truncated or damaged {name} ({error}); export it again or remove it"
