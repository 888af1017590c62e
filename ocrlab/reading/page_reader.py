"""What every reader of pages can do, whether its model is in this process or on a server."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, overload

from ocrlab.machine.describe import choose_device, choose_dtype
from ocrlab.machine.quarantine import reason_against
from ocrlab.machine.worker import Closes
from ocrlab.pages import Page
from ocrlab.reading.family import Builder
from ocrlab.reading.inputs import Prepared, in_batches, page_tokens, prepare
from ocrlab.reading.result import Reading
from ocrlab.reading.settings import Settings, is_endpoint


class PageReader(Closes):
    """A model with its settings in force.

    `actual` holds every setting as read back, `load_s` the seconds from nothing to confirmed, `weight_bytes` the
    parameters' size, None where only a server knows it. `followers` are called as the text comes.
    """

    settings: Settings
    device: str
    builder: Builder
    actual: dict[str, Any]
    load_s: float
    weight_bytes: int | None
    followers: dict[str, Any]

    @abstractmethod
    def apply(self, settings: Settings) -> None:
        """Put other settings in force: any but those that decide the load."""

    @abstractmethod
    def read_prepared(self, batch: Prepared) -> list[Reading]:
        """Return the readings of a batch that `prepare` made ready for the settings in force."""

    @overload
    def read(self, pages: Page) -> Reading: ...
    @overload
    def read(self, pages: Sequence[Page]) -> list[Reading]: ...
    def read(self, pages: Page | Sequence[Page]) -> Reading | list[Reading]:
        """Return the reading of a page, or of each page in the order given; a bad page is a reading that says so."""
        if isinstance(pages, Page):
            return next(self.stream([pages]))
        readings = {reading.page: reading for reading in self.stream(pages)}
        return [readings[page.id] for page in pages]

    def stream(self, pages: Sequence[Page]) -> Iterator[Reading]:
        """Yield readings as batches end; with a batch size above one, pages of like size together, the largest first.

        So what does not fit shows at once, and a static cache need not grow (and its step not be compiled) again.
        """
        size = self.settings.batch_size
        sizes = [self.size_of(page) for page in pages] if 1 < size < len(pages) else None
        for batch in in_batches(pages, size, sizes):
            yield from self.read_prepared(prepare(self.builder, self.settings.prompt, batch))

    def size_of(self, page: Page) -> int:
        """Return a page's image tokens under the settings in force, from its header alone; 0 where that fails."""
        return page_tokens(page, self.builder.count, self.builder.max_pixels)


def held_in_quarantine(settings: Settings) -> str | None:
    """Return why the canary holds a setting on this machine, or None; experiments refuse one that it holds."""
    if is_endpoint(settings.model_id):
        return None  # its kernels are not this machine's
    try:
        dtype = choose_dtype(settings.dtype, choose_device(settings.device).value).value
    except ValueError:
        return None  # no such device: loading says so
    return reason_against((dtype, settings.attn_implementation, settings.sdpa_kernel))
