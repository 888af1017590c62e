"""What one of several readers does in its own process: take a batch, read it, tell the readings, take the next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from ocrlab.machine.worker_process import ask, report, stop_asked
from ocrlab.pages import Page
from ocrlab.reading.outcome import Reading
from ocrlab.reading.prepared import Background, Prepared
from ocrlab.reading.reader import Reader
from ocrlab.reading.served import open_here, reader_here
from ocrlab.reading.settings import Settings

NEXT = "next batch"
FEWER_PIXELS = (2, 4)
"""By what a page's pixels are divided, one after the other, where it does not fit and fewer are allowed."""

_background: Background | None = None  # in the worker's process: what prepares, for the next call

Told = tuple[list[Reading], dict[str, Any], float]
"""Readings, every setting that was in force for them, and the seconds that loading took."""


def open_lane(settings: Settings, threads: int | None) -> dict[str, Any]:
    """Load what the settings need here, with so many threads on a CPU; return `refused` in words, or what is in force.

    Runs in a worker.
    """
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    return open_here(settings)


def read_lane(settings: Settings, processes: int, fewer_pixels: bool) -> None:
    """Read what the caller hands out until it has no more, telling each batch's readings; runs in a worker."""
    reader = reader_here(settings)

    def batches() -> Iterator[Sequence[Page]]:
        while (batch := ask(NEXT)) is not None:
            yield batch

    for prepared in _prepared(reader, processes, batches()):
        _tell(reader, settings, reader.read_prepared(prepared), prepared.pages, fewer_pixels)
        if stop_asked():
            return


def _prepared(reader: Reader, processes: int, batches: Iterator[Sequence[Page]]) -> Iterator[Prepared]:
    """Yield batches made ready by the processes of the last call here, where it ended well and nothing changed."""
    global _background
    held = (reader.builder, reader.settings.prompt, processes)
    background, _background = _background, None
    if background is None or not background.serves(*held):
        background = Background(*held)
    yield from background.stream(batches)
    _background = background


def read_alone(settings: Settings, page: Page, fewer_pixels: bool) -> None:
    """Read one page with nothing else under way, and tell its reading; runs in a worker."""
    reader = reader_here(settings)
    _tell(reader, settings, list(reader.stream([page])), [page], fewer_pixels)


def _tell(
    reader: Reader, settings: Settings, readings: list[Reading], pages: Sequence[Page], fewer_pixels: bool
) -> None:
    told = [reading for reading in readings if not (fewer_pixels and reading.status == "oom")]
    if told:
        report((told, reader.actual, reader.load_s))
    by_id = {page.id: page for page in pages}
    for reading in readings:
        if reading not in told:
            report(_smaller(reader, settings, by_id[reading.page], reading))
            reader.apply(settings)


def _smaller(reader: Reader, settings: Settings, page: Page, reading: Reading) -> Told:
    """Read a page that did not fit again at fewer pixels; the settings in force then say how many."""
    most = min(reader.builder.limits()[1], reader.size_of(page) * reader.builder.cell_pixels)
    for part in FEWER_PIXELS:
        fewer = max(most // part, settings.min_pixels or 1)
        reader.apply(replace(settings, max_pixels=fewer))
        again = reader.read(page)
        if again.status != "oom":
            note = f"out of memory at {most} pixels, read at no more than {fewer}"
            return [replace(again, retried=note)], reader.actual, reader.load_s
    return [reading], reader.actual, reader.load_s
