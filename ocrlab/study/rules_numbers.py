"""What rows say of the claims on dtypes and quality: bf16-100, fp16-forbidden, tf32, quality-100."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ocrlab.study.contrast import name_ways
from ocrlab.study.evidence import Tables
from ocrlab.study.headroom import first_to_overflow
from ocrlab.study.mechanisms import overflow_words
from ocrlab.study.ratios import failures, ratio, ratio_words
from ocrlab.study.recommend import MIN_PAGES, groups_by_setting, quality_rows
from ocrlab.study.summary import interval_of
from ocrlab.study.verdict import CONFIRMED, OPEN, REFUTED, Told

if TYPE_CHECKING:
    import pandas as pd

_BROKEN = ("wrong", "crashed", "timed out")
_TF32_MATTERS = 0.05  # of the time of a pass
_WHOLE_PAGES = 20  # without an edit, for "100 %"


def bf16_100(tables: Tables) -> Told:
    """Return whether bfloat16 is right in every launch and on every page, and seen to be faster than both others."""
    probes = tables["findings/probes"]
    plain = probes[(probes["dtype"] == "bfloat16") & probes["attention"].isin(["eager", "sdpa"])]
    bad = plain[plain["verdict"].isin(_BROKEN)]
    told = f"{int((plain['verdict'] == 'works').sum())} launches of eager and sdpa in bfloat16 give float64's numbers"
    if len(bad):
        return Told(REFUTED, f"{told}, {len(bad)} do not ({bad['reason'].iloc[0]})")
    lines = _of(tables["findings/03-dtype-contrast"], "bfloat16")
    if plain.empty or lines.empty:
        return Told(OPEN, f"{told}; bfloat16 was not read with")
    line = lines.iloc[0]
    way, fidelity = str(line["way"]), tables["findings/03-dtype-fidelity"]
    failed, pages, why = failures(fidelity, way)
    if failed or not line["pages"]:
        return Told(REFUTED, f"{told}; {way} failed on {failed} of {pages} pages ({why or line['reason']})")
    error = fidelity[fidelity["way"] == way]["kl_mean"].median()
    told += f"; {way} against float32: {line['words'] or 'nothing scored'}, KL {error:.2g} nats a token"
    if line["kind"] == "worse":
        return Told(REFUTED, told)
    return _fastest(name_ways(tables["rows/03-dtype-speed"], with_dtype=True), way, told)


def _fastest(speed: pd.DataFrame, way: str, told: str) -> Told:
    others = [way.replace("bfloat16", name, 1) for name in ("float32", "float16")]
    told += "; time a page " + ", ".join(ratio_words(speed, "page_s", way, other) for other in others)
    found = [ratio(speed, "page_s", way, other) for other in others]
    if any(r is not None and r.low is not None and r.low > 1 for r in found):
        return Told(REFUTED, f"not the fastest: {told}")
    if all(r is not None and r.high is not None and r.high < 1 for r in found):
        return Told(CONFIRMED, told)
    return Told(OPEN, f"fastest is open: {told}")


def fp16_forbidden(tables: Tables) -> Told:
    """Return whether float16 breaks in every attention, or one reads every page, no worse, with finite numbers."""
    contrasts, fidelity = tables["findings/03-dtype-contrast"], tables["findings/03-dtype-fidelity"]
    lines = _of(contrasts, "float16")
    ran, parts = [], []
    for line in lines.to_dict("records"):
        way = str(line["way"])
        bad, pages, why = failures(fidelity, way)
        broken = int(((fidelity["way"] == way) & (fidelity["status"] == "invalid")).sum())
        beside = ratio_words(fidelity, "kl_mean", way, way.replace("float16", "bfloat16", 1))
        failed = f"{bad} of {pages} pages fail ({why})" if bad else f"reads all {pages} pages"
        parts.append(f"{way}: {failed}, in CER {line['words'] or 'nothing scored'}, KL {beside}")
        whole = pages > 0 and not bad and line["pages"] == line["of"] and line["kind"] in {"better", "not worse"}
        ran.append("broken" if broken else "whole" if whole else "open")
    told = "; ".join([*parts, *_headroom(tables["findings/03-dtype-headroom"])])
    if len(tables["findings/overflow"]):
        told += f"; on random inputs {overflow_words(tables['findings/overflow'])}"
    if "whole" in ran:
        return Told(REFUTED, f"'never' is too much: {told}")
    if ran and set(ran) == {"broken"}:
        return Told(CONFIRMED, told)
    return Told(OPEN, told if ran else f"float16 was not read with; {told}")


def tf32(tables: Tables) -> Told:
    """Return whether TF32 shortens a pass of a bfloat16 model, which is what the report ran."""
    table = tables["findings/03-dtype-tf32"]
    done = table[table["status"] == "ok"]
    if done.empty:
        return Told(OPEN, str(table["reason"].iloc[0]))
    told = "; ".join(
        f"a {line['dtype']} model: "
        + ("no logit changes" if line["logit_error"] == 0 else f"a logit changes by up to {line['logit_error']:.2g}")
        + f", {line['ratio']:.2f} times the time (quartiles {line['ratio_low']:.2f} to {line['ratio_high']:.2f})"
        for line in done.to_dict("records")
    )
    mine = done[done["dtype"] == "bfloat16"]
    if mine.empty:
        return Told(OPEN, f"a bfloat16 model was not tried; {told}")
    low, high = mine["ratio_low"].iloc[0], mine["ratio_high"].iloc[0]
    if high < 1 - _TF32_MATTERS:
        return Told(CONFIRMED, told)
    if low > 1 - _TF32_MATTERS:
        return Told(REFUTED, f"it does not shorten a bfloat16 model's pass by {_TF32_MATTERS:.0%}; {told}")
    return Told(OPEN, told)


def quality_100(tables: Tables) -> Told:
    """Return whether a setting reads without an edit, or even the best one's interval lies above 0."""
    rows = tables["rows/*"]
    scored = quality_rows(rows).dropna(subset=["cer_edits"]) if "cer_edits" in rows else rows[:0]
    groups = [g for _, g in groups_by_setting(scored) if g["page"].nunique() >= MIN_PAGES] if len(scored) else []
    if not groups:
        return Told(OPEN, f"no setting read {MIN_PAGES} pages with a truth")
    best = min(groups, key=lambda g: (g["cer_edits"].sum() / max(1, g["cer_length"].sum()), -g["page"].nunique()))
    error = interval_of(best)
    if error is None:
        return Told(OPEN, "the truths are empty")
    pages, edits = best["page"].nunique(), int(best["cer_edits"].sum())
    told = (
        f"the best of {len(groups)} settings has a CER of {error.point:.2%} ({error.low:.2%} to {error.high:.2%}) over "
        f"{pages} pages of {', '.join(sorted(set(best['set'])))}"
    )
    if edits == 0 and pages >= _WHOLE_PAGES:
        return Told(CONFIRMED, f"{told}: not one edit")
    return Told(REFUTED if error.low > 0 else OPEN, told)


def _of(contrasts: pd.DataFrame, dtype: str) -> pd.DataFrame:
    lines = contrasts[contrasts["way"].str.startswith(f"{dtype}, ")]
    return lines[lines["of"].fillna(0) > 0]


def _headroom(headroom: pd.DataFrame) -> list[str]:
    worst, scores = (first_to_overflow(headroom, value) for value in (None, "scores"))
    if worst is None or scores is None:
        return []
    return [
        f"least headroom {worst['bits']:.1f} bits at the {worst['value']} of {worst['module']}, among eager's scores "
        f"{scores['bits']:.1f} bits in {scores['module']}"
    ]
