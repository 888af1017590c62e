"""The choice in one figure and one table: error against pages a second, memory as size, grey for what could not run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ocrlab.study.plots import COLOURS, GREY, blank_figure, nothing

if TYPE_CHECKING:
    import pandas as pd

STYLES = {
    "recommended": (COLOURS[2], 1.0), "on the front": (COLOURS[0], 0.9), "dominated": (COLOURS[0], 0.35),
    "not settled": (COLOURS[4], 0.8), "worse": (COLOURS[1], 0.7), "not valid": (COLOURS[3], 0.8),
}  # fmt: skip
_SETTLED = ("recommended", "on the front", "dominated", "not settled", "worse")


def pareto(judged: pd.DataFrame) -> Figure:
    """Return CER against pages a second with 95 % intervals of the difference; the area of a point grows with memory.

    The line joins what no other setting beats in both. What could not run or is not valid is listed in grey.
    """
    placed = judged[judged["stand"].isin(_SETTLED)].dropna(subset=["cer"])
    if placed.empty:
        return nothing(next(iter(judged["reason"]), "no rows"))
    figure, axes = blank_figure(7.5, 4.4)
    placed = placed.assign(memory_bytes=placed["memory_bytes"].astype(float).fillna(0))  # a server's is not known
    largest = placed["memory_bytes"].max() or 1.0
    for stand, mine in placed.groupby("stand", sort=False):
        colour, alpha = STYLES[str(stand)]
        base = mine["cer"] - mine["difference"]
        spread = [(mine["difference"] - mine["low"]).clip(lower=0), (mine["high"] - mine["difference"]).clip(lower=0)]
        axes.errorbar(mine["pages_per_second"], base + mine["difference"], yerr=spread, fmt="none", ecolor=colour,
                      alpha=0.6 * alpha, capsize=3)  # fmt: skip
        axes.scatter(mine["pages_per_second"], mine["cer"], s=20 + 120 * mine["memory_bytes"] / largest,
                     color=colour, alpha=alpha, label=f"{stand} ({len(mine)})", zorder=3)  # fmt: skip
    front = placed[placed["stand"].isin(["recommended", "on the front"])].sort_values("pages_per_second")
    axes.plot(front["pages_per_second"], front["cer"], color=COLOURS[0], lw=1, alpha=0.5)
    out = judged[~judged["stand"].isin(_SETTLED)]
    if len(out):
        words = "\n".join(f"{len(g)} {stand}" for stand, g in out.groupby("stand", sort=False))
        axes.text(0.99, 0.98, words, transform=axes.transAxes, ha="right", va="top", fontsize=8, color=GREY)
    axes.set(xlabel="pages per second", ylabel="CER (layout)", xlim=(0, None))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.legend(fontsize=8, loc="upper left")
    return figure


def recommendation_table(judged: pd.DataFrame) -> pd.DataFrame:
    """Return one line a setting: what it changes, where it stands, speed and CER against the anchor, memory, reason."""
    import pandas as pd

    order = {stand: place for place, stand in enumerate((*STYLES, "not scored", "could not run"))}
    ranked = judged.assign(place=judged["stand"].map(order)).sort_values(["place", "speed"], ascending=[True, False])
    return pd.DataFrame({
        "setting": [told(s.changed()) for s in ranked["settings"]],
        "stand": ranked["stand"], "pages": ranked["pages"],
        "CER": [f"{c:.2%}" if c == c and c is not None else "" for c in ranked["cer"]],
        "speed": [f"{s:.2f}×" if s == s and s is not None else "" for s in ranked["speed"]],
        "memory MiB": [f"{m / 2**20:.0f}" if m == m and m is not None else "" for m in ranked["memory_bytes"]],
        "reason": ranked["reason"],
    }).set_index("setting")  # fmt: skip


def told(changed: dict[str, Any]) -> str:
    """Return what a setting changes, without the model and the cap that all share."""
    shown = {k: v for k, v in changed.items() if k not in {"model_id", "max_new_tokens", "prompt"}}
    if "prompt" in changed:
        shown["prompt"] = changed["prompt"][:24] + "…"
    return ", ".join(f"{name}={value}" for name, value in shown.items()) or "defaults"
