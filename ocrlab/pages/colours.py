"""Any image that Pillow opened as 8-bit RGB: transparency on white, 16 bits scaled, black where the file says black."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ocrlab.pages.errors import PageError


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
