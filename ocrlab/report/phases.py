"""Where a page's seconds go, and what a faster phase would bring, in figures."""

from __future__ import annotations

from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ocrlab.report.across import short_settings
from ocrlab.report.costs import names_of, rows_below, where_of
from ocrlab.study.phases import PHASES, bottleneck, sped_up
from ocrlab.study.plots import COLOURS, GREY, blank_figure, nothing

if TYPE_CHECKING:
    import pandas as pd

_COLOUR = dict(zip(PHASES, (COLOURS[4], COLOURS[0], COLOURS[5], COLOURS[1], GREY), strict=True))


def phases_plot(phases: pd.DataFrame) -> Figure:
    """Return each setting's seconds a page by phase, as shares, with the whole in milliseconds at the end."""
    if phases.empty:
        return nothing("no row has phases; 04-pixels and fast-path make such rows")
    sizes = zip(names_of(phases), phases["batch_pages"], strict=True)
    names = [name if "batch_size" in name else f"{name}, batch_size={size}" for name, size in sizes]
    figure, axes = blank_figure(8.6, 1.5 + 0.5 * len(names))
    left = np.zeros(len(phases))
    for phase in PHASES:
        share = (phases[phase] / phases["page_s"]).to_numpy(float)
        axes.barh(range(len(names)), share, left=left, color=_COLOUR[phase], label=phase, height=0.7)
        left += share
    for y, seconds in enumerate(phases["page_s"]):
        axes.annotate(f"{seconds * 1000:,.0f} ms", (1.01, y), va="center", fontsize=8, annotation_clip=False)
    rows_below(axes, names)
    axes.grid(False)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set(xlim=(0, 1), xlabel=f"share of the seconds a page (means); {where_of(phases)}")
    figure.legend(loc="outside upper center", fontsize=8, frameon=False, ncols=len(PHASES))
    return figure


def bottleneck_table(phases: pd.DataFrame) -> pd.DataFrame:
    """Return each setting's longest phase, its share, and from how many times faster on the next is the longest."""
    import pandas as pd

    found = [bottleneck(line) for _, line in phases.iterrows()]
    return pd.DataFrame({
        "pages of": phases["set"],
        "at a time": phases["batch_pages"], "longest": [one.phase for one in found],
        "share": [f"{one.share:.0%}" for one in found], "next": [one.next for one in found],
        "from times faster": [f"{one.times:.1f}" for one in found],
        "setting": short_settings(phases["setting"].tolist(), 130),
    }).set_index("pages of")  # fmt: skip


def faster_plot(phases: pd.DataFrame, most: float = 64) -> Figure:
    """Return how many times as many pages the first setting reads where one phase gets faster, for each; computed."""
    if phases.empty:
        return nothing("no row has phases; 04-pixels and fast-path make such rows")
    line = phases.iloc[0]
    figure, axes = blank_figure(7.6, 3.8)
    times = np.geomspace(1, most, 60)
    for phase in PHASES:
        limit = sped_up(line, phase, np.inf)
        if phase != "rest":
            label = f"{phase}: {line[phase] / line['page_s']:.0%} of the time, at most {limit:.2f} times"
            axes.plot(times, [sped_up(line, phase, k) for k in times], color=_COLOUR[phase], label=label)
            axes.axhline(limit, color=_COLOUR[phase], ls=":", lw=1)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set(xlabel="that phase alone becomes so many times faster", ylabel="times as many pages")
    axes.set_title(fill(f"{line['set']}, {line['setting']}; {where_of(phases.head(1))}", 100), fontsize=8)
    figure.legend(loc="outside lower center", fontsize=8, frameon=False, ncols=2)
    return figure
