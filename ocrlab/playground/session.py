"""One person's sitting: one model at a time in its worker, every reading kept as a row, a stop that is obeyed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ocrlab import paths
from ocrlab.pages import Page
from ocrlab.playground.helper import Helper
from ocrlab.reading.live import LiveReader, Seen
from ocrlab.reading.outcome import Reading
from ocrlab.reading.settings import Settings
from ocrlab.study.rows import reading_record, row_key
from ocrlab.study.store import Store

EXPERIMENT = "playground"


class Sitting:
    """Reads pages one after another and keeps what came: `rows` in order, and on disk in `folder` from the first on."""

    def __init__(self, helper: Helper, folder: Path | None = None) -> None:
        self.folder = folder or paths.run_folder()
        self.rows: list[dict[str, Any]] = []
        self.reader = LiveReader()
        self._helper, self._turn, self._cancelled = helper, threading.Lock(), threading.Event()
        self._keeper = ThreadPoolExecutor(1)  # in the order of reading, however long the helper takes to start

    def wait(self) -> None:
        """Return when nothing is read, so that what comes next does not slow a reading down."""
        while self._turn.locked():
            time.sleep(0.05)

    def prepare(self, settings: Settings) -> None:
        """Load the settings' model ahead of the first page."""
        with self._turn:
            self.reader.prepare(settings)

    def read(self, settings: Settings, page: Page, on_text: Callable[[str], None]) -> Seen:
        """Return what came of a page; waits where another page is being read."""
        self._cancelled.clear()
        with self._turn:
            if self._cancelled.is_set():
                return Seen(Reading(page.id, "", "error", "cancelled before it began"))
            return self.reader.read(settings, page, on_text)

    def keep(self, settings: Settings, page: Page, seen: Seen) -> dict[str, Any]:
        """Return the reading's row with its text, once reading and row are on disk.

        Raises:
            HelperError: the run's folder cannot be written; the message names it.
        """
        return self._keeper.submit(self._keep, settings, page, seen).result()

    def _keep(self, settings: Settings, page: Page, seen: Seen) -> dict[str, Any]:
        row: dict[str, Any] = self._helper.call(keep_here, self.folder, settings, page, seen)
        self.rows.append(row | {"text": seen.reading.text})
        return self.rows[-1]

    def cancel(self) -> None:
        """End the reading that goes on, or the loading of its model; from any thread."""
        self._cancelled.set()
        self.reader.stop()

    def close(self) -> None:
        """End what is read and the worker's process."""
        self.cancel()
        self._keeper.shutdown(wait=False, cancel_futures=True)
        with self._turn:
            self.reader.close()


def keep_here(folder: Path, settings: Settings, page: Page, seen: Seen) -> dict[str, Any]:
    """Append a reading and its row to a run's folder and return the row; the first one writes `run.json` too."""
    # Two seconds of imports (papermill, nbformat), which the page's own process is spared.
    from ocrlab.workspace.provenance import now, read_record, start_record, write_record

    store = Store(EXPERIMENT, folder)
    checkpoint = str(seen.actual.get("actual_revision", "absent"))
    repeat = 0
    while (key := row_key(settings, page, checkpoint, repeat)) in store.readings.keys:
        repeat += 1
    # Times of a reading that was looked at hold what looking costs.
    actual = seen.actual | {"actual_streamed": True}
    store.append(reading_record(EXPERIMENT, key, settings, page, seen.reading, actual, seen.load_s, repeat))
    if not read_record(folder):
        write_record(folder, start_record(folder.name, EXPERIMENT, "read by hand in the playground") | {"ended": now()})
    return store.rows.records[-1]
