"""The checks of readiness, one function each: a run's evidence and the limits in, a state and its reason out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ocrlab.scoring.outcomes import WITH_TEXT
from ocrlab.study.readiness_pages import EMBEDDED, Limits, State, Subject, memory, quality

if TYPE_CHECKING:
    import pandas as pd


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
