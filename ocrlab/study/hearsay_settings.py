"""What this machine's rows say about claims on attention and dtype, in words that hold for this machine only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ocrlab.scoring import bootstrap_median
from ocrlab.study.dispatch import KERNELS
from ocrlab.study.headroom import first_to_overflow

if TYPE_CHECKING:
    import pandas as pd

_ENOUGH = 6  # fewer pairs all lean one way by chance more often than once in twenty


def verdicts_on_attention(
    contrasts: pd.DataFrame, fidelity: pd.DataFrame, exponents: pd.DataFrame, kernels: pd.DataFrame
) -> dict[str, str]:
    """Return what the tables of contrast, fidelity, growth and dispatch say of the claims eager-stable, sdpa-active."""
    return {"eager-stable": _eager(contrasts, fidelity, exponents), "sdpa-active": _active(kernels)}


def verdicts_on_dtypes(
    contrasts: pd.DataFrame, fidelity: pd.DataFrame, speed: pd.DataFrame, headroom: pd.DataFrame, tf32: pd.DataFrame
) -> dict[str, str]:
    """Return what the tables say of the claims bf16-100, fp16-forbidden and tf32; ways are `dtype, attention`."""
    return {
        "bf16-100": _bfloat16(contrasts, fidelity, speed),
        "fp16-forbidden": _float16(contrasts, fidelity, headroom),
        "tf32": _tf32(tf32),
    }


def ratio_words(rows: pd.DataFrame, column: str, way: str, other: str) -> str:
    """Return how many times a way's column is another's, in words: the median ratio over pairs, with its interval.

    A pair is one page, or one repetition of a page where there are several: of a time, it is the machine that varies.
    """
    keys = ["page", "repeat"] if "repeat" in rows else ["page"]
    known = rows.dropna(subset=[column]).set_index(["way", *keys])[column]
    if not {way, other} <= set(known.index.get_level_values("way")):
        return f"not compared with {other}"
    pairs = known[way].to_frame("a").join(known[other].to_frame("b"), how="inner")
    if (pairs["a"] == pairs["b"]).all():
        return f"the same as {other}'s"
    ratios = (pairs["a"] / pairs["b"])[(pairs > 0).all(axis=1)]
    if len(ratios) < _ENOUGH:
        return f"{ratios.median():.2g} times {other}'s ({len(ratios)} pairs, too few for an interval)"
    found = bootstrap_median(np.log(ratios).tolist())
    point, low, high = (float(np.exp(v)) for v in (found.point, found.low, found.high))
    calm = ", no difference seen" if low <= 1 <= high else ""
    return f"{point:.2g} times {other}'s ({low:.2g} to {high:.2g} over {len(ratios)} pairs{calm})"


def failures(fidelity: pd.DataFrame, way: str) -> tuple[int, int, str]:
    """Return on how many pages a way gave no numbers, of how many that the reference read, and the first reason."""
    mine = fidelity[(fidelity["way"] == way) & (fidelity["reference"] == "ok")]
    bad = mine[mine["status"] != "ok"]
    return len(bad), len(mine), "" if bad.empty else str(bad["reason"].iloc[0])


def _eager(contrasts: pd.DataFrame, fidelity: pd.DataFrame, exponents: pd.DataFrame) -> str:
    line = contrasts[contrasts["way"] == "eager"].iloc[0]
    bad, pages, why = failures(fidelity, "eager")
    unread = int(contrasts["pages"].max() - line["pages"])
    fitted = exponents.dropna(subset=["exponent"]).to_dict("records") if "exponent" in exponents else []
    grows = ", ".join("{way} {exponent:.2f} ({low:.2f} to {high:.2f})".format_map(fit) for fit in fitted)
    told = (
        f"in CER {line['words'] or 'nothing was scored'}; KL to float32 is "
        f"{ratio_words(fidelity, 'kl_mean', 'eager', 'sdpa')}; "
        f"memory grows with image tokens to the power of: {grows or 'not measured'}"
    )
    if bad or unread:
        return f"refuted here: eager failed on {max(bad, unread)} of {pages} pages ({why or line['reason']}); {told}"
    others = contrasts[(contrasts["pages"] == line["pages"]) & (contrasts["way"] != "eager")]
    if others.empty:
        return f"not settled: nothing but eager ran here; {told}"
    if line["kind"] in {"worse", "better"}:
        return f"{'refuted' if line['kind'] == 'worse' else 'supported'} here: {told}"
    ways = "; ".join(others["way"])
    return f"not supported here: what eager read was read by others as well ({ways}); {told}"


def _active(kernels: pd.DataFrame) -> str:
    done = {str(line["way"]): line for line in kernels[kernels["status"] == "ok"].to_dict("records")}
    if not {"eager", "sdpa"} <= set(done):
        return "not tested: eager or sdpa did not run here"
    eager = done["eager"]
    calls = int(sum(eager[name] for name in KERNELS))
    end = "the two exclude each other" if calls == 0 else "both at once"
    return f"eager called {calls} SDPA kernels ({eager['fused']:.0f} fused), sdpa called {done['sdpa']['took']}: {end}"


def _of(contrasts: pd.DataFrame, dtype: str) -> pd.DataFrame:
    return contrasts[contrasts["way"].str.startswith(f"{dtype}, ")]


def _bfloat16(contrasts: pd.DataFrame, fidelity: pd.DataFrame, speed: pd.DataFrame) -> str:
    lines = _of(contrasts, "bfloat16")
    if lines.empty or not lines["pages"].sum():
        return "not tested: bfloat16 did not run here"
    line = lines[lines["pages"] > 0].iloc[0]
    way = str(line["way"])
    exact = way.replace("bfloat16", "float32", 1)
    error = fidelity[fidelity["way"] == way]["kl_mean"].median()
    others = [w for w in dict.fromkeys(speed["way"]) if w != way and w.split(", ", 1)[1] == way.split(", ", 1)[1]]
    times = ", ".join(ratio_words(speed, "page_s", way, other) for other in others)
    same = "" if line["same_text"] is None else f"the same text as {exact} on {line['same_text']:.0%} of pages, "
    return (
        f"'100 %' has no meaning as stated; {way}: {same}in CER {line['words'] or 'nothing was scored'}; "
        f"KL {error:.2g} nats; time a page {times or 'not compared'}"
    )


def _float16(contrasts: pd.DataFrame, fidelity: pd.DataFrame, headroom: pd.DataFrame) -> str:
    ways = list(_of(contrasts, "float16")["way"])
    told = []
    broken = 0
    for way in ways:
        bad, pages, why = failures(fidelity, way)
        broken += int(((fidelity["way"] == way) & (fidelity["status"] == "invalid")).sum())
        beside = ratio_words(fidelity, "kl_mean", way, way.replace("float16", "bfloat16", 1))
        told.append(f"{way}: {bad} of {pages} pages fail{f' ({why})' if bad else ''}, KL {beside}")
    worst, scores = first_to_overflow(headroom), first_to_overflow(headroom, "scores")
    if worst is not None and scores is not None:
        told.append(
            f"least headroom {worst['bits']:.1f} bits at the {worst['value']} of {worst['module']}, among eager's "
            f"scores {scores['bits']:.1f} bits in {scores['module']}"
        )
    if not ways:
        return f"not tested: float16 did not run here; {'; '.join(told)}"
    beyond = worst is not None and worst["bits"] < 0
    head = "supported here" if broken or beyond else "these pages do not bear it out"
    return f"{head}: {'; '.join(told)}"


def _tf32(table: pd.DataFrame) -> str:
    done = table[table["status"] == "ok"]
    if done.empty:
        return f"not tested: {table['reason'].iloc[0]}"
    parts = []
    for _, line in done.iterrows():
        changed = (
            "no logit changes" if line["logit_error"] == 0 else f"a logit changes by up to {line['logit_error']:.2g}"
        )
        speed = f"{line['ratio']:.2f} times the time (quartiles {line['ratio_low']:.2f} to {line['ratio_high']:.2f})"
        parts.append(f"a {line['dtype']} model: {changed}, {speed}")
    return "; ".join(parts)
