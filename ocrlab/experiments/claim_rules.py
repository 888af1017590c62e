"""What rows say of the claims on dtypes and quality: bf16-100, fp16-forbidden, tf32, quality-100."""

from __future__ import annotations

from typing import TYPE_CHECKING

from packaging.version import Version

from ocrlab.experiments.assertion import overflow_words
from ocrlab.experiments.dtype import first_to_overflow
from ocrlab.experiments.evidence import CONFIRMED, OPEN, REFUTED, Tables, Told
from ocrlab.experiments.limits import growth_exponents
from ocrlab.experiments.recommend import MIN_PAGES, groups_by_setting, quality_rows
from ocrlab.machine.attention import SDPA_KERNELS
from ocrlab.machine.hardware import coverage
from ocrlab.scoring.outcomes import WITH_TEXT
from ocrlab.scoring.statistics import bootstrap_median
from ocrlab.study.compare import failures, interval_of, name_variants, ratio, ratio_words

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
    variant, fidelity = str(line["variant"]), tables["findings/03-dtype-fidelity"]
    failed, pages, why = failures(fidelity, variant)
    if failed or not line["pages"]:
        return Told(REFUTED, f"{told}; {variant} failed on {failed} of {pages} pages ({why or line['reason']})")
    error = fidelity[fidelity["variant"] == variant]["kl_mean"].median()
    told += f"; {variant} against float32: {line['words'] or 'nothing scored'}, KL {error:.2g} nats a token"
    if line["kind"] == "worse":
        return Told(REFUTED, told)
    return _fastest(name_variants(tables["rows/03-dtype-speed"], with_dtype=True), variant, told)


def _fastest(speed: pd.DataFrame, variant: str, told: str) -> Told:
    others = [variant.replace("bfloat16", name, 1) for name in ("float32", "float16")]
    told += "; time a page " + ", ".join(ratio_words(speed, "page_s", variant, other) for other in others)
    found = [ratio(speed, "page_s", variant, other) for other in others]
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
        variant = str(line["variant"])
        bad, pages, why = failures(fidelity, variant)
        broken = int(((fidelity["variant"] == variant) & (fidelity["status"] == "invalid")).sum())
        beside = ratio_words(fidelity, "kl_mean", variant, variant.replace("float16", "bfloat16", 1))
        failed = f"{bad} of {pages} pages fail ({why})" if bad else f"reads all {pages} pages"
        parts.append(f"{variant}: {failed}, in CER {line['words'] or 'nothing scored'}, KL {beside}")
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
    lines = contrasts[contrasts["variant"].str.startswith(f"{dtype}, ")]
    return lines[lines["of"].fillna(0) > 0]


def _headroom(headroom: pd.DataFrame) -> list[str]:
    worst, scores = (first_to_overflow(headroom, value) for value in (None, "scores"))
    if worst is None or scores is None:
        return []
    return [
        f"least headroom {worst['bits']:.1f} bits at the {worst['value']} of {worst['module']}, among eager's scores "
        f"{scores['bits']:.1f} bits in {scores['module']}"
    ]


# What rows say of the report's figures: load-8.63, infer-7.0, vram-4.12, vram-11.94, readiness-84.


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


# What rows say of the claims on faults and their remedies: dots-ocr-assert, cuda-recovery, remote-code.


_USED = ("a new tensor", "a matrix product")


def dots_ocr_assert(tables: Tables) -> Told:
    """Return whether broken logits alone end a sampling call, or healthy ones too on a card of capability 12.x."""
    sampling, stack = tables["findings/sampling"], tables["findings/stack"]
    card = "" if stack.empty else str(stack.iloc[0].get("compute_capability"))
    drawn = sampling["sampling"].str.startswith("token")
    broken = sampling["logits"] != "healthy"
    raised, of = int((~drawn & broken).sum()), int(broken.sum())
    greedy = int(sampling[broken]["greedy"].str.startswith("token").sum())
    told = f"broken logits fail in {raised} of {of} cases when sampled and pass in {greedy} when greedy"
    if not drawn[~broken].all():
        why = sampling[~broken]["sampling"].iloc[0]
        return Told(CONFIRMED if card.startswith("12.") else OPEN, f"healthy logits fail as well ({why}); {told}")
    if raised < of:
        return Told(OPEN, f"the assertion is not explained by broken logits here: {told}")
    asserted = sampling[broken]["sampling"].str.startswith("assert").any()
    how = "as the assertion itself" if asserted else "as an ordinary error, since a CPU has no assertion"
    return Told(
        REFUTED,
        f"{told}, {how}; healthy ones pass. Broken logits suffice, on any architecture; what broke them on the "
        f"report's card is not settled",
    )


def cuda_recovery(tables: Tables) -> Told:
    """Return whether any attempt in the process that met the assertion computed again."""
    recovery = tables["findings/recovery"]
    again = bool(recovery[recovery["where"] == "new process"]["works"].all())
    fresh = f"a new process {'works' if again else 'does not work'}"
    tries = recovery[recovery["where"] == "same process"][1:]
    if tries.empty:
        first = recovery.iloc[0]
        return Told(OPEN, f"no attempt was made in the same process ({first['attempt']}: {first['outcome']}); {fresh}")
    told = f"{int(tries['works'].sum())} of {len(tries)} attempts in the same process worked; {fresh}"
    used = tries[tries["attempt"].isin(_USED)]
    return Told(CONFIRMED if used["works"].any() else REFUTED, told)


def remote_code(tables: Tables) -> Told:
    """Return whether Qwen2-VL was read without `trust_remote_code`, or only with it."""
    rows = tables["rows/*"]
    mine = rows[rows["model_id"].eq("tiny") | rows["model_id"].str.contains("Qwen2-VL")]
    read = mine[mine["status"].isin(WITH_TEXT)]
    trusted = read["trust_remote_code"].astype(bool)
    without = read[~trusted]
    if len(without):
        models = ", ".join(sorted(set(without["model_id"].str.split("/").str[-1])))
        return Told(REFUTED, f"{len(without)} readings without it ({models}), by transformers' own classes")
    refused = mine[~mine["trust_remote_code"].astype(bool)]
    if trusted.any() and len(refused):
        why = refused["reason"].iloc[0]
        return Told(CONFIRMED, f"{int(trusted.sum())} readings with it, none of {len(refused)} without it ({why})")
    return Told(OPEN, "Qwen2-VL was not read here")


# What rows say of the claims on cards and attention: sm120-torch, fa2-incompatible, eager-stable, sdpa-active.


_MARGIN = 0.005  # half a CER point, as everywhere
_FLASH = ("flash_attention_2", "hub_kernel")


def sm120_torch(tables: Tables) -> Told:
    """Return whether the installed build has code for the card and plain kernels launch on it."""
    stack = tables["findings/stack"].iloc[0]
    torch, arch_list = str(stack["torch"]), list(stack["arch_list"] or [])
    card = stack.get("compute_capability")
    known = isinstance(card, str)
    found = coverage(arch_list, tuple(int(n) for n in card.split(".")) if known else (12, 0))  # type: ignore[arg-type, union-attr]
    paper = f"torch {torch}'s architecture list runs on {card if known else '12.0'}: {found.how} ({found.reason})"
    if not known:
        return Told(OPEN, paper)
    probes = tables["findings/probes"]
    plain = probes[(probes["attention"] == "eager") | ((probes["attention"] == "sdpa") & probes["kernel"].isna())]
    works = int((plain["verdict"] == "works").sum())
    told = f"{works} of {len(plain)} launches of eager and sdpa give float64's numbers; {paper}"
    if Version(torch).release < (2, 10):
        return Told(OPEN, f"{told}; the report had 2.10.0, and this is older")
    if len(plain) and works == len(plain):
        return Told(CONFIRMED, f"{told}; the report had 2.10.0+cu130")
    return Told(REFUTED if works == 0 else OPEN, f"{told}; {_first(plain[plain['verdict'] != 'works'])}")


def fa2_incompatible(tables: Tables) -> Told:
    """Return whether a launch of Flash Attention 2 gave the right numbers, or what is installed failed every time."""
    probes = tables["findings/probes"]
    mine = probes[probes["attention"].isin(_FLASH) & probes["dtype"].isin(["bfloat16", "float16"])]
    mine = mine[mine["case"] != "padded"]  # its functions take no mask, on any card
    counts = ", ".join(f"{count} {verdict}" for verdict, count in mine["verdict"].value_counts().items())
    works = mine[mine["verdict"] == "works"]
    if len(works):
        return Told(REFUTED, f"{len(works)} of {len(mine)} launches of Flash Attention 2 give float64's numbers")
    there = mine[mine["verdict"] != "not installed"]
    if there.empty:
        return Told(OPEN, f"Flash Attention 2 was not launched ({counts or 'no probes in half precision'})")
    return Told(CONFIRMED, f"no launch of what is installed works ({counts}); {_first(there)}")


def eager_stable(tables: Tables) -> Told:
    """Return whether eager reads better than the others, or fails, reads worse, or has an equal beside it."""
    contrasts, fidelity = tables["findings/02-attention-contrast"], tables["findings/02-attention-fidelity"]
    eager = contrasts[contrasts["variant"] == "eager"]
    if eager.empty:
        return Told(OPEN, "eager was not among the variants read")
    line = eager.iloc[0]
    bad, pages, why = failures(fidelity, "eager")
    unread = int(contrasts["pages"].max() - line["pages"])
    told = (
        f"in CER {line['words'] or 'nothing was scored'}; KL to float32 is "
        f"{ratio_words(fidelity, 'kl_mean', 'eager', 'sdpa')}{_growth(tables['findings/02-attention-growth'])}"
    )
    if bad or unread > 0:
        return Told(REFUTED, f"eager failed on {max(bad, unread)} of {pages} pages ({why or line['reason']}); {told}")
    if line["kind"] == "worse":
        return Told(REFUTED, told)
    if line["kind"] == "better":
        return Told(CONFIRMED, told)
    others = contrasts[(contrasts["pages"] == line["pages"]) & (contrasts["variant"] != "eager")]
    if others.empty:
        return Told(OPEN, f"nothing but eager ran; {told}")
    names = "; ".join(others["variant"])
    if line["kind"] == "not worse" and line["low"] > -_MARGIN:
        return Told(REFUTED, f"what eager read was read no worse without it ({names}); {told}")
    return Told(OPEN, f"others read every page as well ({names}), but which reads better is open; {told}")


def sdpa_active(tables: Tables) -> Told:
    """Return whether eager attention calls an SDPA kernel, as torch's profiler counts them."""
    kernels = tables["findings/02-attention-kernels"]
    done = {str(line["variant"]): line for line in kernels[kernels["status"] == "ok"].to_dict("records")}
    if not {"eager", "sdpa"} <= set(done):
        return Told(OPEN, "eager or sdpa did not run")
    calls = int(sum(done["eager"][name] for name in SDPA_KERNELS))
    told = f"eager called {calls} SDPA kernels, sdpa called {done['sdpa']['took']}"
    if calls:
        return Told(CONFIRMED, f"{told}: both at once")
    return Told(REFUTED, f"{told}: the two exclude each other")


def _growth(growth: pd.DataFrame) -> str:
    exponents = growth_exponents(growth) if len(growth) else growth
    if "exponent" not in exponents:
        return ""
    fitted = exponents.dropna(subset=["exponent"]).to_dict("records")
    told = ", ".join("{variant} {exponent:.2f} ({low:.2f} to {high:.2f})".format_map(fit) for fit in fitted)
    return f"; memory grows with image tokens to the power of: {told}"


def _first(bad: pd.DataFrame) -> str:
    line = bad.iloc[0]
    return f"the first ({line['attention']}, {line['dtype']}, {line['case']}): {line['verdict']}, {line['reason']}"
