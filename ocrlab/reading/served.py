"""A reader in a process of its own: a crash, an assert or a time-out costs one page, and the sweep goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

from ocrlab.machine.worker import Outcome, Worker
from ocrlab.pages import Page
from ocrlab.reading.outcome import Reading, status_of
from ocrlab.reading.reader import Reader, in_batches, open_reader, same_load
from ocrlab.reading.settings import Settings
from ocrlab.scoring.outcomes import Status

DEATHS: dict[str, Status] = {"oom": "oom", "timeout": "timeout"}


def ending(outcome: Outcome) -> Status:
    """Return the status that a call which gave no value stands for: how its process ended, or an exception in it."""
    return DEATHS.get(outcome.kind, "crashed" if outcome.fatal else "error")


_reader: Reader | None = None  # in the worker's process: the model that stays for the next page


class Refused(RuntimeError):
    """A setting that cannot be put in force; `status` and the message go into its rows."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class ServedReader:
    """The reader's interface over a worker: `apply` settings, `stream` pages; the model stays loaded between pages.

    `page_timeout_s` bounds each batch, `memory_limit_bytes` what the process may hold beyond its start. A page at
    which the process dies is tried once more in a fresh one; at the second death it becomes a reading that says so.
    """

    def __init__(
        self, settings: Settings, *, page_timeout_s: float | None = None, memory_limit_bytes: int | None = None
    ) -> None:  # fmt: skip
        self.page_timeout_s = page_timeout_s
        self._worker = Worker(memory_limit_bytes)
        try:
            self.apply(settings)
        except Refused:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process, and with it everything the model held."""
        self._worker.close()

    def apply(self, settings: Settings) -> None:
        """Put settings in force, loading a model only where they need another one.

        Raises:
            Refused: they cannot be put in force here.
        """
        self.settings = settings
        self.actual, self.load_s = opened(self._worker.call(open_here, settings))

    def stream(self, pages: Sequence[Page]) -> Iterator[Reading]:
        """Yield readings as batches end, in the reader's own order: of like size together, the largest first."""
        size = self.settings.batch_size
        sizes = self._call(_sizes, list(pages)).value if 1 < size < len(pages) else None
        for batch in in_batches(pages, size, sizes):  # where sizes failed as they come: slower, with the same texts
            yield from self._read(list(batch))

    def _read(self, batch: list[Page]) -> list[Reading]:
        outcome = self._call(_read, batch)
        if not outcome.ok and len(batch) > 1:  # each alone, so that only the page at fault is lost
            return [reading for page in batch for reading in self._read([page])]
        words = ""
        if outcome.fatal:
            outcome, words = self._call(_read, batch), "; twice at this page, each time in a fresh process"
        if outcome.ok:
            return list(outcome.value)
        return [Reading(batch[0].id, "", ending(outcome), outcome.reason + words)]

    def _call(self, function: Callable[[list[Page]], Any], pages: list[Page]) -> Outcome:
        if self._worker.pid is None:
            self.apply(self.settings)
        return self._worker.call(function, pages, timeout_s=self.page_timeout_s)


def opened(outcome: Outcome) -> tuple[dict[str, Any], float]:
    """Return what is in force and the seconds of loading, from a call of `open_here`.

    Raises:
        Refused: the settings could not be put in force, or the process died over them.
    """
    if not outcome.ok:
        raise Refused(DEATHS.get(outcome.kind, "crashed"), f"loading: {outcome.reason}")
    if outcome.value["refused"]:
        raise Refused(*outcome.value["refused"])
    return outcome.value["actual"], outcome.value["load_s"]


def reader_here(settings: Settings) -> Reader:
    """Return this process's reader with settings in force; a model is loaded only where they need another one."""
    global _reader
    if _reader is not None and same_load(_reader.settings, settings):
        _reader.apply(settings)
    else:
        if _reader is not None:
            _reader.close()
            _reader = None
        _reader = open_reader(settings)
    return _reader


def open_here(settings: Settings) -> dict[str, Any]:
    """Put settings in force in this process; return `refused` (status and reason, or None), `actual` and `load_s`."""
    try:
        reader = reader_here(settings)
    except (RuntimeError, ValueError, MemoryError) as error:
        return {"refused": status_of(error)}
    return {"refused": None, "actual": reader.actual, "load_s": reader.load_s}


def _read(pages: list[Page]) -> list[Reading]:
    assert _reader is not None
    return _reader.read(pages)


def _sizes(pages: list[Page]) -> list[int]:
    assert _reader is not None
    return [_reader.size_of(page) for page in pages]
