"""A run's record and readings as far as they can be used: damaged lines are left out, and counted."""

from __future__ import annotations

import gzip
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ocrlab.reading.settings import make_settings
from ocrlab.study.origin import dpis_of
from ocrlab.study.records import parse_records, record_files, row_of, setting_label
from ocrlab.study.summary import summarise

_NEEDED = {"page": str, "status": str, "reason": str, "text": str, "asked": dict}


def begun(record: dict[str, Any]) -> str:
    """Return when the first notebook of a run started, as its record has it: it may have gone on several times."""
    notebooks = record.get("notebooks")
    entries = notebooks.values() if isinstance(notebooks, dict) else []
    times = [entry.get("started") for entry in entries if isinstance(entry, dict)]
    return min((str(time) for time in [record.get("started"), *times] if time), default="")


def count_readings(run: Path) -> dict[str, dict[str, int]]:
    """Return the number of readings of each status by file; a line that is none counts as `damaged`."""
    files = {file: file.name.removesuffix(".gz") for file in record_files(run / "readings")}
    return {
        name: dict(
            Counter("damaged" if line is None else str(line.get("status", "no status")) for line in _lines(file))
        )
        for file, name in files.items()
    }


def usable_readings(run: Path) -> list[dict[str, Any]]:
    """Return the readings that have a page, an outcome, a text and settings, which are in words as `setting`.

    A setting that the reading's version did not have stands at its default.
    """
    found = []
    for file in record_files(run / "readings"):
        blank: dict[str, Any] = {"experiment": file.name.partition(".")[0], "actual": {}, "measured": {}, "truth": None}
        for line in _lines(file):
            if line is not None and all(isinstance(line.get(name), kind) for name, kind in _NEEDED.items()):
                try:
                    asked = make_settings(line["asked"]).as_dict()
                except (ValueError, TypeError):
                    continue  # counted in `count_readings`
                found.append(blank | line | {"asked": asked, "setting": setting_label(asked)})
    return found


def natural(readings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the readings that ask about reading: of real weights and natural length."""
    return [
        one for one in readings if one["asked"]["min_new_tokens"] is None and one["asked"]["weights"] == "pretrained"
    ]


def settings_lines(readings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one line per experiment × setting: metrics with their intervals, time, memory, how many were read."""
    import pandas as pd

    if not readings:
        return []
    rows = pd.DataFrame([row_of(reading) for reading in readings]).sort_values("experiment", kind="stable")
    lines = summarise(rows, ["experiment", "setting"]).to_dict("records")
    return [{str(k): None if isinstance(v, float) and v != v else v for k, v in line.items()} for line in lines]


def page_hashes(run: Path) -> set[str]:
    """Return the sha256 of every page that the run's readings name, whatever became of them."""
    return {str(line["page_sha256"]) for line in _all_lines(run) if line.get("page_sha256")}


def page_dpis(run: Path) -> set[int]:
    """Return the resolutions that the run's readings name, at which pages of PDFs were drawn."""
    return dpis_of(_all_lines(run))


def _all_lines(run: Path) -> Iterator[dict[str, Any]]:
    return (line for file in record_files(run / "readings") for line in _lines(file) if line is not None)


def _lines(file: Path) -> list[dict[str, Any] | None]:
    """Return a file's records, None for each that is damaged."""
    data = file.read_bytes()
    try:
        data = gzip.decompress(data) if file.suffix == ".gz" else data
    except (OSError, EOFError, zlib.error):
        return [None]
    return [None if isinstance(record, ValueError) else record for _, record in parse_records(data)]
