"""Several readers on one queue of batches: a worker a device, and what one of them drops another one reads.

Lengths of answers vary too much for pages to be dealt out beforehand. A batch whose worker died is read page by page,
so that only the page at fault is lost; the batches that it had ahead go back to the queue.
"""

from __future__ import annotations

import os
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from queue import SimpleQueue
from typing import Any, Self

from ocrlab.machine.worker import Outcome, Worker
from ocrlab.pages import Page
from ocrlab.reading.lane import Told, open_lane, read_alone, read_lane
from ocrlab.reading.result import Reading
from ocrlab.reading.served import Refused, ending, opened
from ocrlab.reading.settings import Settings

DEATHS_ALONE = 2
"""How often a page may end its process while it is read alone before it is left out."""
DEATHS_IN_A_ROW = 7
"""How often a worker may die without a reading in between before it is given up; one bad page costs three."""


class FleetDown(RuntimeError):
    """No worker is left; pages that were not read can be read by the same command again."""


class Fleet:
    """Reads pages with one worker a device; `stream` yields readings as they come, `stop` ends early.

    `devices` are settings of that name, one a worker, and may repeat. `processes` prepare pages for each worker ahead
    of time. `page_timeout_s` bounds a batch. `fewer_pixels` allows a page that does not fit to be read at a half, then
    a quarter of its pixels. `troubles` says in words which workers died or were lost, and why.
    """

    def __init__(
        self, settings: Settings, devices: Sequence[str], *, processes: int = 1, page_timeout_s: float | None = None,
        fewer_pixels: bool = False,
    ) -> None:  # fmt: skip
        self.page_timeout_s, self.processes, self.fewer_pixels = page_timeout_s, processes, fewer_pixels
        self.troubles: list[str] = []
        on_cpu = [device for device in devices if device in {"cpu", "auto"}]
        threads = max(1, (os.cpu_count() or 1) // len(on_cpu)) if len(on_cpu) > 1 else None
        self.lanes = [Lane(self, replace(settings, device=device), threads) for device in devices]
        # Linux ends a worker with the thread that started it, so these threads stay as long as the fleet.
        self._threads = ThreadPoolExecutor(len(devices))
        self._told: SimpleQueue[Told | Lane] = SimpleQueue()
        self._todo = _Todo()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def workers(self) -> int:
        """How many workers there are."""
        return len(self.lanes)

    @property
    def pids(self) -> list[int]:
        """The workers' process ids, of those that are running."""
        return [lane.worker.pid for lane in self.lanes if lane.worker.pid is not None]

    def warm(self) -> None:
        """Begin to load the models, while the caller still does something else."""
        for lane in self.lanes:
            self._threads.submit(lane.ready)

    def stream(self, batches: Iterable[Sequence[Page]]) -> Iterator[Told]:
        """Yield readings, with what was in force and the seconds of loading, as batches end.

        Raises:
            Refused: the settings cannot be put in force on any of the devices.
            FleetDown: all workers died again and again; what was yielded is good.
        """
        self._todo = _Todo(batches)
        for lane in self.lanes:
            self._threads.submit(lane.run)
        busy = len(self.lanes)
        while busy:
            told = self._told.get()
            if isinstance(told, Lane):
                busy -= 1
            else:
                yield told
        refusals = [lane.refused for lane in self.lanes]
        if all(refusals) and refusals[0]:
            raise refusals[0]
        if left := 0 if self._todo.stopped else self._todo.pages_left():
            words = "; ".join(dict.fromkeys(self.troubles))
            raise FleetDown(f"no worker is left and {left} pages are not read ({words}); the same command goes on")

    def stop(self) -> None:
        """Hand out nothing more; each worker finishes the batch in hand, and `stream` ends."""
        self._todo.stop()
        for lane in self.lanes:
            lane.worker.stop(patience_s=self.page_timeout_s or 86_400)

    def close(self) -> None:
        """End all processes at once."""
        self._todo.stop()
        for lane in self.lanes:
            lane.worker.stop(patience_s=0)
        self._threads.shutdown()
        for lane in self.lanes:
            lane.worker.close()

    def tell(self, told: Told | Lane) -> None:
        """Take readings from a lane, or the lane itself when it has ended."""
        self._told.put(told)


class _Todo:
    """What is to be read, shared by the lanes: batches, and pages that must be read alone."""

    def __init__(self, batches: Iterable[Sequence[Page]] = ()) -> None:
        self._batches = deque(batches)
        self._alone: deque[Page] = deque()
        self._out = 0
        self._deaths: Counter[str] = Counter()
        self._changed = threading.Condition()
        self.stopped = False

    def wait(self) -> str:
        """Return what there is to do, `batch` or `alone`, or nothing once all is read; waits while others may drop."""
        with self._changed:
            while not self.stopped and not self._alone and not self._batches and self._out:
                self._changed.wait()
            return "" if self.stopped else "alone" if self._alone else "batch" if self._batches else ""

    def take(self) -> Sequence[Page] | None:
        """Return the next batch; None where there is none, or pages to be read alone come first."""
        with self._changed:
            if self.stopped or self._alone or not self._batches:
                return None
            self._out += 1
            return self._batches.popleft()

    def take_alone(self) -> Page | None:
        """Return a page to be read alone, or None where another lane was quicker."""
        with self._changed:
            if self.stopped or not self._alone:
                return None
            self._out += 1
            return self._alone.popleft()

    def done(self) -> None:
        """Note that something taken was read."""
        with self._changed:
            self._out -= 1
            self._changed.notify_all()

    def drop(self, suspects: Iterable[Page], innocent: Sequence[Sequence[Page]], taken: int) -> None:
        """Take back what a dead worker had in hand."""
        with self._changed:
            self._alone.extend(suspects)
            self._batches.extendleft(reversed(innocent))
            self._out -= taken
            self._changed.notify_all()

    def deaths_at(self, page: Page) -> int:
        """Count one more death at a page that was read alone; return how many there were."""
        with self._changed:
            self._deaths[page.id] += 1
            return self._deaths[page.id]

    def pages_left(self) -> int:
        """Return how many pages nobody has taken."""
        return len(self._alone) + sum(map(len, self._batches))

    def stop(self) -> None:
        """Give nothing more."""
        with self._changed:
            self.stopped = True
            self._changed.notify_all()


class Lane:
    """One worker and the thread that feeds it."""

    def __init__(self, fleet: Fleet, settings: Settings, threads: int | None) -> None:
        self.fleet, self.settings, self.threads = fleet, settings, threads
        self.worker = Worker()
        self.refused: Refused | None = None
        self.load: tuple[dict[str, Any], float] = ({}, 0.0)
        self._in_a_row = 0
        self._opening = threading.Lock()

    def run(self) -> None:
        """Read from the queue until there is nothing left, or the worker is lost; then tell the lane itself."""
        try:
            while (what := self.fleet._todo.wait()) and self.ready():
                if what == "alone":
                    self._alone()
                else:
                    self._batches()
        finally:
            self.fleet.tell(self)

    def ready(self) -> bool:
        """Have a living worker with its model loaded; False gives the lane up."""
        with self._opening:
            return bool(self.worker.alive and self.load[0]) or (self.refused is None and self._open())

    def _open(self) -> bool:
        """Load the model; where it once was, a process that dies over it is one more death, and not the end."""
        while self._in_a_row < DEATHS_IN_A_ROW:
            outcome = self.worker.call(open_lane, self.settings, self.threads)
            if outcome.fatal and outcome.kind != "stopped" and self.load[0]:
                self._note(outcome)
                continue
            try:
                self.load = opened(outcome)
            except Refused as error:
                self.fleet.troubles.append(f"{self.settings.device}: {error}")
                if not self.load[0]:
                    self.refused = error
                return False
            return True
        return False

    def _batches(self) -> None:
        """Feed the worker until there is no batch or it dies."""
        todo, handed = self.fleet._todo, deque[Sequence[Page]]()
        unread: set[str] = set()

        def give(_: str) -> Sequence[Page] | None:
            if (batch := todo.take()) is not None:
                handed.append(batch)
            return batch

        def take(told: Told) -> None:
            self._in_a_row = 0
            self.fleet.tell(told)
            if not unread:
                unread.update(page.id for page in handed[0])
            unread.difference_update(reading.page for reading in told[0])
            if not unread:
                handed.popleft()
                todo.done()

        fleet = self.fleet
        outcome = self.worker.call(
            read_lane, self.settings, fleet.processes, fleet.fewer_pixels, silence_s=fleet.page_timeout_s,
            on_question=give, on_progress=take,
        )  # fmt: skip
        if outcome.ok and not handed:
            return
        self._note(outcome)
        # An exception comes from preparing, which was ahead: any of the batches may be at fault.
        at_fault = 1 if outcome.fatal else len(handed)
        batches = list(handed)
        first = [page for page in batches[0] if not unread or page.id in unread] if batches else []
        suspects = [*first, *(page for batch in batches[1:at_fault] for page in batch)]
        todo.drop(suspects, batches[at_fault:], len(batches))

    def _alone(self) -> None:
        todo, fleet = self.fleet._todo, self.fleet
        if (page := todo.take_alone()) is None:
            return
        heard: list[Told] = []
        outcome = self.worker.call(
            read_alone, self.settings, page, fleet.fewer_pixels, timeout_s=fleet.page_timeout_s,
            on_progress=heard.append,
        )  # fmt: skip
        if heard:
            self._in_a_row = 0
        else:
            self._note(outcome)
            if outcome.fatal and todo.deaths_at(page) < DEATHS_ALONE:
                todo.drop([page], [], 1)
                return
            words = "; twice at this page, each time in a fresh process" if outcome.fatal else ""
            heard.append(([Reading(page.id, "", ending(outcome), outcome.reason + words)], *self.load))
        fleet.tell(heard[0])
        todo.done()

    def _note(self, outcome: Outcome) -> None:
        if not outcome.ok and outcome.kind != "stopped":
            self._in_a_row += 1
            self.fleet.troubles.append(f"{self.settings.device}: {outcome.reason}")
