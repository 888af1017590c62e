"""Pages whose opening plants a fault that shows only with time, in the process that reads them."""

from __future__ import annotations

import os
from collections.abc import Sequence

from PIL import Image

from ocrlab.pages import Page
from tests.experiments.faults import turn_heads

_kept: list[bytearray] = []
_opened = 0


class Leak(Page):
    """Keeps a megabyte each time, written to so that it is held; from the ninth time on, pages are misread."""

    def open(self, *_: object) -> Image.Image:
        global _opened
        _kept.append(bytearray(os.urandom(1)) * 1_000_000)
        _opened += 1
        if _opened == 9:
            turn_heads()
        return super().open()


class Death(Page):
    """Ends its process the fifth time; the next process dies later than the soak lasts."""

    def open(self, *_: object) -> Image.Image:
        global _opened
        _opened += 1
        if _opened == 5:
            os.abort()
        return super().open()


def planted(kind: type[Page], pages: Sequence[Page]) -> list[Page]:
    return [kind(**vars(page)) for page in pages]
