"""What this machine's findings say about claims, in words that hold for this machine only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ocrlab.machine.coverage import coverage

if TYPE_CHECKING:
    import pandas as pd


def verdicts_on_kernels(matrix: pd.DataFrame, stack: dict[str, Any]) -> dict[str, str]:
    """Return what a probe matrix and a stack say of the claims sm120-torch, fa2-incompatible and sdpa-active.

    The keys are the claims' ids. A claim about a card that is not here is told apart from one that was tested.
    """
    card = stack["machine"].get("compute_capability")
    return {
        "sm120-torch": _sm120(matrix, list(stack["arch_list"]), card),
        "fa2-incompatible": _flash(matrix, card),
        "sdpa-active": _sdpa(matrix),
    }


def _sm120(matrix: pd.DataFrame, arch_list: list[str], card: str | None) -> str:
    found = coverage(arch_list, (12, 0))
    on_paper = f"by its architecture list this build runs on 12.0: {found.how} ({found.reason})"
    if card is None or not card.startswith("12."):
        return f"not tested on such a card here; {on_paper}"
    works = (matrix["verdict"] == "works").sum()
    return f"tested on {card}: {works} of {len(matrix)} launches work; {on_paper}"


def _flash(matrix: pd.DataFrame, card: str | None) -> str:
    rows = matrix[matrix["attention"] == "flash_attention_2"]
    verdicts = ", ".join(f"{count} {verdict}" for verdict, count in rows["verdict"].value_counts().items())
    if card is None or not card.startswith("12."):
        return f"not tested: no card of capability 12.x here (its probes: {verdicts})"
    if (rows["verdict"] == "works").any():
        return f"refuted on this card: {verdicts}"
    return f"not refuted here ({verdicts}; first reason: {rows['reason'].iloc[0]})"


def _sdpa(matrix: pd.DataFrame) -> str:
    eager = matrix[matrix["attention"] == "eager"]
    unpinned = matrix[(matrix["attention"] == "sdpa") & matrix["kernel"].isna()]
    took = sorted(set(unpinned["took"]) - {""})
    beside = (eager["took"] != "").sum()
    return (
        f"sdpa took {', '.join(took) or 'no fused kernel'} here, and eager called an SDPA kernel in {beside} of "
        f"{len(eager)} launches: {'never both at once' if beside == 0 else 'both at once'}"
    )


def verdicts_on_the_assert(
    sampling: pd.DataFrame, overflow: pd.DataFrame, recovery: pd.DataFrame, device: str
) -> dict[str, str]:
    """Return what the tables of `mechanisms` and `recovery` say of dots-ocr-assert, cuda-recovery, fp16-forbidden."""
    return {
        "dots-ocr-assert": _assert(sampling, device),
        "cuda-recovery": _recovery(recovery, device),
        "fp16-forbidden": _float16(overflow),
    }


def _assert(sampling: pd.DataFrame, device: str) -> str:
    broken = sampling[sampling["logits"] != "healthy"]
    raised = (~broken["sampling"].str.startswith("token")).sum()
    greedy = broken["greedy"].str.startswith("token").sum()
    healthy = sampling[sampling["logits"] == "healthy"]["sampling"].str.startswith("token").all()
    ways = f"broken logits fail in {raised} of {len(broken)} cases when sampled and pass in {greedy} when greedy"
    if not healthy or raised == 0:
        return f"not explained here: {ways}"
    where = "as the assertion itself" if device.startswith("cuda") else "as an ordinary error: a CPU has no assertion"
    return (
        f"the mechanism is shown on {device}, {where}; {ways}. Broken logits suffice for the assertion, on any "
        f"architecture; what broke them on that card is not settled here"
    )


def _recovery(recovery: pd.DataFrame, device: str) -> str:
    again = bool(recovery[recovery["where"] == "new process"]["works"].all())
    fresh = f"a new process {'works' if again else 'does not work'}"
    if not device.startswith("cuda"):
        return f"not settled here: a CPU has no context to lose. A process that aborted stands for it; {fresh}"
    tries = recovery[recovery["where"] == "same process"][1:]
    told = f"{tries['works'].sum()} of {len(tries)} attempts in the same process worked; {fresh}"
    used = tries[tries["attempt"].isin(["a new tensor", "a matrix product"])]
    return f"{'confirmed' if used['works'].any() else 'refuted'}: {told}"


def _float16(overflow: pd.DataFrame) -> str:
    bad = overflow[overflow["not_finite"] > 0]
    half = bad[bad["dtype"] == "float16"]
    if half.empty:
        return f"no overflow up to scores of {overflow['largest_score'].max():.3g}"
    first = half["largest_score"].min()
    others = sorted(set(bad["dtype"]) - {"float16"})
    safe = sorted(set(overflow[overflow["dtype"] == "float16"]["way"]) - set(half["way"]))
    return (
        f"float16 overflows in {', '.join(sorted(set(half['way'])))} from scores of {first:.3g} on "
        f"(its end is 65504), and not in {', '.join(safe) or 'any other way'}; "
        f"{', '.join(others) or 'float32 and bfloat16'} {'overflow too' if others else 'stay finite'}"
    )
