"""What rows say of the claims on cards and attention: sm120-torch, fa2-incompatible, eager-stable, sdpa-active."""

from __future__ import annotations

from typing import TYPE_CHECKING

from packaging.version import Version

from ocrlab.machine.hardware import coverage
from ocrlab.study.dispatch import KERNELS
from ocrlab.study.evidence import Tables
from ocrlab.study.growth import growth_exponents
from ocrlab.study.ratios import failures, ratio_words
from ocrlab.study.verdict import CONFIRMED, OPEN, REFUTED, Told

if TYPE_CHECKING:
    import pandas as pd

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
    eager = contrasts[contrasts["way"] == "eager"]
    if eager.empty:
        return Told(OPEN, "eager was not among the ways read")
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
    others = contrasts[(contrasts["pages"] == line["pages"]) & (contrasts["way"] != "eager")]
    if others.empty:
        return Told(OPEN, f"nothing but eager ran; {told}")
    ways = "; ".join(others["way"])
    if line["kind"] == "not worse" and line["low"] > -_MARGIN:
        return Told(REFUTED, f"what eager read was read no worse without it ({ways}); {told}")
    return Told(OPEN, f"others read every page as well ({ways}), but which reads better is open; {told}")


def sdpa_active(tables: Tables) -> Told:
    """Return whether eager attention calls an SDPA kernel, as torch's profiler counts them."""
    kernels = tables["findings/02-attention-kernels"]
    done = {str(line["way"]): line for line in kernels[kernels["status"] == "ok"].to_dict("records")}
    if not {"eager", "sdpa"} <= set(done):
        return Told(OPEN, "eager or sdpa did not run")
    calls = int(sum(done["eager"][name] for name in KERNELS))
    told = f"eager called {calls} SDPA kernels, sdpa called {done['sdpa']['took']}"
    if calls:
        return Told(CONFIRMED, f"{told}: both at once")
    return Told(REFUTED, f"{told}: the two exclude each other")


def _growth(growth: pd.DataFrame) -> str:
    exponents = growth_exponents(growth) if len(growth) else growth
    if "exponent" not in exponents:
        return ""
    fitted = exponents.dropna(subset=["exponent"]).to_dict("records")
    told = ", ".join("{way} {exponent:.2f} ({low:.2f} to {high:.2f})".format_map(fit) for fit in fitted)
    return f"; memory grows with image tokens to the power of: {told}"


def _first(bad: pd.DataFrame) -> str:
    line = bad.iloc[0]
    return f"the first ({line['attention']}, {line['dtype']}, {line['case']}): {line['verdict']}, {line['reason']}"
