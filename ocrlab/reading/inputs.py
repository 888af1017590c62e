"""From pages and a prompt to the tensors that a model takes: batches made ready here, or ahead in other processes.

Built by hand because `AutoProcessor` insists on a video processor and so on torchvision; and so one image path gives
the same pixels on every machine.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import isqrt
from typing import Any, TypeVar

from PIL import Image

from ocrlab.pages import Page, page_size
from ocrlab.pages.images import is_blank
from ocrlab.reading.family import Builder, Inputs, resized
from ocrlab.reading.result import Reading, failed


def page_tokens(page: Page, count: Callable[[int, int], int], max_pixels: int | None) -> int:
    """Return a page's image tokens from its header alone, as `count` gives them for width and height; 0: not known."""
    try:
        return count(*page_size(page, max_pixels))
    except (ValueError, OSError):
        return 0


def open_for(builder: Builder, page: Page) -> Image.Image:
    """Return a page's image as a reader takes it: a PDF's is drawn once, at the size that its pixel limits keep.

    Where image tokens are not square cells, it is as large as the limits allow, and the image processor cuts it.
    Raises what `page.open` raises.
    """
    (low, high), side = builder.limits(), isqrt(builder.cell_pixels)
    side = side if side**2 == builder.cell_pixels else 1
    return page.open(builder.max_pixels, partial(resized, side=side, low=low, high=high))


_Item = TypeVar("_Item")


def in_batches(pages: Sequence[_Item], batch_size: int, sizes: Sequence[int] | None = None) -> list[Sequence[_Item]]:
    """Return pages, or jobs of pages, in batches as they come, or by `sizes` (image tokens): the largest first."""
    if sizes is not None:
        by_size = sorted(zip(sizes, pages, strict=True), key=lambda pair: pair[0], reverse=True)
        pages = [page for _, page in by_size]
    return [pages[start : start + batch_size] for start in range(0, len(pages), batch_size)]


@dataclass(frozen=True)
class Prepared:
    """A batch's pages and their tensors on the CPU; pages that could not be opened are `failures` already.

    `blank` says of each page whether its image shows nothing.

    `prepare_s` is the work of opening and building, `wait_s` what the model waited for it: the same where both are
    done by one process, near zero where it was done ahead.
    """

    pages: tuple[Page, ...]
    blank: tuple[bool, ...]
    inputs: Inputs | None
    failures: tuple[Reading, ...]
    prepare_s: float
    wait_s: float

    def costs(self, generate_s: float) -> dict[str, Any]:
        """Return what a page of the batch has cost once it was read in so many seconds."""
        pages = len(self.pages)
        return {
            "prepare_s": self.prepare_s,
            "wait_s": self.wait_s,
            "generate_s": generate_s,
            "page_s": (self.wait_s + generate_s) / pages,
            "batch_pages": pages,
        }


def prepare(builder: Builder, prompt: str, pages: Sequence[Page]) -> Prepared:
    """Return the batch made ready; a page that cannot be opened or built costs itself only."""
    started = time.perf_counter()
    images, failures = {}, []
    for page in pages:
        try:
            images[page] = open_for(builder, page)
        except (ValueError, OSError) as error:
            failures.append(failed(page.id, error))
    inputs = None
    try:
        inputs = builder.build(list(images.values()), prompt) if images else None
    except (ValueError, RuntimeError, MemoryError) as error:
        if len(images) == 1:
            failures += [failed(page.id, error) for page in images]
            images = {}
        else:  # one image spoils the batch: find it
            alone = {page: prepare(builder, prompt, [page]) for page in images}
            failures += [failure for one in alone.values() for failure in one.failures]
            images = {page: image for page, image in images.items() if alone[page].pages}
            inputs = builder.build(list(images.values()), prompt) if images else None
    blank = tuple(map(is_blank, images.values()))
    seconds = time.perf_counter() - started
    return Prepared(tuple(images), blank, inputs, tuple(failures), seconds, seconds)


class Background:
    """Makes batches ready in `processes` processes of their own, which stay from one stream to the next; 0: here.

    The processes hold `builder` and `prompt` as they were at the first stream: `serves` tells whether they still are.
    """

    def __init__(self, builder: Builder, prompt: str, processes: int) -> None:
        self._held = _held(builder, prompt, processes)
        self._source, self._batches = _Source(builder, prompt), _Batches()
        self._loader = self._load(processes) if processes else None

    def serves(self, builder: Builder, prompt: str, processes: int) -> bool:
        """Return whether batches made ready here are what these would give."""
        return self._held == _held(builder, prompt, processes)

    def stream(self, batches: Iterable[Sequence[Page]]) -> Iterator[Prepared]:
        """Yield the batches in order, made ready while the caller works; they are asked for two per process ahead.

        After a stream that did not end there is no other one. A process that dies ends it with a RuntimeError.
        """
        if self._loader is None:
            yield from map(self._source.__getitem__, batches)
            return
        self._batches.source = batches
        waiting = time.perf_counter()
        for prepared in self._loader:
            yield replace(prepared, wait_s=time.perf_counter() - waiting)
            waiting = time.perf_counter()

    def _load(self, processes: int) -> Any:
        from torch.utils.data import DataLoader

        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # or tokenizers warns in every forked process
        return DataLoader(
            self._source,  # type: ignore[arg-type]
            batch_size=None,
            sampler=self._batches,
            num_workers=processes,
            prefetch_factor=2,
            persistent_workers=True,
            # A worker was spawned and would spawn in its turn, which imports torch again: seconds. No GPU is needed.
            multiprocessing_context="fork" if sys.platform == "linux" else None,
        )


def _held(builder: Builder, *others: Any) -> tuple[Any, ...]:
    return builder, builder.limits(), builder.max_pixels, builder.system_prompt, *others


@dataclass
class _Source:
    """What the background processes hold: the way from a batch of pages to its tensors."""

    builder: Builder
    prompt: str

    def __getitem__(self, pages: Sequence[Page]) -> Prepared:
        return prepare(self.builder, self.prompt, pages)


class _Batches:
    """What the loader asks for batches: those of the stream that goes on."""

    source: Iterable[Sequence[Page]] = ()

    def __iter__(self) -> Iterator[Sequence[Page]]:
        return iter(self.source)
