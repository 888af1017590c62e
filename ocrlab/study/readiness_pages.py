"""Whose readiness it is, and the two checks on its pages: are they read well enough, and does the largest fit?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ocrlab.machine.hardware import CONTEXT_BYTES
from ocrlab.pages.load import OWN_SETS
from ocrlab.study.evidence import Evidence
from ocrlab.study.recommend import groups_by_setting, judge_runs, quality_rows, recommend
from ocrlab.study.summary import interval_of

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
