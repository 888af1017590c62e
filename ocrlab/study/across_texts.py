"""The same page, setting and weights in two runs: the same text, and if not, where the two part."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ocrlab.reading.settings import make_settings
from ocrlab.study.parting import parting
from ocrlab.study.records import readings_in, setting_label
from ocrlab.study.rereading import repeatable

if TYPE_CHECKING:
    import pandas as pd


def texts_across(folders: Sequence[Path]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return one line a pair of runs, and one line a reading whose text is not the same in a pair.

    Compared are greedy readings of the same bytes of a page with the same settings and weights. Pairs: run, other,
    their machines, `readings` in common, `same`, `other_weights` (pages and settings in common, weights not). The
    second table: page, setting, run, other, `actual` where dtype or device in force differed, `at` (first letter that
    differs, from 1), what both share before it, and how each goes on.

    Raises:
        RecordError: a damaged file; the message names it and the line.
    """
    import pandas as pd

    runs = {folder.name: _readings(folder) for folder in folders}
    pairs, parted = [], []
    for one, other in combinations(runs, 2):
        common = [key for key in runs[one] if key in runs[other]]
        same = [key for key in common if _weights(runs[one][key]) == _weights(runs[other][key])]
        found = [_parted(runs[one][key], runs[other][key]) for key in same]
        lines = [{"run": one, "other": other} | line for line in found if line]
        parted += lines
        pairs.append({
            "run": one, "other": other, "machine": _machine(runs[one]), "other_machine": _machine(runs[other]),
            "readings": len(same), "same": len(same) - len(lines), "other_weights": len(common) - len(same),
        })  # fmt: skip
    columns = ["run", "other", "page", "setting", "actual", "at", "shared", "one", "two"]
    return pd.DataFrame(pairs), pd.DataFrame(parted, columns=columns)


def _readings(folder: Path) -> dict[tuple[Any, str], dict[str, Any]]:
    """Return a run's repeatable readings by settings and page; of one read several times, the first."""
    found: dict[tuple[Any, str], dict[str, Any]] = {}
    for reading in repeatable(readings_in(folder)):
        found.setdefault((make_settings(reading["asked"]), reading["page_sha256"]), dict(reading))
    return found


def _parted(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any] | None:
    where = parting(one["text"], other["text"])
    if where is None:
        return None
    actual = [(one["actual"].get(name), other["actual"].get(name)) for name in ("actual_dtype", "actual_device")]
    in_force = [f"{mine} against {theirs}" for mine, theirs in actual if mine != theirs]
    return {
        "page": one["page"], "setting": setting_label(one["asked"]), "actual": ", ".join(in_force), "at": where.at + 1,
        "shared": where.shared, "one": where.one, "two": where.other,
    }  # fmt: skip


def _weights(reading: dict[str, Any]) -> Any:
    return reading["actual"].get("actual_revision")


def _machine(readings: dict[Any, dict[str, Any]]) -> str:
    return ", ".join(dict.fromkeys(str(reading["machine"]) for reading in readings.values()))
