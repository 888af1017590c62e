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
from typing import Any, Protocol

from PIL import Image

from ocrlab.pages import Page, page_size
from ocrlab.reading.families import Family
from ocrlab.reading.result import Reading, failed


@dataclass(frozen=True)
class Inputs:
    """What a reader takes for a batch, by name, and each page's counts of image tokens and of all prompt tokens."""

    tensors: dict[str, Any]
    image_tokens: tuple[int, ...]
    prompt_tokens: tuple[int, ...]


class Builder(Protocol):
    """Turns pages into what a reader takes, within its pixel limits."""

    @property
    def cell_pixels(self) -> int:
        """Pixels of the resized image behind one image token."""

    def limits(self) -> tuple[int, int]:
        """Return the pixel limits in force: (min_pixels, max_pixels) of the resized image."""

    def count(self, width: int, height: int) -> int:
        """Return how many image tokens an image of this size in pixels will take."""

    def build(self, images: list[Image.Image], prompt: str) -> Inputs:
        """Return what the reader takes for a batch."""


class InputBuilder:
    """The builder for a model in this process: a family with a checkpoint's tokenizer and image processor."""

    def __init__(self, family: Family, tokenizer: Any, image_processor: Any) -> None:
        self.family, self.tokenizer, self.image_processor = family, tokenizer, image_processor
        self.image_token_id = tokenizer.convert_tokens_to_ids(family.image_token)
        self._own_limits = family.limits(image_processor)
        tokenizer.padding_side = "left"  # decoding appends on the right (transformers#36100)

    @property
    def cell_pixels(self) -> int:
        """Pixels of the resized image behind one image token."""
        return self.family.cell_side(self.image_processor) ** 2

    def limits(self) -> tuple[int, int]:
        """Return the pixel limits in force: (min_pixels, max_pixels) of the resized image."""
        return self.family.limits(self.image_processor)

    def set_limits(self, low: int | None, high: int | None) -> None:
        """Put pixel limits in force; None is the checkpoint's own."""
        own_low, own_high = self._own_limits
        self.family.set_limits(self.image_processor, low or own_low, high or own_high)

    def count(self, width: int, height: int) -> int:
        """Return how many image tokens an image of this size in pixels will take."""
        return self.family.count(self.image_processor, width, height)

    def text(self, prompt: str) -> str:
        """Return the family's text for one image and a prompt, ready for the answer.

        Raises:
            ValueError: the prompt itself holds the image token.
        """
        text = self.family.text(self.tokenizer, prompt)
        if text.count(self.family.image_token) != 1:
            raise ValueError(f"prompt={prompt!r} must not hold {self.family.image_token}; reword it")
        return text

    def build(self, images: list[Image.Image], prompt: str) -> Inputs:
        """Return the tensors for a batch, padded on the left, all on CPU.

        `input_ids` and `attention_mask` are (batch, tokens); the others are the image processor's and the family's.
        """
        processed = self.image_processor(images=images, return_tensors="pt")
        counts = tuple(self.count(*image.size) for image in images)
        template, token = self.text(prompt), self.family.image_token
        tokens = self.tokenizer([template.replace(token, token * n) for n in counts], padding=True, return_tensors="pt")
        ids, mask = tokens["input_ids"], tokens["attention_mask"]
        tensors = {"input_ids": ids, "attention_mask": mask, **processed}
        tensors |= self.family.more_tensors(ids, self.image_token_id)
        return Inputs(tensors, counts, tuple(int(n) for n in mask.sum(-1)))


def page_tokens(page: Page, count: Callable[[int, int], int]) -> int:
    """Return a page's image tokens from its header alone, as `count` gives them for width and height; 0: not known."""
    try:
        return count(*page_size(page))
    except (ValueError, OSError):
        return 0


def in_batches(pages: Sequence[Page], batch_size: int, sizes: Sequence[int] | None = None) -> list[Sequence[Page]]:
    """Return the pages in batches as they come, or by `sizes` (image tokens): like together, the largest first."""
    if sizes is not None:
        by_size = sorted(zip(sizes, pages, strict=True), key=lambda pair: pair[0], reverse=True)
        pages = [page for _, page in by_size]
    return [pages[start : start + batch_size] for start in range(0, len(pages), batch_size)]


@dataclass(frozen=True)
class Prepared:
    """A batch's pages and their tensors on the CPU; pages that could not be opened are `failures` already.

    `prepare_s` is the work of opening and building, `wait_s` what the model waited for it: the same where both are
    done by one process, near zero where it was done ahead.
    """

    pages: tuple[Page, ...]
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
            images[page] = page.open()
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
    seconds = time.perf_counter() - started
    return Prepared(tuple(images), inputs, tuple(failures), seconds, seconds)


class Background:
    """Makes batches ready in `processes` processes of their own, which stay from one stream to the next; 0: here.

    The processes hold `builder` and `prompt` as they were at the first stream: `serves` tells whether they still are.
    """

    def __init__(self, builder: Builder, prompt: str, processes: int) -> None:
        self._source = _Source(builder, prompt)
        self._held = (builder, builder.limits(), prompt, processes)
        self._batches = _Batches()
        self._loader: Any = self._load(processes) if processes else None

    def serves(self, builder: Builder, prompt: str, processes: int) -> bool:
        """Return whether batches made ready here are what these would give."""
        return self._held == (builder, builder.limits(), prompt, processes)

    def stream(self, batches: Iterable[Sequence[Page]]) -> Iterator[Prepared]:
        """Yield the batches in order, made ready while the caller works; they are asked for two a process ahead.

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
        source: Any = self._source
        return DataLoader(
            source,
            batch_size=None,
            sampler=self._batches,
            num_workers=processes,
            prefetch_factor=2,
            persistent_workers=True,
            # A worker was spawned and would spawn in its turn, which imports torch again: seconds. No GPU is needed.
            multiprocessing_context="fork" if sys.platform == "linux" else None,
        )


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
