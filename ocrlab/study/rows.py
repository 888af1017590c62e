"""What a row holds, and how it is made from a saved reading: asked, actual, measured, outcome, scores."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ocrlab.machine.describe import machine_name, versions
from ocrlab.pages import Page
from ocrlab.reading.outcome import READING_VERSION, Reading
from ocrlab.reading.settings import Settings, make_settings
from ocrlab.scoring import WITH_TEXT, score
from ocrlab.study.records import RecordFile, read_records, record_files

if TYPE_CHECKING:
    import pandas as pd

_OPTIONAL = {"do_sample", "num_beams", "repetition_penalty", "no_repeat_ngram_size"}


def code_version() -> str:
    """Return READING_VERSION and the versions of torch and transformers, in words: what reads, beside the weights."""
    here = versions()
    return f"reading {READING_VERSION}, torch {here.get('torch')}, transformers {here.get('transformers')}"


def row_key(settings: Settings, page: Page, checkpoint: str, repeat: int) -> str:
    """Return what makes a reading the same: every setting, the page's bytes, the weights, `code_version`, the repetition."""
    parts = [settings.as_dict(), page.id, page.sha256, checkpoint, code_version(), repeat]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


def reading_record(
    experiment: str, key: str, settings: Settings, page: Page, reading: Reading, actual: dict[str, Any],
    load_s: float | None, repeat: int,
) -> dict[str, Any]:  # fmt: skip
    """Return everything about one reading but its scores, ready for JSON; `leaf` and `dpi` only of a leaf."""
    leaf = {} if page.leaf is None else {"leaf": page.leaf, "dpi": page.dpi}
    return {
        "key": key, "experiment": experiment, "page": page.id, "text": reading.text, "status": reading.status,
        "reason": reading.reason, "asked": settings.as_dict(), "actual": actual, "measured": reading.measured(),
        "load_s": load_s, "repeat": repeat, "set": page.set, "kind": page.kind, "language": page.language,
        "degradation": page.degradation, "page_sha256": page.sha256, "truth": page.truth, "code": code_version(),
        "machine": machine_name(), "time_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        **leaf,
    }  # fmt: skip


def row_of(record: dict[str, Any]) -> dict[str, Any]:
    """Return the flat row of a reading record, scored where there is truth and the reading stopped by itself.

    Forced length (`min_new_tokens`) measures speed and dummy weights read nothing: their quality columns stay empty.
    """
    row = {k: v for k, v in record.items() if k not in {"asked", "actual", "measured", "text", "truth"}}
    row |= record["asked"] | record["actual"] | record["measured"]
    asked = record["asked"]
    quality = asked["min_new_tokens"] is None and asked["weights"] == "pretrained"
    if quality and record["truth"] is not None and record["status"] in WITH_TEXT:
        row |= score(record["text"], record["truth"]).as_dict()
    return row


def setting_label(values: dict[str, Any]) -> str:
    """Return a short name of a setting: what differs from the defaults."""
    changed = make_settings(values).changed()
    return ", ".join(f"{name}={value}" for name, value in changed.items()) or "defaults"


def rescore(run: Path) -> int:
    """Write every row of a run again from its readings, without a model; return how many."""
    count = 0
    for file in record_files(run / "readings"):
        target = run / "rows" / file.name.removesuffix(".gz")
        target.with_name(target.name + ".gz").unlink(missing_ok=True)
        part = target.with_suffix(".part")
        part.unlink(missing_ok=True)
        rows = RecordFile(part)
        for record in read_records(file):
            rows.append(row_of(record))
            count += 1
        part.replace(target)
    return count


def load_rows(run: Path, experiment: str | None = None) -> pd.DataFrame:
    """Return a run's rows as a table, one line a reading; all experiments unless one is named."""
    import pandas as pd

    files = record_files(run / "rows", experiment or "*")
    return pd.DataFrame([row for file in files for row in read_records(file)])


def settings_of(row: Mapping[Any, Any] | pd.Series) -> Settings:
    """Return the settings that a table's row was read with; what it does not hold, and the seed, are the defaults."""
    types = Settings().as_dict()
    values: dict[str, Any] = {}
    for name in types:
        if name == "seed" or name not in row:
            continue
        value = row[name]
        missing = value is None or (isinstance(value, float) and value != value)
        values[name] = None if missing else value.item() if hasattr(value, "item") else value
        if isinstance(values[name], float) and name not in {"temperature", "top_p", "repetition_penalty"}:
            values[name] = round(values[name])  # a table makes floats of whole numbers where one is missing
    return make_settings({k: v for k, v in values.items() if v is not None or types[k] is None or k in _OPTIONAL})
