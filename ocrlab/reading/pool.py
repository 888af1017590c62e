"""Isolated readers on one queue of batches: one for an experiment, one per device for a library.

Lengths of answers vary too much for pages to be dealt out beforehand. A batch whose process died is read page by page,
so that only the page at fault is lost; the batches that it had ahead go back to the queue.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import Any

from ocrlab.machine.worker import Closes, Outcome
from ocrlab.pages import Page
from ocrlab.reading.inputs import in_batches
from ocrlab.reading.isolated import IsolatedReader, PageResult, Refused, ending
from ocrlab.reading.loading import image_tokens_of
from ocrlab.reading.result import Reading
from ocrlab.reading.settings import Settings

#: How often a page may end its process while nothing else is read before it is left out.
DEATHS_AT_A_PAGE = 2
#: How often a process may die without a reading in between before it is given up; one bad page costs three at most.
DEATHS_IN_A_ROW = 7
_LOOK_EVERY_S = 0.2  # on Windows, Ctrl-C is seen only between two waits

Results = SimpleQueue[list[PageResult] | None]


class PoolDown(Refused):
    """No reader is left, and pages were not read; what was yielded is good."""


@dataclass
class _Batch:
    """Pages that are not read yet, by id. `alone`: with nothing else, after a death that they may have caused."""

    pages: dict[str, Page]
    alone: bool = False
    deaths: int = 0


class _Queue:
    """What is to be read, shared by the readers."""

    def __init__(self, batches: Iterable[Sequence[Page]] = ()) -> None:
        self.waiting = deque(_Batch({page.id: page for page in batch}) for batch in batches)
        self.stopped = False
        self._in_hand = 0
        self._changed = threading.Condition()

    def take(self, wait: bool) -> _Batch | None:
        """Return the next batch, or None: all is read, or, without `wait`, there is none to be read with others now."""
        with self._changed:
            if wait:  # another reader may still drop what it has in hand
                self._changed.wait_for(lambda: self.stopped or self.waiting or not self._in_hand)
            if self.stopped or not self.waiting or (self.waiting[0].alone and not wait):
                return None
            self._in_hand += 1
            return self.waiting.popleft()

    def end(self, taken: int, dropped: Sequence[_Batch] = ()) -> None:
        """Note that so many batches are no longer in hand, and take back what of them was not read."""
        with self._changed:
            self._in_hand -= taken
            self.waiting.extendleft(reversed(dropped))
            self._changed.notify_all()

    def stop(self) -> None:
        """Give nothing more."""
        self.stopped = True
        self.end(0)


class _Member(IsolatedReader):
    """A reader of the pool with the thread that feeds it: Linux ends a process with the thread that started it."""

    def __init__(self, device: str | None, **limits: Any) -> None:
        super().__init__(**limits)
        self.device, self.thread = device, ThreadPoolExecutor(1)

    def ask(self, settings: Settings) -> None:
        """Note the settings to be put in force with the next batch."""
        self.asked = replace(settings, device=self.device) if self.device else settings
        self.ever, self.deaths = False, 0
        self.refused: Refused | None = None


class ReaderPool(Closes):
    """Reads pages with one isolated reader per device; `stream` yields results as they come, `stop` ends early.

    `devices` are settings of that name, one a reader, and may repeat; by default there is one reader. `processes`
    prepare pages for each reader ahead of time. `fewer_pixels` allows a page that does not fit to be read at a half,
    then a quarter of its pixels. `limits` are those of an `IsolatedReader`. `troubles` says in words which processes
    died or were lost, and why.

    A page at which a process ends is tried once more in a fresh one; at the second death it becomes a reading that says
    so. A batch is read page by page first, so that only the page at fault is lost.
    """

    def __init__(
        self,
        settings: Settings,
        devices: Sequence[str] = (),
        *,
        processes: int = 0,
        fewer_pixels: bool = False,
        **limits: Any,
    ) -> None:
        self.processes, self.fewer_pixels = processes, fewer_pixels
        self.troubles: list[str] = []
        self.readers = [_Member(device, **limits) for device in devices or (None,)]
        on_cpu = [reader for reader in self.readers if reader.device in {"cpu", "auto"}]
        if len(on_cpu) > 1:
            for reader in on_cpu:
                reader.threads = max(1, (os.cpu_count() or 1) // len(on_cpu))
        self.workers = len(self.readers)
        self.apply(settings)
        self._queue = _Queue()

    def apply(self, settings: Settings) -> None:
        """Have other settings in force from the next page on; a model is loaded only where they need another one."""
        self.settings = settings
        for reader in self.readers:
            reader.ask(settings)

    def warm(self) -> None:
        """Begin to load the models, while the caller still does something else."""
        for reader in self.readers:
            reader.thread.submit(self._ready, reader)

    def read(self, pages: Sequence[Page]) -> Iterator[PageResult]:
        """Yield results of pages that are batched here, those of like size together; raises what `stream` raises."""
        size = self.settings.batch_size
        sizes = image_tokens_of(self.settings, pages) if 1 < size < len(pages) else None
        for results in self.stream(in_batches(pages, size, sizes)):
            yield from results

    def stream(self, batches: Iterable[Sequence[Page]]) -> Iterator[list[PageResult]]:
        """Yield the results of batches as they end.

        Raises:
            Refused: the settings cannot be put in force by any of the readers.
            PoolDown: all processes died again and again; what was yielded is good.
        """
        queue = self._queue = _Queue(batches)
        results: Results = SimpleQueue()
        runs = [reader.thread.submit(self._run, reader, queue, results) for reader in self.readers]
        busy = len(runs)
        while busy:
            try:
                found = results.get(timeout=_LOOK_EVERY_S)
            except Empty:
                continue
            if found is None:
                busy -= 1
            else:
                yield found
        for run in runs:
            run.result()
        if refused := next((r.refused for r in self.readers if all(one.refused for one in self.readers)), None):
            raise refused
        if not queue.stopped and (left := sum(len(batch.pages) for batch in queue.waiting)):
            words = "; ".join(dict.fromkeys(self.troubles))
            raise PoolDown("crashed", f"no reader is left and {left} pages are not read ({words})")

    def stop(self) -> None:
        """Hand out nothing more; each reader finishes the batch in hand, and `stream` ends."""
        self._queue.stop()
        for reader in self.readers:
            reader.stop(reader.page_timeout_s or 86_400)

    def close(self) -> None:
        """End all processes at once."""
        self._queue.stop()
        for reader in self.readers:
            reader.stop(0)
            reader.thread.shutdown()
            reader.close()

    def _ready(self, reader: _Member) -> bool:
        """Have a living process with the settings in force; one that had them may die over them and is tried again."""
        while reader.refused is None and reader.deaths < DEATHS_IN_A_ROW:
            if reader.worker.alive and reader.settings == reader.asked:
                return True
            try:
                reader.apply(reader.asked)
                reader.ever = True
            except Refused as error:
                self._note(reader, str(error))
                if not reader.ever or reader.worker.alive:
                    reader.refused = error
        return False

    def _note(self, reader: _Member, reason: str) -> None:
        reader.deaths += 1
        self.troubles.append(f"{reader.asked.device}: {reason}")

    def _run(self, reader: _Member, queue: _Queue, results: Results) -> None:
        """Read from the queue until there is nothing left, or the reader is lost."""
        try:
            while (batch := queue.take(wait=True)) is not None:
                if not self._ready(reader):
                    queue.end(1, [batch])
                    return
                self._read(reader, queue, results, batch)
        finally:
            results.put(None)

    def _read(self, reader: _Member, queue: _Queue, results: Results, first: _Batch) -> None:
        """Feed the reader, from a first batch on, until there is no other one or its process dies."""
        handed = deque([first])

        def more(_: Any) -> list[Page] | None:
            if first.alone or (batch := queue.take(wait=False)) is None:
                return None
            handed.append(batch)
            return list(batch.pages.values())

        def take(found: list[PageResult]) -> None:
            reader.deaths = 0
            results.put(found)
            for one in found:
                del handed[0].pages[one.reading.page]
            if not handed[0].pages:
                handed.popleft()
                queue.end(1)

        processes = 0 if first.alone else self.processes
        outcome = reader.read(list(first.pages.values()), take, more, processes, self.fewer_pixels)
        taken, again = len(handed), list(handed)  # a stop leaves what was handed out ahead
        if not outcome.ok and outcome.kind != "stopped":
            self._note(reader, outcome.reason)
            again = self._again(reader, results, again, outcome, ahead=bool(processes))
        queue.end(taken, again)

    def _again(
        self, reader: _Member, results: Results, handed: list[_Batch], outcome: Outcome, ahead: bool
    ) -> list[_Batch]:
        """Return what of the batches in hand is to be read again, those at fault page by page.

        An exception comes from preparing: where that is done `ahead`, any of the batches may be at fault.
        """
        fault, rest = (handed, []) if ahead and not outcome.fatal else (handed[:1], handed[1:])
        pages = [page for batch in fault for page in batch.pages.values()]
        known = len(pages) == 1 and (outcome.fatal or not ahead)
        deaths = fault[0].deaths + 1 if known else 0
        if known and not (outcome.fatal and deaths < DEATHS_AT_A_PAGE):
            status, reason = ending(outcome)
            reason += "; twice at this page, each time in a fresh process" if outcome.fatal else ""
            results.put([PageResult(Reading(pages[0].id, "", status, reason), reader.actual, reader.load_s)])
            return rest
        return [*(_Batch({page.id: page}, True, deaths) for page in pages), *rest]
