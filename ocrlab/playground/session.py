"""One person's session: one model at a time in its worker, every reading kept as a row, a cancel that is obeyed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ocrlab import paths
from ocrlab.pages import Page
from ocrlab.playground.capabilities import Helper
from ocrlab.playground.html import duration, escaped, first_line, note, table
from ocrlab.reading.isolated import IsolatedReader, PageResult, Refused
from ocrlab.reading.result import Reading
from ocrlab.reading.settings import Settings
from ocrlab.study.experiment import Store
from ocrlab.study.records import reading_record, row_key, row_of, setting_label

if TYPE_CHECKING:
    import pandas as pd

EXPERIMENT = "playground"
_COLUMNS = ("time_utc", "page", "status", "reason", "cer", "ttft_s", "tokens_per_second", "page_s", "text")
_FIELDS = tuple(Settings().as_dict())


class Session:
    """Reads pages one after another and keeps what came: `rows` in order, and on disk in `folder` from the first on."""

    def __init__(self, helper: Helper, folder: Path | None = None) -> None:
        self.folder = folder or paths.run_folder()
        self.rows: list[dict[str, Any]] = []
        self.reader = IsolatedReader()
        self._helper, self._turn, self._cancelled = helper, threading.Lock(), threading.Event()

    def prepare(self, settings: Settings) -> None:
        """Load the settings' model ahead of the first page."""
        with self._turn, suppress(Refused):  # the first page says why
            self.reader.apply(settings)

    def read(self, settings: Settings, page: Page, on_text: Callable[[str], None]) -> PageResult:
        """Return what came of a page; waits where another page is being read."""
        self._cancelled.clear()
        with self._turn:
            if self._cancelled.is_set():
                return PageResult(Reading(page.id, "", "error", "cancelled before it began"))
            return self.reader.look(settings, page, on_text)

    def keep(self, settings: Settings, page: Page, seen: PageResult) -> None:
        """Put the reading and its row on disk, and the row with its text into `rows`.

        Raises:
            HelperError: the run's folder cannot be written; the message names it.
        """
        row = self._helper.call(keep_reading, self.folder, settings, page, seen)
        self.rows.append(row | {"text": seen.reading.text})

    def cancel(self) -> None:
        """End the reading that goes on, or the loading of its model; from any thread."""
        self._cancelled.set()
        self.reader.stop()

    def close(self) -> None:
        """End what is read and the worker's process."""
        self.cancel()
        with self._turn:
            self.reader.close()

    def html(self) -> str:
        """Return the session's readings as HTML, the newest first, and where they are kept."""
        if not self.rows:
            return note("Nothing has been read yet.")
        head = ("UTC", "page", "settings", "status", "CER", "first token", "tokens/s", "text")
        kept = self.folder.relative_to(paths.ROOT) if self.folder.is_relative_to(paths.ROOT) else self.folder
        place = f'<div class="ocr-label">kept in {escaped(kept)} (rows and readings)</div>'
        return table(head, map(_line, reversed(self.rows))) + place

    def table(self) -> pd.DataFrame:
        """Return the readings as a table: time, page, settings as a label, status, scores, costs, text."""
        import pandas as pd

        lines = [{"settings": _label(row)} | {name: row.get(name) for name in _COLUMNS} for row in self.rows]
        return pd.DataFrame(lines, columns=["settings", *_COLUMNS])


def _line(row: dict[str, Any]) -> Sequence[str]:
    return (
        row["time_utc"][11:19],
        first_line(row["page"], 40),
        first_line(_label(row), 80),
        row["status"],
        "" if row.get("cer") is None else f"{row['cer']:.2%}",
        duration(row.get("ttft_s")),
        f"{row['tokens_per_second']:,.0f}" if row.get("tokens_per_second") else "",
        first_line(row["text"]),
    )


def _label(row: dict[str, Any]) -> str:
    return setting_label({name: row[name] for name in _FIELDS})


def keep_reading(folder: Path, settings: Settings, page: Page, seen: PageResult) -> dict[str, Any]:
    """Append a reading and its row to a run's folder and return the row; the first one writes `run.json` too."""
    # Two seconds of imports (papermill, nbformat), which the page's own process is spared.
    from ocrlab.study.provenance import now, read_record, start_record, write_record

    store = Store(EXPERIMENT, folder)
    checkpoint = str(seen.actual.get("actual_revision", "absent"))
    repeat = 0
    while (key := row_key(settings, page, checkpoint, repeat)) in store.readings.by_key:
        repeat += 1
    # Times of a reading that was looked at hold what looking costs.
    actual = seen.actual | {"actual_streamed": True}
    store.append(reading_record(EXPERIMENT, key, settings, page, seen.reading, actual, seen.load_s, repeat))
    if not read_record(folder):
        write_record(folder, start_record(folder.name, EXPERIMENT, "read by hand in the playground") | {"ended": now()})
    return row_of(store.readings.records[-1])
