"""Read pages again and again in one process: does memory grow, does a text change, does anything fail?"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ocrlab import paths
from ocrlab.machine.describe import machine_name
from ocrlab.machine.worker import Worker
from ocrlab.pages import Page
from ocrlab.reading.outcome import Reading
from ocrlab.reading.served import Refused
from ocrlab.reading.settings import Settings
from ocrlab.study.attempt import attempt
from ocrlab.study.records import RecordFile, keep_findings, reading_record
from ocrlab.study.soak_tally import Tally
from ocrlab.study.soak_verdict import judge_soak
from ocrlab.study.soaking import Prepare, read_here
from ocrlab.study.store import Store, plan_jobs

Tell = Callable[[dict[str, Any]], None]
_LINES = 30  # of a soak of half an hour or less; a longer one has a line a minute


def run_soak(
    settings: Settings, pages: Sequence[Page], *, minutes: float, count: int = 0, folder: Path | None = None,
    prepare: Prepare | None = None, tell: Tell | None = None, page_timeout_s: float | None = 1800,
) -> dict[str, Any]:  # fmt: skip
    """Read the pages in turn for so many minutes, `count` readings and one whole pass at least; return finding `soak`.

    The time is from the end of the first reading, so that loading the model is no part of it. A line a minute, or
    thirty in all where that is more often, is appended to the run's `findings/soak-lines.jsonl` and given to `tell`;
    the first reading of every page becomes a row of the experiment `soak`. Ctrl-C ends it early with a verdict on what
    was read. `prepare` is called in the process before each reading: tests plant faults with it.

    Raises:
        Refused: the first reading shows that the settings cannot be put in force here.
        RecordError: the folder cannot be written.
    """
    folder = folder or paths.run_folder()
    began = datetime.now(UTC).isoformat(timespec="seconds")
    with Worker() as worker:
        soak = _Soak(
            worker, _First(settings, pages, folder), RecordFile(folder / "findings" / "soak-lines.jsonl"), tell
        )
        asker = _Asker(worker, settings, prepare, page_timeout_s)
        soak.run(asker, pages, minutes * 60, max(count, len(pages)), began)
    own = settings.as_dict() | {"set": pages[0].set, "different_pages": min(len(pages), soak.tally.pages)}
    finding = own | judge_soak(soak.lines) | {"time_utc": began}
    keep_findings("soak", [finding], folder)
    return finding


@dataclass(frozen=True)
class _Asker:
    worker: Worker
    settings: Settings
    prepare: Prepare | None
    timeout_s: float | None

    def read(self, page: Page) -> tuple[Reading, dict[str, Any] | None]:
        found, status, reason = attempt(
            self.worker, read_here, self.settings, page, self.prepare, timeout_s=self.timeout_s
        )
        return (found["reading"] if found else Reading(page.id, "", status, reason)), found


class _First:
    """The first reading of every page, kept as rows so that they can be scored."""

    def __init__(self, settings: Settings, pages: Sequence[Page], folder: Path) -> None:
        self.settings, self.store = settings, Store("soak", folder)
        jobs = plan_jobs([settings], pages, 1, read_quarantined=True)
        self.keys = {job.page.id: job.key for job in self.store.missing(jobs)}

    def keep(self, page: Page, reading: Reading, found: dict[str, Any] | None) -> None:
        if key := self.keys.pop(page.id, None):
            actual, load_s = (found["actual"], found["load_s"]) if found else ({}, None)
            self.store.append(reading_record("soak", key, self.settings, page, reading, actual, load_s, 0))


class _Soak:
    def __init__(self, worker: Worker, first: _First, log: RecordFile, tell: Tell | None) -> None:
        self.worker, self.first, self.log, self.tell = worker, first, log, tell
        self.tally, self.lines = Tally(), list[dict[str, Any]]()

    def run(self, asker: _Asker, pages: Sequence[Page], seconds: float, count: int, began: str) -> None:
        self._next(asker, pages[0])
        clock = last = time.monotonic()
        shape = "{l_bar}{bar}| {n:.0f} of {total} s{postfix}"
        with tqdm(total=max(1, round(seconds)), desc="soak", bar_format=shape, disable=not sys.stderr.isatty()) as bar:
            try:
                while (passed := time.monotonic() - clock) < seconds or self.tally.pages < count:
                    bar.set_postfix_str(f"{self.tally.pages} pages", refresh=False)
                    bar.update(min(passed, seconds) - bar.n)
                    self._next(asker, pages[self.tally.pages % len(pages)])
                    if time.monotonic() - last >= min(60.0, seconds / _LINES):
                        last = time.monotonic()
                        self._write(began, last - clock)
                        self.tally.first_pass = self.tally.pages < len(pages)
            except KeyboardInterrupt:
                bar.write("stopped: the verdict is on what was read")
        if self.tally.statuses:
            self._write(began, time.monotonic() - clock)

    def _next(self, asker: _Asker, page: Page) -> None:
        reading, found = asker.read(page)
        if self.tally.pages == 0 and reading.status == "unsupported":
            raise Refused(reading.status, reading.reason)
        self.tally.add(reading, found)
        self.first.keep(page, reading, found)

    def _write(self, began: str, passed: float) -> None:
        line = self.tally.line() | {"minutes": passed / 60, "restarts": self.worker.starts - 1}
        self.log.append({"key": f"{began} {len(self.lines)}", "machine": machine_name()} | line)
        self.lines.append(line)
        if self.tell is not None:
            self.tell(line)
