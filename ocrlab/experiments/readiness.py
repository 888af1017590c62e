"""Is this machine ready, and how much of that was measured? The checks of readiness.yaml over a run's rows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import yaml

from ocrlab.experiments.evidence import Evidence
from ocrlab.experiments.recommend import groups_by_setting, judge_runs, quality_rows, recommend
from ocrlab.machine.hardware import CONTEXT_BYTES
from ocrlab.pages.load import OWN_SETS
from ocrlab.scoring.outcomes import WITH_TEXT
from ocrlab.study.compare import interval_of

State = Literal["pass", "fail", "not measured"]
Limits = dict[str, Any]
Answer = tuple[State, str]
_GIB = 2**30
EMBEDDED = "tiny"
_COLUMNS = ("page", "set", "status", "reason", "cer_edits", "actual_dtype", "image_tokens")
_MEMORY = ("peak_memory_bytes", "reserved_memory_bytes")
_BROKEN = ("wrong", "faulty", "crashed", "timed out")


@dataclass(frozen=True)
class Subject:
    """Whose readiness it is: the evidence, the model with most readings (the embedded one only if alone), its rows."""

    evidence: Evidence
    model_id: str
    rows: pd.DataFrame


def subject_of(evidence: Evidence) -> Subject:
    """Return the subject of a run."""
    every = evidence.table("rows/*")
    rows = quality_rows(every)
    rows = rows.reindex(columns=rows.columns.union([*_COLUMNS, *_MEMORY], sort=False))
    counts = rows["model_id"][rows["status"] != "unsupported"].value_counts()
    embedded = EMBEDDED if len(every) else ""
    model_id = next((str(name) for name in counts.index if name != EMBEDDED), embedded)
    return Subject(evidence, model_id, rows[rows["model_id"] == model_id])


# The checks, one function each: a run's evidence and the limits in, a state and its reason out.


def stack(subject: Subject, limits: Limits) -> Answer:
    """Return whether the doctor had no problem to name."""
    lines = subject.evidence.table("findings/doctor")
    if lines.empty:
        return "not measured", "the doctor was not asked"
    named = {level: lines[lines["level"] == level]["check"].tolist() for level in ("problem", "warning")}
    words = [f"{len(checks)} {level}s ({', '.join(checks)})" for level, checks in named.items() if checks]
    return "fail" if named["problem"] else "pass", f"{len(lines)} lines: {', '.join(words) or 'all ok'}"


def kernels(subject: Subject, limits: Limits) -> Answer:
    """Return whether every launch that ran gave the right numbers."""
    return _verdicts(subject.evidence.table("findings/probes"), ("works",), "launches")


def canary(subject: Subject, limits: Limits) -> Answer:
    """Return whether every dtype and attention that read agreed with float32."""
    return _verdicts(subject.evidence.table("findings/canary"), ("same text", "within rounding"), "variants")


def _verdicts(found: pd.DataFrame, good: tuple[str, ...], what: str) -> Answer:
    verdict = found.reindex(columns=["verdict"])["verdict"]
    right, bad = int(verdict.isin(good).sum()), found[verdict.isin(_BROKEN)]
    if not right + len(bad):
        return "not measured", f"none of {len(found)} {what} ran here"
    if len(bad):
        return "fail", f"{len(bad)} of {right + len(bad)} {what}: {bad['verdict'].iloc[0]} ({bad['reason'].iloc[0]})"
    return "pass", f"{right} {what} are right; {len(found) - right} cannot run here"


def finite(subject: Subject, limits: Limits) -> Answer:
    """Return whether no reading was `invalid` in any dtype but float16."""
    ended = subject.rows[subject.rows["status"].isin([*WITH_TEXT, "invalid"]) & (subject.rows["dtype"] != "float16")]
    if ended.empty:
        return "not measured", "nothing was read"
    bad = ended[ended["status"] == "invalid"]
    words = f"{len(bad)} of {len(ended)} readings of {subject.model_id} had NaN or infinity"
    return ("fail", f"{words} ({bad['reason'].iloc[0]})") if len(bad) else ("pass", words)


def quality(subject: Subject, limits: Limits) -> Answer:
    """Return whether pages that are not of our sets are read with an accuracy whose lower end reaches the floor."""
    own = subject.rows[~subject.rows["set"].isin(OWN_SETS)].dropna(subset=["cer_edits"])
    if own["page"].nunique() < limits["pages"]:
        return "not measured", f"{own['page'].nunique()} pages of your own were scored, {limits['pages']} needed"
    error = interval_of(_chosen(own))
    if error is None:
        return "not measured", "the truths are empty"
    words = (
        f"{1 - error.point:.1%} of letters right ({1 - error.high:.1%} to {1 - error.low:.1%}) over "
        f"{error.documents} pages; the floor is {limits['floor']:.0%}"
    )
    return "pass" if 1 - error.high >= limits["floor"] else "fail", words


def _chosen(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the recommended setting; where none is, of the one with most pages."""
    groups = dict(groups_by_setting(rows))
    best = [one.settings for one in recommend(judge_runs(rows)) if one.settings in groups]
    if best:
        return groups[best[0]]
    return max(groups.values(), key=lambda group: group["page"].nunique(), default=rows)


def memory(subject: Subject, limits: Limits) -> Answer:
    """Return whether weights, the largest page and the device's own needs leave the margin free."""
    loads, machine = subject.evidence.table("findings/load"), subject.evidence.stack
    rows = _chosen(subject.rows)
    out = rows[rows["status"] == "oom"]
    if len(out):
        return "fail", f"{len(out)} of {len(rows)} readings ran out of memory ({out['reason'].iloc[0]})"
    rows = rows.dropna(subset=["peak_memory_bytes"])
    if loads.empty or rows.empty or not machine:
        return "not measured", "the weights' size, a page's memory and the machine's are needed"
    dtype = rows["actual_dtype"].iloc[0]
    weights = loads[(loads["model_id"] == subject.model_id) & (loads["dtype"] == dtype)]["weight_bytes"].max()
    if weights != weights:
        return "not measured", f"{subject.model_id} was not loaded in {dtype} by 07-limits"
    peak, reserved = rows[list(_MEMORY)].astype(float).max()
    used, total = weights + peak, machine["memory_bytes"]
    if "gpu_memory_bytes" in machine:
        used = max(used, reserved if reserved == reserved else 0) + CONTEXT_BYTES
        total = machine["gpu_memory_bytes"]
    words = (
        f"{used / _GIB:.2f} of {total / _GIB:.1f} GiB for {subject.model_id} and its largest page "
        f"({rows['image_tokens'].max():.0f} image tokens): {1 - used / total:.0%} left, {limits['margin']:.0%} wanted"
    )
    return "pass" if 1 - used / total >= limits["margin"] else "fail", words


def speed(subject: Subject, limits: Limits) -> Answer:
    """Return whether decoding reaches its share of what the measured bandwidth allows."""
    found = subject.evidence.table("findings/speed")
    large = found[found["model_id"] != EMBEDDED] if len(found) else found
    if large.empty:
        return "not measured", "the embedded reader lives in the cache, so its share says nothing"
    best = large.sort_values("tpot_share").iloc[-1]
    words = f"{best['model_id']}, {best['dtype']}, {best['attn_implementation']}: {best['tpot_share']:.0%} of the floor"
    if best["tpot_share"] > limits["most"]:
        return "not measured", f"{words}, so the bandwidth was measured too low"
    return "pass" if best["tpot_share"] >= limits["share"] else "fail", f"{words}, {limits['share']:.0%} wanted"


def soak(subject: Subject, limits: Limits) -> Answer:
    """Return whether a soak that was long enough ended without growth, changed text, failure or restart."""
    found = subject.evidence.table("findings/soak")
    if found.empty:
        return "not measured", "no soak in this run"
    line = found.iloc[0]
    words = f"{line['words']}, with {line['model_id']}"
    if line["model_id"] != subject.model_id:
        return "not measured", f"the soak read with {line['model_id']}, not with {subject.model_id or 'this model'}"
    short = line["pages"] < limits["pages"] and line["minutes"] < limits["minutes"]
    if short and line["verdict"] != "fail":
        return "not measured", f"{words}; {limits['pages']} pages or {limits['minutes']} minutes needed"
    return "not measured" if line["verdict"] == "open" else line["verdict"], words


def recovery(subject: Subject, limits: Limits) -> Answer:
    """Return whether a new process computed after one had died."""
    found = subject.evidence.table("findings/recovery")
    fresh = found[found["where"] == "new process"] if len(found) else found
    if fresh.empty:
        return "not measured", "no process was made to die"
    first = found.iloc[0]
    words = f"after '{first['attempt']}' ({first['outcome']}), a new process: {fresh['outcome'].iloc[0]}"
    return "pass" if fresh["works"].all() else "fail", words


#: What answers an entry of readiness.yaml, by its id.
CHECKS = {check.__name__: check for check in (stack, kernels, canary, finite, quality, memory, speed, soak, recovery)}


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
    checks: tuple[Check, ...]

    def weight_of(self, *states: State) -> int:
        """Return the weight of the checks in these states."""
        return sum(check.weight for check in self.checks if check.state in states)

    @property
    def score(self) -> float | None:
        """The share of the measured weight that passed; None where nothing was measured."""
        measured = self.weight_of("pass", "fail")
        return self.weight_of("pass") / measured if measured else None

    @property
    def words(self) -> str:
        """The score, what it counts, and what it does not, in one sentence."""
        measured, missing = self.weight_of("pass", "fail"), self.weight_of("not measured")
        if self.score is None:
            return f"nothing was measured (weight {missing})"
        names = ", ".join(check.id for check in self.checks if check.state == "not measured")
        rest = f"; not measured, weight {missing}: {names}" if names else ""
        return f"{self.score:.0%} of the weight that was measured ({measured} of {measured + missing}) passes{rest}"

    def table(self) -> pd.DataFrame:
        """Return one line per check, with the model."""
        own = {"model_id": self.model_id, "weights": "pretrained"}
        return pd.DataFrame([asdict(check) | own for check in self.checks])


def check_readiness(run: Evidence | Path) -> Readiness:
    """Return the checks of a run, by its evidence or folder.

    Raises:
        RecordError: a file of the run is damaged.
    """
    evidence = run if isinstance(run, Evidence) else Evidence(run)
    subject = subject_of(evidence)
    entries = yaml.safe_load(Path(__file__).with_name("readiness.yaml").read_text(encoding="utf-8"))
    return Readiness(evidence.machine, subject.model_id, tuple(_check(entry, subject) for entry in entries))


def _check(entry: dict[str, Any], subject: Subject) -> Check:
    state, reason = CHECKS[entry["id"]](subject, entry.get("limits", {}))
    if state == "not measured":
        reason = f"{reason}; {entry['measure']}"
    return Check(entry["id"], entry["asks"], state, entry["weight"], reason)
