"""A run's record, rows and readings as far as they can be used: damaged lines are left out, and counted."""

from __future__ import annotations

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ocrlab.reading.settings import Settings, make_settings
from ocrlab.study.origin import dpis_of
from ocrlab.study.records import record_files
from ocrlab.study.rows import setting_label
from ocrlab.study.summary import summarise

if TYPE_CHECKING:
    import pandas as pd

_SETTINGS = tuple(Settings().as_dict())
_ROW = {"page": str, "status": str, "reason": str, "model_id": str}
_READING = {"page": str, "status": str, "reason": str, "text": str, "experiment": str}


def begun(record: dict[str, Any]) -> str:
    """Return when the first notebook of a run started, as its record has it: it may have gone on several times."""
    notebooks = record.get("notebooks")
    entries = notebooks.values() if isinstance(notebooks, dict) else []
    times = [entry.get("started") for entry in entries if isinstance(entry, dict)]
    return min((str(time) for time in [record.get("started"), *times] if time), default="")


def count_rows(run: Path) -> dict[str, dict[str, int]]:
    """Return the number of rows of each status by file; a line that is no row counts as `damaged`."""
    return {
        file.name.removesuffix(".gz"): dict(
            Counter("damaged" if line is None else str(line.get("status", "no status")) for line in _lines(file))
        )
        for file in record_files(run / "rows")
    }


def usable_rows(run: Path) -> pd.DataFrame:
    """Return the rows that have a page, an outcome and settings, with their setting in words as `setting`.

    A setting that the row's version did not have stands at its default.
    """
    import pandas as pd

    found = []
    for file in record_files(run / "rows"):
        for row in _lines(file):
            if row is not None and _has(row, _ROW):
                try:
                    label = setting_label({name: row[name] for name in _SETTINGS if name in row})
                except (ValueError, TypeError):
                    continue  # no settings: counted in `count_rows`, not summed up
                experiment = str(row.get("experiment", file.name.partition(".")[0]))
                found.append(row | {"setting": label, "experiment": experiment})
    return pd.DataFrame(found)


def usable_readings(run: Path) -> list[dict[str, Any]]:
    """Return the readings that ask about reading: of real weights and natural length, with page, outcome and text."""
    return [
        reading | {"setting": label}
        for file in record_files(run / "readings")
        for reading in _lines(file)
        if reading is not None and _has(reading, _READING) and (label := _asked(reading)) is not None
    ]


def page_hashes(run: Path) -> set[str]:
    """Return the sha256 of every page that the run's readings name, whatever became of them."""
    lines = (line for file in record_files(run / "readings") for line in _lines(file))
    return {str(line["page_sha256"]) for line in lines if line is not None and line.get("page_sha256")}


def page_dpis(run: Path) -> set[int]:
    """Return the resolutions that the run's readings name, at which pages of PDFs were drawn."""
    lines = (line for file in record_files(run / "readings") for line in _lines(file))
    return dpis_of(line for line in lines if line is not None)


def settings_lines(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Return one line an experiment × setting: CER with its interval, time, memory, how many were read to the end."""
    if rows.empty:
        return []
    lines = summarise(rows.sort_values("experiment", kind="stable"), ["experiment", "setting"]).to_dict("records")
    return [{str(k): None if isinstance(v, float) and v != v else v for k, v in line.items()} for line in lines]


def _asked(reading: dict[str, Any]) -> str | None:
    """Return a reading's setting in words, or None where it is none or was not to read by itself."""
    try:
        settings = make_settings(reading["asked"])
    except (KeyError, ValueError, TypeError):
        return None
    natural = settings.min_new_tokens is None and settings.weights == "pretrained"
    return setting_label(settings.as_dict()) if natural else None


def _has(line: dict[str, Any], fields: Mapping[str, type]) -> bool:
    return all(isinstance(line.get(name), kind) for name, kind in fields.items())


def _lines(file: Path) -> list[dict[str, Any] | None]:
    data = file.read_bytes()
    try:
        text = (gzip.decompress(data) if file.suffix == ".gz" else data).decode("utf-8", "replace")
    except (OSError, EOFError, zlib.error):
        return [None]
    return [_object(line) for line in text.split("\n") if line.strip()]


def _object(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
