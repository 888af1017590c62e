"""What rows say of each claim: one function per claim, named after its id, from tables to an answer and its reason."""

from __future__ import annotations

import pandas as pd
from packaging.version import Version

from ocrlab.experiments.evidence import CONFIRMED, OPEN, REFUTED, Answer, Tables, first_to_overflow, overflow_words
from ocrlab.experiments.limits import growth_exponents
from ocrlab.experiments.recommend import MIN_PAGES, groups_by_setting, quality_rows
from ocrlab.machine.attention import SDPA_KERNELS
from ocrlab.machine.hardware import coverage
from ocrlab.scoring.outcomes import WITH_TEXT
from ocrlab.scoring.statistics import bootstrap_median
from ocrlab.study.compare import failures, interval_of, name_variants, ratio, ratio_words

_GIB = 2**30
_BROKEN = ("wrong", "crashed", "timed out")
_TF32_MATTERS = 0.05  # of the time of a pass
_WHOLE_PAGES = 20  # without an edit, for "100 %"
_MARGIN = 0.005  # half a CER point, as everywhere
# The report's figures, and how near a measurement must come to them.
_LOAD_S, _PAGE_S, _NEAR = 8.63, 7.0, 0.2
_WEIGHTS_GIB, _ROUNDED = 4.12, 0.005
_CARD_GIB, _CARD_NEAR = 11.94, 0.01
_READY = 0.84


# Dtypes and quality.


def bf16_100(tables: Tables) -> Answer:
    """Return whether bfloat16 is right in every launch and on every page, and seen to be faster than both others."""
    plain = tables["findings/probes"].query("dtype == 'bfloat16' and attention in ['eager', 'sdpa']")
    bad = plain[plain["verdict"].isin(_BROKEN)]
    words = f"{(plain['verdict'] == 'works').sum()} launches of eager and sdpa in bfloat16 give float64's numbers"
    if len(bad):
        return REFUTED, f"{words}, {len(bad)} do not ({bad['reason'].iloc[0]})"
    lines = _of(tables["findings/03-dtype-contrast"], "bfloat16")
    if plain.empty or lines.empty:
        return OPEN, f"{words}; bfloat16 was not read with"
    line, fidelity = lines.iloc[0], tables["findings/03-dtype-fidelity"]
    variant = str(line["variant"])
    failed, pages, why = failures(fidelity, variant)
    if failed or not line["pages"]:
        return REFUTED, f"{words}; {variant} failed on {failed} of {pages} pages ({why or line['reason']})"
    error = fidelity[fidelity["variant"] == variant]["kl_mean"].median()
    words += f"; {variant} against float32: {line['words'] or 'nothing scored'}, KL {error:.2g} nats per token"
    if line["kind"] == "worse":
        return REFUTED, words
    speed = name_variants(tables["rows/03-dtype-speed"], with_dtype=True)
    others = [variant.replace("bfloat16", name, 1) for name in ("float32", "float16")]
    words += "; time per page " + ", ".join(ratio_words(speed, "page_s", variant, other) for other in others)
    found = [ratio(speed, "page_s", variant, other) for other in others]
    if any(r is not None and r.low is not None and r.low > 1 for r in found):
        return REFUTED, f"not the fastest: {words}"
    if all(r is not None and r.high is not None and r.high < 1 for r in found):
        return CONFIRMED, words
    return OPEN, f"fastest is open: {words}"


def fp16_forbidden(tables: Tables) -> Answer:
    """Return whether float16 breaks in every attention, or one reads every page, no worse, with finite numbers."""
    contrasts, fidelity = tables["findings/03-dtype-contrast"], tables["findings/03-dtype-fidelity"]
    ran, parts = [], []
    for line in _of(contrasts, "float16").to_dict("records"):
        variant = str(line["variant"])
        bad, pages, why = failures(fidelity, variant)
        broken = ((fidelity["variant"] == variant) & (fidelity["status"] == "invalid")).any()
        beside = ratio_words(fidelity, "kl_mean", variant, variant.replace("float16", "bfloat16", 1))
        failed = f"{bad} of {pages} pages fail ({why})" if bad else f"reads all {pages} pages"
        parts.append(f"{variant}: {failed}, in CER {line['words'] or 'nothing scored'}, KL {beside}")
        whole = pages > 0 and not bad and line["pages"] == line["of"] and line["kind"] in {"better", "not worse"}
        ran.append("broken" if broken else "whole" if whole else "open")
    headroom, overflow = tables["findings/03-dtype-headroom"], tables["findings/overflow"]
    worst, scores = (first_to_overflow(headroom, value) for value in (None, "scores"))
    if worst is not None and scores is not None:
        parts.append(
            f"least headroom {worst['bits']:.1f} bits at the {worst['value']} of {worst['module']}, among eager's "
            f"scores {scores['bits']:.1f} bits in {scores['module']}"
        )
    if len(overflow):
        parts.append(f"on random inputs {overflow_words(overflow)}")
    words = "; ".join(parts)
    if "whole" in ran:
        return REFUTED, f"'never' is too much: {words}"
    if ran and set(ran) == {"broken"}:
        return CONFIRMED, words
    return OPEN, words if ran else f"float16 was not read with; {words}"


def tf32(tables: Tables) -> Answer:
    """Return whether TF32 shortens a pass of a bfloat16 model, which is what the report ran."""
    table = tables["findings/03-dtype-tf32"]
    done = table[table["status"] == "ok"]
    if done.empty:
        return OPEN, str(table["reason"].iloc[0])
    words = "; ".join(
        f"a {line['dtype']} model: "
        + ("no logit changes" if line["logit_error"] == 0 else f"a logit changes by up to {line['logit_error']:.2g}")
        + f", {line['ratio']:.2f} times the time (quartiles {line['ratio_low']:.2f} to {line['ratio_high']:.2f})"
        for line in done.to_dict("records")
    )
    mine = done[done["dtype"] == "bfloat16"]
    if mine.empty:
        return OPEN, f"a bfloat16 model was not tried; {words}"
    low, high = mine["ratio_low"].iloc[0], mine["ratio_high"].iloc[0]
    if high < 1 - _TF32_MATTERS:
        return CONFIRMED, words
    if low > 1 - _TF32_MATTERS:
        return REFUTED, f"it does not shorten a bfloat16 model's pass by {_TF32_MATTERS:.0%}; {words}"
    return OPEN, words


def quality_100(tables: Tables) -> Answer:
    """Return whether a setting reads without an edit, or even the best one's interval lies above 0."""
    rows = tables["rows/*"]
    scored = quality_rows(rows).dropna(subset=["cer_edits"]) if "cer_edits" in rows else rows[:0]
    groups = [g for _, g in groups_by_setting(scored) if g["page"].nunique() >= MIN_PAGES] if len(scored) else []
    if not groups:
        return OPEN, f"no setting read {MIN_PAGES} pages with a truth"
    best = min(groups, key=lambda g: (g["cer_edits"].sum() / max(1, g["cer_length"].sum()), -g["page"].nunique()))
    error = interval_of(best)
    if error is None:
        return OPEN, "the truths are empty"
    pages, edits = best["page"].nunique(), int(best["cer_edits"].sum())
    words = (
        f"the best of {len(groups)} settings has a CER of {error.point:.2%} ({error.low:.2%} to {error.high:.2%}) over "
        f"{pages} pages of {', '.join(sorted(set(best['set'])))}"
    )
    if edits == 0 and pages >= _WHOLE_PAGES:
        return CONFIRMED, f"{words}: not one edit"
    return REFUTED if error.low > 0 else OPEN, words


def _of(contrasts: pd.DataFrame, dtype: str) -> pd.DataFrame:
    lines = contrasts[contrasts["variant"].str.startswith(f"{dtype}, ")]
    return lines[lines["of"].fillna(0) > 0]


# The report's figures: seconds, memory and readiness.


def load_863(tables: Tables) -> Answer:
    """Return whether 8.63 s lie between a load from a warm file cache and one from a cold, with 20 % to either side."""
    loads = tables["findings/load"].query("cache in ['warm', 'cold']")
    median = loads[loads["status"] == "ok"].groupby("cache")["load_s"].median()
    words = ", ".join(f"{cache} {seconds:.2f} s" for cache, seconds in median.items())
    if len(median) < 2:
        why = loads.loc[loads["status"] != "ok", "reason"]
        return OPEN, f"loads: {words or 'none'}; {why.iloc[0] if len(why) else 'warm and cold are both needed'}"
    words = f"from files in memory and from disk: {words} (libraries imported before)"
    if (1 - _NEAR) * median.min() <= _LOAD_S <= (1 + _NEAR) * median.max():
        return CONFIRMED, f"{_LOAD_S} s lies among them; {words}"
    return REFUTED, words


def infer_70(tables: Tables) -> Answer:
    """Return whether the median page in bfloat16 with eager, one at a time, takes about 7.0 s; says what does."""
    rows = tables["rows/*"]
    if not {"page_s", "actual_dtype"} <= set(rows):
        return OPEN, "no page was read"
    mine = (
        quality_rows(rows)
        .dropna(subset=["page_s", "ttft_s", "tpot_s"])
        .query("actual_dtype == 'bfloat16' and attn_implementation == 'eager' and batch_size == 1")
    )
    pages = mine["page"].nunique()
    if pages < MIN_PAGES:
        return OPEN, f"{pages} pages read with bfloat16, eager, one at a time; {MIN_PAGES} needed"
    found = bootstrap_median(mine.groupby("page")["page_s"].median().tolist())
    tokens, image_tokens, ttft, tpot = mine[["tokens", "image_tokens", "ttft_s", "tpot_s"]].median()
    words = (
        f"a page takes {found.point:.2f} s (median of {pages} pages, {found.low:.2f} to {found.high:.2f} s; "
        f"{tokens:.0f} tokens, {image_tokens:.0f} image tokens); {ttft:.2f} s to the first token and "
        f"{1000 * tpot:.1f} ms per token, so 7.0 s would be {max(0.0, (_PAGE_S - ttft) / tpot):.0f} tokens here"
    )
    low, high = (1 - _NEAR) * _PAGE_S, (1 + _NEAR) * _PAGE_S
    if low <= found.low and found.high <= high:
        return CONFIRMED, words
    return REFUTED if found.high < low or found.low > high else OPEN, words


def vram_412(tables: Tables) -> Answer:
    """Return whether weights and a reading together stay within 4.12 GiB in a two-byte dtype."""
    loads = tables["findings/load"]
    loads = loads.reindex(columns=loads.columns.union(["quantization"]))
    mine = loads.query("status == 'ok' and dtype in ['bfloat16', 'float16'] and quantization.isna()")
    mine = mine.dropna(subset=["decode_bytes"])
    if mine.empty:
        return OPEN, "it was not loaded and read in bfloat16 or float16"
    line = mine.iloc[-1]
    weights, prefill, decode = (line[name] / _GIB for name in ("weight_bytes", "prefill_bytes", "decode_bytes"))
    words = (
        f"weights {weights:.3f} GiB; with a page of {line['image_tokens']:.0f} image tokens "
        f"{weights + prefill:.3f} GiB at the prefill and {weights + decode:.3f} GiB with "
        f"{line['tokens']:.0f} tokens decoded ({line['device']})"
    )
    if weights + max(prefill, decode) <= _WEIGHTS_GIB + _ROUNDED:
        return CONFIRMED, words
    alone = abs(weights - _WEIGHTS_GIB) <= 2 * _ROUNDED
    return REFUTED, f"{'that is the weights alone; ' if alone else ''}{words}"


def vram_1194(tables: Tables) -> Answer:
    """Return whether an RTX 5070 Ti has 11.94 GiB; another card says nothing of it."""
    stack = tables["findings/stack"].iloc[0]
    if not isinstance(stack.get("gpu"), str):
        return OPEN, "no GPU here"
    memory, limit = stack["gpu_memory_bytes"] / _GIB, stack.get("power_limit_w")
    watts = f"{limit:.0f} W" if isinstance(limit, float) and limit == limit else "power limit not known"
    words = f"{stack['gpu']}: {memory:.2f} GiB, {stack['multiprocessors']:.0f} SMs, {watts}"
    if "5070 ti" not in stack["gpu"].lower():
        return OPEN, f"this card is another one ({words})"
    return CONFIRMED if abs(memory - _CARD_GIB) <= _CARD_NEAR * _CARD_GIB else REFUTED, words


def readiness_84(tables: Tables) -> Answer:
    """Return whether the checks' score is 84 %, whatever those that were not measured would have said."""
    checks = tables["readiness"]
    weight = checks.groupby("state")["weight"].sum()
    passed, open_, total = weight.get("pass", 0), weight.get("not measured", 0), weight.sum()
    low, high = passed / total, (passed + open_) / total
    words = f"{low:.0%} of the weight passes, all of it measured"
    if open_:
        words = f"between {low:.0%} and {high:.0%} of the weight passes, with {open_:.0f} of {total:.0f} not measured"
    if round(low, 2) == round(high, 2) == _READY:
        return CONFIRMED, words
    return OPEN if round(low, 2) <= _READY <= round(high, 2) else REFUTED, words


# Faults and their remedies.


def dots_ocr_assert(tables: Tables) -> Answer:
    """Return whether broken logits alone end a sampling call, or healthy ones too on a card of capability 12.x."""
    sampling, stack = tables["findings/sampling"], tables["findings/stack"]
    card = "" if stack.empty else str(stack.iloc[0].get("compute_capability"))
    healthy, broken = (sampling[kind] for kind in (sampling["logits"] == "healthy", sampling["logits"] != "healthy"))
    raised = int((~broken["sampling"].str.startswith("token")).sum())
    greedy = int(broken["greedy"].str.startswith("token").sum())
    words = f"broken logits fail in {raised} of {len(broken)} cases when sampled and pass in {greedy} when greedy"
    if not healthy["sampling"].str.startswith("token").all():
        why = healthy["sampling"].iloc[0]
        return CONFIRMED if card.startswith("12.") else OPEN, f"healthy logits fail as well ({why}); {words}"
    if raised < len(broken):
        return OPEN, f"the assertion is not explained by broken logits here: {words}"
    asserted = broken["sampling"].str.startswith("assert").any()
    how = "as the assertion itself" if asserted else "as an ordinary error, since a CPU has no assertion"
    return REFUTED, (
        f"{words}, {how}; healthy ones pass. Broken logits suffice, on any architecture; what broke them on the "
        f"report's card is not settled"
    )


def cuda_recovery(tables: Tables) -> Answer:
    """Return whether any attempt in the process that met the assertion computed again."""
    recovery = tables["findings/recovery"]
    again = bool(recovery[recovery["where"] == "new process"]["works"].all())
    fresh = f"a new process {'works' if again else 'does not work'}"
    tries = recovery[recovery["where"] == "same process"][1:]
    if tries.empty:
        first = recovery.iloc[0]
        return OPEN, f"no attempt was made in the same process ({first['attempt']}: {first['outcome']}); {fresh}"
    words = f"{int(tries['works'].sum())} of {len(tries)} attempts in the same process worked; {fresh}"
    used = tries[tries["attempt"].isin(["a new tensor", "a matrix product"])]
    return CONFIRMED if used["works"].any() else REFUTED, words


def remote_code(tables: Tables) -> Answer:
    """Return whether Qwen2-VL was read without `trust_remote_code`, or only with it."""
    rows = tables["rows/*"]
    mine = rows[rows["model_id"].eq("tiny") | rows["model_id"].str.contains("Qwen2-VL")]
    trusted = mine["trust_remote_code"].astype(bool)
    read = mine["status"].isin(WITH_TEXT)
    without, refused = mine[read & ~trusted], mine[~read & ~trusted]
    if len(without):
        models = ", ".join(sorted(set(without["model_id"].str.split("/").str[-1])))
        return REFUTED, f"{len(without)} readings without it ({models}), by transformers' own classes"
    if (read & trusted).any() and len(refused):
        why = refused["reason"].iloc[0]
        return CONFIRMED, f"{(read & trusted).sum()} readings with it, none of {len(refused)} without it ({why})"
    return OPEN, "Qwen2-VL was not read here"


# Cards and attention.


def sm120_torch(tables: Tables) -> Answer:
    """Return whether the installed build has code for the card and plain kernels launch on it."""
    stack = tables["findings/stack"].iloc[0]
    torch, arch_list = str(stack["torch"]), list(stack["arch_list"] or [])
    card = stack.get("compute_capability")
    known = isinstance(card, str)
    found = coverage(arch_list, tuple(int(n) for n in card.split(".")) if known else (12, 0))  # type: ignore[arg-type, union-attr]
    paper = f"torch {torch}'s architecture list runs on {card if known else '12.0'}: {found.how} ({found.reason})"
    if not known:
        return OPEN, paper
    probes = tables["findings/probes"]
    plain = probes[(probes["attention"] == "eager") | ((probes["attention"] == "sdpa") & probes["kernel"].isna())]
    works = int((plain["verdict"] == "works").sum())
    words = f"{works} of {len(plain)} launches of eager and sdpa give float64's numbers; {paper}"
    if Version(torch).release < (2, 10):
        return OPEN, f"{words}; the report had 2.10.0, and this is older"
    if len(plain) and works == len(plain):
        return CONFIRMED, f"{words}; the report had 2.10.0+cu130"
    return REFUTED if works == 0 else OPEN, f"{words}; {_first(plain[plain['verdict'] != 'works'])}"


def fa2_incompatible(tables: Tables) -> Answer:
    """Return whether a launch of Flash Attention 2 gave the right numbers, or what is installed failed every time."""
    # Its functions take no mask, on any card.
    mine = tables["findings/probes"].query(
        "attention in ['flash_attention_2', 'hub_kernel'] and dtype in ['bfloat16', 'float16'] and case != 'padded'"
    )
    counts = ", ".join(f"{count} {verdict}" for verdict, count in mine["verdict"].value_counts().items())
    works, there = mine[mine["verdict"] == "works"], mine[mine["verdict"] != "not installed"]
    if len(works):
        return REFUTED, f"{len(works)} of {len(mine)} launches of Flash Attention 2 give float64's numbers"
    if there.empty:
        return OPEN, f"Flash Attention 2 was not launched ({counts or 'no probes in half precision'})"
    return CONFIRMED, f"no launch of what is installed works ({counts}); {_first(there)}"


def eager_stable(tables: Tables) -> Answer:
    """Return whether eager reads better than the others, or fails, reads worse, or has an equal beside it."""
    contrasts, fidelity = tables["findings/02-attention-contrast"], tables["findings/02-attention-fidelity"]
    eager = contrasts[contrasts["variant"] == "eager"]
    if eager.empty:
        return OPEN, "eager was not among the variants read"
    line = eager.iloc[0]
    bad, pages, why = failures(fidelity, "eager")
    unread = int(contrasts["pages"].max() - line["pages"])
    words = (
        f"in CER {line['words'] or 'nothing was scored'}; KL to float32 is "
        f"{ratio_words(fidelity, 'kl_mean', 'eager', 'sdpa')}{_growth(tables['findings/02-attention-growth'])}"
    )
    if bad or unread > 0:
        return REFUTED, f"eager failed on {max(bad, unread)} of {pages} pages ({why or line['reason']}); {words}"
    if line["kind"] in {"worse", "better"}:
        return REFUTED if line["kind"] == "worse" else CONFIRMED, words
    others = contrasts[(contrasts["pages"] == line["pages"]) & (contrasts["variant"] != "eager")]
    if others.empty:
        return OPEN, f"nothing but eager ran; {words}"
    names = "; ".join(others["variant"])
    if line["kind"] == "not worse" and line["low"] > -_MARGIN:
        return REFUTED, f"what eager read was read no worse without it ({names}); {words}"
    return OPEN, f"others read every page as well ({names}), but which reads better is open; {words}"


def sdpa_active(tables: Tables) -> Answer:
    """Return whether eager attention calls an SDPA kernel, as torch's profiler counts them."""
    kernels = tables["findings/02-attention-kernels"]
    done = {str(line["variant"]): line for line in kernels[kernels["status"] == "ok"].to_dict("records")}
    if not {"eager", "sdpa"} <= set(done):
        return OPEN, "eager or sdpa did not run"
    calls = int(sum(done["eager"][name] for name in SDPA_KERNELS))
    words = f"eager called {calls} SDPA kernels, sdpa called {done['sdpa']['took']}"
    if calls:
        return CONFIRMED, f"{words}: both at once"
    return REFUTED, f"{words}: the two exclude each other"


def _growth(growth: pd.DataFrame) -> str:
    exponents = growth_exponents(growth) if len(growth) else growth
    if "exponent" not in exponents:
        return ""
    fitted = exponents.dropna(subset=["exponent"]).to_dict("records")
    words = ", ".join("{variant} {exponent:.2f} ({low:.2f} to {high:.2f})".format_map(fit) for fit in fitted)
    return f"; memory grows with image tokens to the power of: {words}"


def _first(bad: pd.DataFrame) -> str:
    line = bad.iloc[0]
    return f"the first ({line['attention']}, {line['dtype']}, {line['case']}): {line['verdict']}, {line['reason']}"
