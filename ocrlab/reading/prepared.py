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


def in_background(
    builder: InputBuilder, prompt: str, batches: Iterable[Sequence[Page]], processes: int
) -> Iterator[Prepared]:
    """Yield the batches in order, each made ready in one of `processes` processes while the caller works; 0: here.

    `batches` is asked for two batches a process ahead. A process that dies ends the iteration with a RuntimeError.
    """
    if processes == 0:
        yield from (prepare(builder, prompt, batch) for batch in batches)
        return
    from torch.utils.data import DataLoader

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # or tokenizers warns in every forked process
    source: Any = _Source(builder, prompt)
    loader = DataLoader(
        source, batch_size=None, sampler=batches, num_workers=processes, prefetch_factor=2,
        # A worker was spawned and would spawn in its turn, which imports torch again: seconds. Preparing needs no GPU.
        multiprocessing_context="fork" if sys.platform == "linux" else None,
    )  # fmt: skip
    waiting = time.perf_counter()
    for prepared in loader:
        yield replace(prepared, wait_s=time.perf_counter() - waiting)
        waiting = time.perf_counter()


class _Source:
    """What the background processes hold: the way from a batch of pages to its tensors."""

    def __init__(self, builder: InputBuilder, prompt: str) -> None:
        self.builder, self.prompt = builder, prompt

    def __getitem__(self, pages: Sequence[Page]) -> Prepared:
        return prepare(self.builder, self.prompt, pages)
