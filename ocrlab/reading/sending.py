"""Pages made ready for a server: PNG, so nothing is lost on the way, within pixel limits that are kept here.

Limits are kept by Qwen2-VL's own rule before a page is sent. That works with every server, and its own resize then
finds nothing to do. The rule needs the side of an image token's area, which is learned from the server's token counts.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

from PIL import Image

from ocrlab.reading.inputs import Inputs

FACTORS = (16, 28, 32)
"""Sides in pixels of what one image token shows: the embedded reader's, Qwen2(.5)-VL's, Qwen3-VL's."""
TRIALS = ((320, 320), (640, 320))
"""Sizes in pixels of the blank images whose token counts tell the side."""
_ANY = 2**40  # pixels: no limit


class EndpointBuilder:
    """Turns pages into what is sent; `factor` is the side of an image token's area in pixels, None where not known."""

    def __init__(self, factor: int | None, min_pixels: int | None, max_pixels: int | None) -> None:
        self.factor, self.min_pixels, self.max_pixels = factor, min_pixels, max_pixels

    @property
    def cell_pixels(self) -> int:
        """Pixels of the resized image behind one image token; Qwen2-VL's where the server's is not known."""
        return (self.factor or 28) ** 2

    def limits(self) -> tuple[int, int]:
        """Return the pixel limits that are kept here; the server's own come on top."""
        return self.min_pixels or 1, self.max_pixels or _ANY

    def count(self, width: int, height: int) -> int:
        """Return about how many image tokens a page of this size will take; the server may have limits of its own."""
        low, high = self.limits()
        return max(1, min(max(width * height, low), high) // self.cell_pixels)

    def build(self, images: list[Image.Image], prompt: str) -> Inputs:
        """Return the pages as data URLs under `urls`, with the image tokens that they should take there.

        These are 0 where no limit was asked for: how many there are is then the server's to tell, as for the prompt.
        """
        fitted = [self.fit(image) for image in images]
        urls: Any = [data_url(image) for image in fitted]
        return Inputs({"urls": urls}, tuple(self._tokens(image) for image in fitted), (0,) * len(images))

    def _tokens(self, image: Image.Image) -> int:
        if self.factor is None or (self.min_pixels, self.max_pixels) == (None, None):
            return 0
        width, height = _resized(image.size, self.factor)
        return width * height // self.cell_pixels

    def fit(self, image: Image.Image) -> Image.Image:
        """Return the image within the limits that were asked for, resized once by Qwen2-VL's rule where it is not."""
        low, high = self.limits()
        if self.factor is None or (self.min_pixels, self.max_pixels) == (None, None):
            return image
        own, wanted = _resized(image.size, self.factor), _resized(image.size, self.factor, low, high)
        return image if own == wanted else image.resize(wanted, Image.Resampling.BICUBIC)


def data_url(image: Image.Image) -> str:
    """Return an image as a PNG in a data URL."""
    held = io.BytesIO()
    image.save(held, "PNG", compress_level=1)  # the way is short; time matters more than size
    return f"data:image/png;base64,{base64.b64encode(held.getvalue()).decode()}"


def _resized(size: tuple[int, int], factor: int, low: int = 1, high: int = _ANY) -> tuple[int, int]:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    height, width = smart_resize(size[1], size[0], factor, low, high)
    return width, height


def measured(told: Sequence[int | None]) -> tuple[int | None, int | None]:
    """Return the side of an image token's area and the text's tokens, or None for both, from the trials' counts."""
    if None in told:
        return None, None
    first, second = (int(n) for n in told if n is not None)
    for factor in FACTORS:
        one, two = (w * h // factor**2 for w, h in (_resized(size, factor) for size in TRIALS))
        if second - first == two - one and first > one:
            return factor, first - one
    return None, None
