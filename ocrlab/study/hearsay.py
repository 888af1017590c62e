"""What the probes of this machine say about claims on kernels, in words that hold for this machine only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ocrlab.machine.coverage import coverage

if TYPE_CHECKING:
    import pandas as pd


def verdicts_on_kernels(matrix: pd.DataFrame, stack: dict[str, Any]) -> dict[str, str]:
    """Return what a probe matrix and a stack say of the claims sm120-torch, fa2-incompatible and sdpa-active.

    The keys are the claims' ids. A claim about a card that is not here is told apart from one that was tested.
    """
    card = (stack.get("machine") or stack).get("compute_capability")
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
