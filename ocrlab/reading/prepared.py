"""Batches made ready for `generate`: pages opened and turned into tensors, here or ahead of time in the background."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ocrlab.pages import Page
from ocrlab.reading.inputs import InputBuilder, Inputs
from ocrlab.reading.outcome import Reading, failed


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


def prepare(builder: InputBuilder, prompt: str, pages: Sequence[Page]) -> Prepared:
    """Return the batch made ready; a page that cannot be opened or built costs itself only."""
    started = time.perf_counter()
    images, failures = {}, []
    for page in pages:
        try:
            images[page] = page.open()
        except (ValueError, OSError) as error:
            failures.append(failed(page.id, error))
    try:
        inputs = builder.build(list(images.values()), prompt) if images else None
    except (ValueError, RuntimeError, MemoryError) as error:
        if len(images) == 1:
            return _ended(started, (), None, [*failures, failed(next(iter(images)).id, error)])
        # One image spoils the batch: find it.
        alone = {page: prepare(builder, prompt, [page]) for page in images}
        failures += [failure for one in alone.values() for failure in one.failures]
        images = {page: image for page, image in images.items() if alone[page].pages}
        inputs = builder.build(list(images.values()), prompt) if images else None
    return _ended(started, tuple(images), inputs, failures)


def _ended(started: float, pages: tuple[Page, ...], inputs: Inputs | None, failures: list[Reading]) -> Prepared:
    seconds = time.perf_counter() - started
    return Prepared(pages, inputs, tuple(failures), seconds, seconds)


class Background:
    """Makes batches ready in `processes` processes of their own, which stay from one stream to the next; 0: here.

    The processes hold `builder` and `prompt` as they were at the first stream: `serves` tells whether they still are.
    """

    def __init__(self, builder: InputBuilder, prompt: str, processes: int) -> None:
        self._source = _Source(builder, prompt)
        self._held = self._key(builder, prompt, processes)
        self._batches = _Batches()
        self._loader: Any = self._load(processes) if processes else None

    def serves(self, builder: InputBuilder, prompt: str, processes: int) -> bool:
        """Return whether batches made ready here are what these would give."""
        return self._held == self._key(builder, prompt, processes)

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
        # A worker was spawned and would spawn in its turn, which imports torch again: seconds. Preparing needs no GPU.
        context = "fork" if sys.platform == "linux" else None
        source: Any = self._source
        return DataLoader(
            source, batch_size=None, sampler=self._batches, num_workers=processes, prefetch_factor=2,
            persistent_workers=True, multiprocessing_context=context,
        )  # fmt: skip

    @staticmethod
    def _key(builder: InputBuilder, prompt: str, processes: int) -> tuple[Any, ...]:
        return builder, builder.limits(), prompt, processes


class _Source:
    """What the background processes hold: the way from a batch of pages to its tensors."""

    def __init__(self, builder: InputBuilder, prompt: str) -> None:
        self.builder, self.prompt = builder, prompt

    def __getitem__(self, pages: Sequence[Page]) -> Prepared:
        return prepare(self.builder, self.prompt, pages)


class _Batches:
    """What the loader asks for batches: those of the stream that goes on."""

    source: Iterable[Sequence[Page]] = ()

    def __iter__(self) -> Iterator[Sequence[Page]]:
        return iter(self.source)
