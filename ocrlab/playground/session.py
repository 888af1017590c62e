"""One person's session: one model at a time in its worker, every reading kept as a row, a cancel that is obeyed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from ocrlab import paths
from ocrlab.pages import Page
from ocrlab.playground.capabilities import Helper
from ocrlab.playground.html import duration, escaped, first_line, note, table
from ocrlab.reading.isolated import IsolatedReader, PageResult, Refused
from ocrlab.reading.result import Reading
from ocrlab.reading.settings import Settings
from ocrlab.scoring.outcomes import WITH_TEXT
from ocrlab.study.agreement import label_first
from ocrlab.study.experiment import Store
from ocrlab.study.records import RecordFile, reading_record, row_key, row_of, setting_label

EXPERIMENT = "playground"
_COLUMNS = ("time_utc", "page", "status", "reason", "cer", "ttft_s", "tokens_per_second", "page_s", "text")


class Session:
    """Reads pages one after another and keeps what came: `rows` in order, and on disk in `folder` from the first on."""

    def __init__(self, helper: Helper, folder: Path | None = None) -> None:
        self.folder = folder or paths.run_folder()
        self.rows: list[dict[str, Any]] = []
        self.pages: dict[str, tuple[Page, bytes]] = {}  # by sha256, with the picture that the person saw
        #: The votes of this and earlier sessions in the folder; each is on disk once it is appended.
        self.votes = RecordFile(self.folder / "findings" / "votes.jsonl")
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
        self.rows.append(row | {"text": seen.reading.text, "asked": settings.as_dict(), "truth": page.truth})

    def read_by_both(self, a: Settings, b: Settings) -> list[tuple[str, str, str]]:
        """Return the sha256 of the pages that both read, with the last text of either, in the order of reading."""
        read = [row for row in self.rows if row["status"] in WITH_TEXT]
        one, other = ({r["page_sha256"]: r["text"] for r in read if r["asked"] == s.as_dict()} for s in (a, b))
        return [(sha256, text, other[sha256]) for sha256, text in one.items() if sha256 in other]

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
        parted = [line for line in label_first(self.rows) if line["differ"]][:5]
        lines = ((first_line(line["page"], 40), f"{line['differ']:.1%} of the letters") for line in parted)
        first = table(("label first", "its readings differ in"), lines) if parted else ""
        return table(head, map(_line, reversed(self.rows))) + place + first

    def table(self) -> pd.DataFrame:
        """Return the readings as a table: time, page, settings as a label, status, scores, costs, text."""
        lines = [{"settings": setting_label(row["asked"])} | {n: row.get(n) for n in _COLUMNS} for row in self.rows]
        return pd.DataFrame(lines, columns=["settings", *_COLUMNS])


def _line(row: dict[str, Any]) -> Sequence[str]:
    cer = "" if row.get("cer") is None else f"{row['cer']:.2%}"
    rate = f"{row['tokens_per_second']:,.0f}" if row.get("tokens_per_second") else ""
    names = first_line(row["page"], 40), first_line(setting_label(row["asked"]), 80), row["status"]
    return row["time_utc"][11:19], *names, cer, duration(row.get("ttft_s")), rate, first_line(row["text"])


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
    seen = replace(seen, actual=seen.actual | {"actual_streamed": True})
    store.readings.append(reading_record(EXPERIMENT, key, settings, page, seen, repeat))
    if not read_record(folder):
        write_record(folder, start_record(folder.name, EXPERIMENT, "read by hand in the playground") | {"ended": now()})
    return row_of(store.readings.records[-1])
