"""Generation settings side by side: error with intervals, digit strings against error, how readings ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ocrlab.scoring.metrics import METRICS
from ocrlab.study.generation import GREEDY, OWN
from ocrlab.study.plots import COLOURS, GREY, nothing

if TYPE_CHECKING:
    import pandas as pd

_BETTER, _WORSE, _OPEN = COLOURS[2], COLOURS[1], COLOURS[0]


def forest(judged: pd.DataFrame, margin: float, title: str = "") -> Figure:
    """Return CER of each setting with its interval, and beside it the paired difference from greedy, names down.

    The line and the zero are greedy's, the shade ends at the margin. A difference is coloured where its interval leaves
    zero out; a setting without a score is a grey line with its reason.
    """
    height = 1.3 + 0.3 * len(judged)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, height), dpi=110, sharey=True, layout="constrained")
    for y, (_, line) in enumerate(judged.iterrows()):
        if np.isnan(line["cer"]):
            left.axhspan(y - 0.4, y + 0.4, color=GREY, alpha=0.25, lw=0)
            left.text(0.02, y, line["out"][:60], transform=left.get_yaxis_transform(), va="center", fontsize=7)
            continue
        _whisker(left, y, line, "cer", COLOURS[6] if line["setting"] == GREEDY else _OPEN)
        if line["setting"] != GREEDY and not np.isnan(line["difference"]):
            seen = _BETTER if line["difference_high"] < 0 else _WORSE if line["difference_low"] > 0 else _OPEN
            _whisker(right, y, line, "difference", seen)
    greedy = judged[judged["setting"] == GREEDY]
    if greedy["cer"].notna().any():
        left.axvline(greedy["cer"].iloc[0], color=COLOURS[6], lw=1, ls="--")
    right.axvline(0, color=COLOURS[6], lw=1, ls="--")
    right.axvspan(0, margin, color=GREY, alpha=0.3, lw=0)
    left.set_yticks(range(len(judged)), judged["setting"])
    left.set_ylim(len(judged) - 0.4, -0.6)
    left.set_xlabel("CER, white space collapsed")
    right.set_xlabel("CER minus greedy's, page by page, in points")
    left.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    right.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=1, symbol=""))
    _calm(left, right)
    figure.suptitle(f"{title}{': ' if title else ''}95 % intervals over pages", fontsize=9)
    plt.close(figure)
    return figure


def digits_against_error(judged: pd.DataFrame, title: str = "") -> Figure:
    """Return the share of digit strings that came back against CER, both with intervals: a sign a kind of setting."""
    shown = judged.dropna(subset=["cer", "digits"])
    if shown.empty:
        return nothing("no setting has both a CER and digit strings in the truth")
    figure, axes = plt.subplots(figsize=(7.5, 4.2), dpi=110, layout="constrained")
    kinds = list(dict.fromkeys(name.split("=")[0] for name in shown["setting"]))
    for _, line in shown.iterrows():
        kind, _, value = line["setting"].partition("=")
        i = kinds.index(kind)
        y, x = ([[abs(line[n] - line[f"{n}_low"])], [abs(line[f"{n}_high"] - line[n])]] for n in ("digits", "cer"))
        axes.errorbar(line["cer"], line["digits"], yerr=y, xerr=x, color=COLOURS[(i - 1) % 7], alpha=0.3, lw=0.8)
        axes.annotate(value, (line["cer"], line["digits"]), (5, 4), textcoords="offset points", fontsize=7)
    for i, kind in enumerate(kinds):
        mine = shown[shown["setting"].str.split("=").str[0] == kind]
        # The checkpoint's own may well be greedy: a hollow sign around the other.
        style = {"mfc": "none", "ms": 13} if kind == OWN else {"ms": 7}
        axes.plot(mine["cer"], mine["digits"], "*os^DvPX"[i % 8], color=COLOURS[(i - 1) % 7], label=kind, **style)
    figure.legend(loc="outside right upper", fontsize=7)
    axes.set(xlabel="CER, white space collapsed", ylabel="digit strings that came back, share")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_title(f"{title}{': ' if title else ''}95 % intervals over pages", fontsize=9)
    _calm(axes)
    plt.close(figure)
    return figure


def endings(judged: pd.DataFrame, title: str = "") -> Figure:
    """Return how many readings of each setting ended in a loop or at the cap, and how many were made, names down."""
    figure, axes = plt.subplots(figsize=(7.5, 1.2 + 0.26 * len(judged)), dpi=110, layout="constrained")
    names = judged["setting"]
    axes.barh(names, judged["readings"], color=GREY, alpha=0.2, label="readings")
    axes.barh(names, judged["loops"], color=COLOURS[1], label="loop")
    axes.barh(
        names, judged["truncated"], left=judged["loops"], color=COLOURS[4], hatch="//", label="cut off by the cap"
    )
    for y, (_, line) in enumerate(judged.iterrows()):
        told = f"{line['loops']} + {line['truncated']} of {line['readings']}"
        axes.text(line["readings"], y, f" {told}", va="center", fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("readings: loop + cut off of all")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.16)
    axes.set_title(title, fontsize=9)
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    _calm(axes)
    plt.close(figure)
    return figure


def generation_table(judged: pd.DataFrame) -> pd.DataFrame:
    """Return the settings rounded for reading: CER, digit strings, lines, ends, tokens, time, what speaks against."""
    shown = judged[["setting"]].copy()
    for name in ("cer", "digits", "lines"):
        if judged[name].notna().any():
            metric = METRICS[name]
            shown[metric.label] = [metric.interval_words(line, name) or "–" for line in judged.to_dict("records")]
    shown["loops"], shown["cut off"] = judged["loops"], judged["truncated"]
    shown["tokens a page"] = judged["tokens_mean"].round(0)
    shown["ms a page"] = (1000 * judged["page_s"]).round(0)
    shown["greedy's text"] = [f"{share:.0%}" for share in judged["same_text"]]
    shown["speaks against it"] = judged["out"]
    return shown.set_index("setting")


def _whisker(axes: Any, y: float, line: pd.Series, name: str, colour: str) -> None:
    spread = [[max(0.0, line[name] - line[f"{name}_low"])], [max(0.0, line[f"{name}_high"] - line[name])]]
    axes.errorbar(line[name], y, xerr=spread, fmt="o", capsize=3, color=colour, ms=5)


def _calm(*panels: Any) -> None:
    for axes in panels:
        axes.grid(True, alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
