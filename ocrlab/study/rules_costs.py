"""What rows say of the report's figures: load-8.63, infer-7.0, vram-4.12, vram-11.94, readiness-84."""

from __future__ import annotations

from ocrlab.scoring.statistics import bootstrap_median
from ocrlab.study.evidence import Tables
from ocrlab.study.recommend import MIN_PAGES, quality_rows
from ocrlab.study.verdict import CONFIRMED, OPEN, REFUTED, Told

_GIB = 2**30
_LOAD_S, _PAGE_S, _NEAR = 8.63, 7.0, 0.2
_WEIGHTS_GIB, _ROUNDED = 4.12, 0.005
_CARD_GIB, _CARD_NEAR = 11.94, 0.01
_READY = 0.84


def load_863(tables: Tables) -> Told:
    """Return whether 8.63 s lie between a load from a warm file cache and one from a cold, with 20 % to either side."""
    loads = tables["findings/load"]
    loads = loads[loads["cache"].isin(["warm", "cold"])]
    median = loads[loads["status"] == "ok"].groupby("cache")["load_s"].median()
    told = ", ".join(f"{cache} {seconds:.2f} s" for cache, seconds in median.items())
    if not {"warm", "cold"} <= set(median.index):
        why = loads.loc[loads["status"] != "ok", "reason"]
        return Told(OPEN, f"loads: {told or 'none'}; {why.iloc[0] if len(why) else 'warm and cold are both needed'}")
    told = f"from files in memory and from disk: {told} (libraries imported before)"
    if (1 - _NEAR) * median.min() <= _LOAD_S <= (1 + _NEAR) * median.max():
        return Told(CONFIRMED, f"{_LOAD_S} s lies among them; {told}")
    return Told(REFUTED, told)


def infer_70(tables: Tables) -> Told:
    """Return whether the median page in bfloat16 with eager, one at a time, takes about 7.0 s; says what does."""
    rows = tables["rows/*"]
    if "page_s" not in rows or "actual_dtype" not in rows:
        return Told(OPEN, "no page was read")
    rows = quality_rows(rows).dropna(subset=["page_s", "ttft_s", "tpot_s"])
    mine = rows[(rows["actual_dtype"] == "bfloat16") & (rows["attn_implementation"] == "eager")]
    mine = mine[mine["batch_size"] == 1]
    if mine["page"].nunique() < MIN_PAGES:
        pages = mine["page"].nunique()
        return Told(OPEN, f"{pages} pages read with bfloat16, eager, one at a time; {MIN_PAGES} needed")
    found = bootstrap_median(mine.groupby("page")["page_s"].median().tolist())
    ttft, tpot = mine["ttft_s"].median(), mine["tpot_s"].median()
    told = (
        f"a page takes {found.point:.2f} s (median of {mine['page'].nunique()} pages, {found.low:.2f} to "
        f"{found.high:.2f} s; {mine['tokens'].median():.0f} tokens, {mine['image_tokens'].median():.0f} image tokens); "
        f"{ttft:.2f} s to the first token and {1000 * tpot:.1f} ms a token, so 7.0 s would be "
        f"{max(0.0, (_PAGE_S - ttft) / tpot):.0f} tokens here"
    )
    low, high = (1 - _NEAR) * _PAGE_S, (1 + _NEAR) * _PAGE_S
    if low <= found.low and found.high <= high:
        return Told(CONFIRMED, told)
    return Told(REFUTED if found.high < low or found.low > high else OPEN, told)


def vram_412(tables: Tables) -> Told:
    """Return whether weights and a reading together stay within 4.12 GiB in a two-byte dtype."""
    loads = tables["findings/load"]
    mine = loads[(loads["status"] == "ok") & loads["dtype"].isin(["bfloat16", "float16"])]
    mine = mine.dropna(subset=["decode_bytes"])
    mine = mine[mine["quantization"].isna()] if "quantization" in mine else mine
    if mine.empty:
        return Told(OPEN, "it was not loaded and read in bfloat16 or float16")
    line = mine.iloc[-1]
    weights, prefill, decode = (line[name] / _GIB for name in ("weight_bytes", "prefill_bytes", "decode_bytes"))
    peak = weights + max(prefill, decode)
    told = (
        f"weights {weights:.3f} GiB; with a page of {line['image_tokens']:.0f} image tokens "
        f"{weights + prefill:.3f} GiB at the prefill and {weights + decode:.3f} GiB with "
        f"{line['tokens']:.0f} tokens decoded ({line['device']})"
    )
    if peak <= _WEIGHTS_GIB + _ROUNDED:
        return Told(CONFIRMED, told)
    alone = abs(weights - _WEIGHTS_GIB) <= 2 * _ROUNDED
    return Told(REFUTED, f"{'that is the weights alone; ' if alone else ''}{told}")


def vram_1194(tables: Tables) -> Told:
    """Return whether an RTX 5070 Ti has 11.94 GiB; another card says nothing of it."""
    stack = tables["findings/stack"].iloc[0]
    if not isinstance(stack.get("gpu"), str):
        return Told(OPEN, "no GPU here")
    memory = stack["gpu_memory_bytes"] / _GIB
    limit = stack.get("power_limit_w")
    watts = f"{limit:.0f} W" if isinstance(limit, float) and limit == limit else "power limit not told"
    told = f"{stack['gpu']}: {memory:.2f} GiB, {stack['multiprocessors']:.0f} SMs, {watts}"
    if "5070 ti" not in stack["gpu"].lower():
        return Told(OPEN, f"this card is another one ({told})")
    near = abs(memory - _CARD_GIB) <= _CARD_NEAR * _CARD_GIB
    return Told(CONFIRMED if near else REFUTED, told)


def readiness_84(tables: Tables) -> Told:
    """Return whether the checks' score is 84 %, whatever those that were not measured would have said."""
    checks = tables["readiness"]
    weight = checks.groupby("state")["weight"].sum()
    passed, open_, total = weight.get("pass", 0), weight.get("not measured", 0), weight.sum()
    low, high = passed / total, (passed + open_) / total
    if open_:
        told = f"between {low:.0%} and {high:.0%} of the weight passes, with {open_:.0f} of {total:.0f} not measured"
    else:
        told = f"{low:.0%} of the weight passes, all of it measured"
    if round(low, 2) == round(high, 2) == _READY:
        return Told(CONFIRMED, told)
    return Told(OPEN if round(low, 2) <= _READY <= round(high, 2) else REFUTED, told)
