"""Two environments side by side: versions, doctor, tests, texts that changed, speed."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ocrlab.study.records import readings_in


@dataclass
class Trial:
    """What came of an environment's trial: exit codes and last lines by step, and the folder of its smoke run."""

    exit_codes: dict[str, int] = field(default_factory=dict)
    last_lines: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    run: Path | None = None

    def failed(self) -> str | None:
        """Return the first step that failed, or None."""
        return next((step for step, code in self.exit_codes.items() if code), None)


def readings_by_key(run: Path) -> dict[tuple[str, str, str, int], dict[str, Any]]:
    """Return a run's readings by experiment, page, settings and repetition: what two runs have in common."""
    found = {}
    for record in readings_in(run):
        found[record["experiment"], record["page"], str(sorted(record["asked"].items())), record["repeat"]] = record
    return found


def changed_texts(old: Path, new: Path) -> tuple[list[dict[str, str]], int]:
    """Return the readings whose text or status differs between two runs, and how many they have in common."""
    one, other = readings_by_key(old), readings_by_key(new)
    common = [key for key in one if key in other]
    changed = [
        {"experiment": key[0], "page": key[1], "old": _told(one[key]), "new": _told(other[key])}
        for key in common if _told(one[key]) != _told(other[key])
    ]  # fmt: skip
    return changed, len(common)


def speed_ratio(old: Path, new: Path) -> float | None:
    """Return the median over common readings of new seconds a page over old; above 1 is slower, None for none."""
    one, other = readings_by_key(old), readings_by_key(new)
    ratios = [
        other[key]["measured"]["page_s"] / one[key]["measured"]["page_s"]
        for key in one if key in other and one[key]["measured"]["page_s"] and other[key]["measured"]["page_s"]
    ]  # fmt: skip
    return statistics.median(ratios) if ratios else None


def report(old: Trial, new: Trial) -> str:
    """Return both trials side by side, as Markdown."""
    lines = ["# Upgrade: old and new", "", "| package | old | new |", "|---|---|---|"]
    names = sorted(old.versions.keys() | new.versions.keys())
    moved = [n for n in names if old.versions.get(n) != new.versions.get(n)]
    lines += [f"| {n} | {old.versions.get(n, '–')} | {new.versions.get(n, '–')} |" for n in moved] or ["| none | | |"]
    lines += ["", "| step | old | new |", "|---|---|---|"]
    lines += [f"| {step} | {_step(old, step)} | {_step(new, step)} |" for step in new.exit_codes]
    if old.run and new.run:
        changed, common = changed_texts(old.run, new.run)
        ratio = speed_ratio(old.run, new.run)
        lines += ["", f"{len(changed)} of {common} texts changed in the smoke run."]
        lines += [f"- {c['experiment']}, {c['page']}: {c['old']!r} → {c['new']!r}" for c in changed[:20]]
        lines += [f"- and {len(changed) - 20} more"] if len(changed) > 20 else []
        told = "not measured" if ratio is None else f"{ratio:.2f} (one run after the other: noise is not excluded)"
        lines += ["", f"Seconds a page, new over old, median: {told}."]
    return "\n".join(lines) + "\n"


def _told(record: dict[str, Any]) -> str:
    return record["text"] if record["status"] == "ok" else f"{record['status']}: {record['text'] or record['reason']}"


def _step(trial: Trial, step: str) -> str:
    if step not in trial.exit_codes:
        return "not run"
    return f"{'ok' if trial.exit_codes[step] == 0 else 'failed'}: {trial.last_lines.get(step, '')}".replace("|", "/")
