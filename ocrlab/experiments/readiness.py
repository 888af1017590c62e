"""Whose readiness it is, and the two checks on its pages: are they read well enough, and does the largest fit?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from ocrlab.experiments.evidence import Evidence
from ocrlab.experiments.recommend import groups_by_setting, judge_runs, quality_rows, recommend
from ocrlab.machine.hardware import CONTEXT_BYTES
from ocrlab.pages.load import OWN_SETS
from ocrlab.scoring.outcomes import WITH_TEXT
from ocrlab.study.compare import interval_of

if TYPE_CHECKING:
    import pandas as pd


State = Literal["pass", "fail", "not measured"]
Limits = dict[str, Any]
_GIB = 2**30
EMBEDDED = "tiny"


@dataclass(frozen=True)
class Subject:
    """Whose readiness it is: the evidence, the model with most readings (the embedded one only if alone), its rows."""

    evidence: Evidence
    model_id: str
    rows: pd.DataFrame


def subject_of(evidence: Evidence) -> Subject:
    """Return the subject of a run."""
    rows = evidence.table("rows/*")
    if rows.empty:
        return Subject(evidence, "", rows)
    rows = quality_rows(rows)
    counts = rows["model_id"][rows["status"] != "unsupported"].value_counts()
    models = [str(name) for name in counts.index if name != EMBEDDED] or [EMBEDDED]
    return Subject(evidence, models[0], rows[rows["model_id"] == models[0]])


def quality(subject: Subject, limits: Limits) -> tuple[State, str]:
    """Return whether pages that are not of our sets are read with an accuracy whose lower end reaches the floor."""
    rows = subject.rows
    own = rows[~rows["set"].isin(OWN_SETS)] if len(rows) else rows
    own = own.dropna(subset=["cer_edits"]) if "cer_edits" in own else own[:0]
    if own["page"].nunique() < limits["pages"] if len(own) else True:
        pages = own["page"].nunique() if len(own) else 0
        return "not measured", f"{pages} pages of your own were scored, {limits['pages']} needed"
    mine = _chosen(own)
    error = interval_of(mine)
    if error is None:
        return "not measured", "the truths are empty"
    told = (
        f"{1 - error.point:.1%} of letters right ({1 - error.high:.1%} to {1 - error.low:.1%}) over "
        f"{error.documents} pages; the floor is {limits['floor']:.0%}"
    )
    return ("pass" if 1 - error.high >= limits["floor"] else "fail"), told


def _chosen(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the recommended setting; where none is, of the one with most pages."""
    scored = rows.dropna(subset=["cer_edits"]) if "cer_edits" in rows else rows[:0]
    groups = dict(groups_by_setting(rows))
    best = recommend(judge_runs(rows)) if len(scored) else []
    if best and best[0].settings in groups:
        return groups[best[0].settings]
    return max(groups.values(), key=lambda group: group["page"].nunique())


def memory(subject: Subject, limits: Limits) -> tuple[State, str]:
    """Return whether weights, the largest page and the device's own needs leave the margin free."""
    loads, machine = subject.evidence.table("findings/load"), subject.evidence.stack
    rows = _chosen(subject.rows) if len(subject.rows) else subject.rows
    out = rows[rows["status"] == "oom"] if len(rows) else rows
    if len(out):
        return "fail", f"{len(out)} of {len(rows)} readings ran out of memory ({out['reason'].iloc[0]})"
    rows = rows.dropna(subset=["peak_memory_bytes"]) if "peak_memory_bytes" in rows else rows[:0]
    if loads.empty or rows.empty or not machine:
        return "not measured", "the weights' size, a page's memory and the machine's are needed"
    held = loads[(loads["model_id"] == subject.model_id) & (loads["dtype"] == rows["actual_dtype"].iloc[0])]
    if held["weight_bytes"].dropna().empty:
        return "not measured", f"{subject.model_id} was not loaded in {rows['actual_dtype'].iloc[0]} by 07-limits"
    used = held["weight_bytes"].max() + rows["peak_memory_bytes"].max()
    total = machine["memory_bytes"]
    if "gpu_memory_bytes" in machine:
        reserved = rows["reserved_memory_bytes"].dropna() if "reserved_memory_bytes" in rows else rows["page"][:0]
        used = max(used, reserved.max() if len(reserved) else 0) + CONTEXT_BYTES
        total = machine["gpu_memory_bytes"]
    told = (
        f"{used / _GIB:.2f} of {total / _GIB:.1f} GiB for {subject.model_id} and its largest page "
        f"({rows['image_tokens'].max():.0f} image tokens): {1 - used / total:.0%} left, {limits['margin']:.0%} wanted"
    )
    return ("pass" if 1 - used / total >= limits["margin"] else "fail"), told


# The checks of readiness, one function each: a run's evidence and the limits in, a state and its reason out.


def stack(subject: Subject, limits: Limits) -> tuple[State, str]:
    """Return whether the doctor had no problem to name."""
    lines = subject.evidence.table("findings/doctor")
    if lines.empty:
        return "not measured", "the doctor was not asked"
    named = {level: lines[lines["level"] == level]["check"].tolist() for level in ("problem", "warning")}
    told = f"{len(lines)} lines: " + ", ".join(f"{len(v)} {k}s ({', '.join(v)})" for k, v in named.items() if v)
    return ("fail", told) if named["problem"] else ("pass", told if named["warning"] else f"{len(lines)} lines, all ok")


def kernels(subject: Subject, limits: Limits) -> tuple[State, str]:
    """Return whether every launch that ran gave the right numbers."""
    return _verdicts(subject.evidence.table("findings/probes"), ("works",), "launches")


def canary(subject: Subject, limits: Limits) -> tuple[State, str]:
    """Return whether every way of computing that read agreed with float32."""
    return _verdicts(subject.evidence.table("findings/canary"), ("same text", "within rounding"), "ways")


def _verdicts(found: pd.DataFrame, good: tuple[str, ...], what: str) -> tuple[State, str]:
    if found.empty or not found["verdict"].isin([*good, "wrong", "faulty", "crashed", "timed out"]).any():
        return "not measured", f"none of {len(found)} {what} ran here"
    right = int(found["verdict"].isin(good).sum())
    bad = found[found["verdict"].isin(["wrong", "faulty", "crashed", "timed out"])]
    if len(bad):
        return "fail", f"{len(bad)} of {right + len(bad)} {what}: {bad['verdict'].iloc[0]} ({bad['reason'].iloc[0]})"
    return "pass", f"{right} {what} are right; {len(found) - right} cannot run here"


def finite(subject: Subject, limits: Limits) -> tuple[State, str]:
    """Return whether no reading was `invalid` in any dtype but float16."""
    ended = subject.rows
    if len(ended):
        ended = ended[ended["status"].isin([*WITH_TEXT, "invalid"])]
        ended = ended[ended["dtype"] != "float16"]
    if ended.empty:
        return "not measured", "nothing was read"
    bad = ended[ended["status"] == "invalid"]
    told = f"{len(bad)} of {len(ended)} readings of {subject.model_id} had NaN or infinity"
    return ("fail", f"{told} ({bad['reason'].iloc[0]})") if len(bad) else ("pass", told)


def speed(subject: Subject, limits: Limits) -> tuple[State, str]:
    """Return whether decoding reaches its share of what the measured bandwidth allows."""
    found = subject.evidence.table("findings/speed")
    large = found[found["model_id"] != EMBEDDED] if len(found) else found
    if large.empty:
        return "not measured", "the embedded reader lives in the cache, so its share says nothing"
    best = large.sort_values("tpot_share").iloc[-1]
    told = f"{best['model_id']}, {best['dtype']}, {best['attn_implementation']}: {best['tpot_share']:.0%} of the floor"
    if best["tpot_share"] > limits["most"]:
        return "not measured", f"{told}, so the bandwidth was measured too low"
    return ("pass" if best["tpot_share"] >= limits["share"] else "fail"), f"{told}, {limits['share']:.0%} wanted"


def soak(subject: Subject, limits: Limits) -> tuple[State, str]:
    """Return whether a soak that was long enough ended without growth, changed text, failure or restart."""
    found = subject.evidence.table("findings/soak")
    if found.empty:
        return "not measured", "no soak in this run"
    line = found.iloc[0]
    told = f"{line['words']}, with {line['model_id']}"
    if line["model_id"] != subject.model_id:
        return "not measured", f"the soak read with {line['model_id']}, not with {subject.model_id or 'this model'}"
    if line["verdict"] == "fail":
        return "fail", told
    if line["pages"] < limits["pages"] and line["minutes"] < limits["minutes"]:
        return "not measured", f"{told}; {limits['pages']} pages or {limits['minutes']} minutes needed"
    return ("pass", told) if line["verdict"] == "pass" else ("not measured", told)


def recovery(subject: Subject, limits: Limits) -> tuple[State, str]:
    """Return whether a new process computed after one had died."""
    found = subject.evidence.table("findings/recovery")
    fresh = found[found["where"] == "new process"] if len(found) else found
    if fresh.empty:
        return "not measured", "no process was let die"
    first = found.iloc[0]
    told = f"after '{first['attempt']}' ({first['outcome']}), a new process: {fresh['outcome'].iloc[0]}"
    return ("pass" if fresh["works"].all() else "fail"), told


CHECKS: dict[str, Callable[[Subject, Limits], tuple[State, str]]] = {
    "stack": stack, "kernels": kernels, "canary": canary, "finite": finite, "quality": quality, "memory": memory,
    "speed": speed, "soak": soak, "recovery": recovery,
}  # fmt: skip


# Is this machine ready, and how much of that was measured? The checks of readiness.yaml over a run's rows.


@dataclass(frozen=True)
class Check:
    """One check of a run: pass, fail or not measured, with its weight and the reason."""

    id: str
    asks: str
    state: State
    weight: int
    reason: str


@dataclass(frozen=True)
class Readiness:
    """All checks of a run, for a machine and the model that it read."""

    machine: str
    model_id: str
    weights: str
    checks: tuple[Check, ...]

    @property
    def measured(self) -> int:
        """The weight of the checks that were measured."""
        return sum(check.weight for check in self.checks if check.state != "not measured")

    @property
    def total(self) -> int:
        """The weight of all checks."""
        return sum(check.weight for check in self.checks)

    @property
    def score(self) -> float | None:
        """The share of the measured weight that passed; None where nothing was measured."""
        passed = sum(check.weight for check in self.checks if check.state == "pass")
        return passed / self.measured if self.measured else None

    @property
    def words(self) -> str:
        """The score, what it counts, and what it does not, in one sentence."""
        if self.score is None:
            return f"nothing was measured (weight {self.total})"
        open_ = [check.id for check in self.checks if check.state == "not measured"]
        rest = f"; not measured, weight {self.total - self.measured}: {', '.join(open_)}" if open_ else ""
        return f"{self.score:.0%} of the weight that was measured ({self.measured} of {self.total}) passes{rest}"

    def table(self) -> pd.DataFrame:
        """Return one line a check, with the model."""
        import pandas as pd

        own = {"model_id": self.model_id, "weights": self.weights}
        return pd.DataFrame([asdict(check) | own for check in self.checks])


@cache
def _entries() -> tuple[dict[str, Any], ...]:
    return tuple(yaml.safe_load((Path(__file__).parent / "readiness.yaml").read_text(encoding="utf-8")))


def check_readiness(run: Evidence | Path) -> Readiness:
    """Return the checks of a run, by its evidence or folder.

    Raises:
        RecordError: a file of the run is damaged.
    """
    evidence = run if isinstance(run, Evidence) else Evidence(run)
    subject = subject_of(evidence)
    return Readiness(
        evidence.machine, subject.model_id, "pretrained", tuple(_check(entry, subject) for entry in _entries())
    )


def _check(entry: dict[str, Any], subject: Subject) -> Check:
    state, reason = CHECKS[entry["id"]](subject, entry.get("limits", {}))
    if state == "not measured":
        reason = f"{reason}; {entry['measure']}"
    return Check(entry["id"], entry["asks"], state, entry["weight"], reason)
