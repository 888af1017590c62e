"""The fast path in pictures: what each change gained, and where a step of decoding spends its time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from ocrlab.study.plots import COLOURS, GREY, blank_figure

if TYPE_CHECKING:
    import pandas as pd


def ladder_plot(table: pd.DataFrame) -> Figure:
    """Return how many times as fast as the first each rung reads pages, with quartiles; grey where it cannot run."""
    figure, axes = blank_figure(7.0, 0.8 + 0.5 * len(table))
    times = table["times"].fillna(0).to_numpy(float)
    places = np.arange(len(table))
    spread = np.clip([times - table["times_low"], table["times_high"] - times], 0, None)
    axes.barh(places, times, xerr=np.nan_to_num(spread), color=COLOURS[0], capsize=3, height=0.6)
    axes.axvline(1, color=GREY, lw=1)
    for place, line in enumerate(table.to_dict("records")):
        if line["status"] == "ok":
            axes.text(line["times_high"] + 0.02 * times.max(), place, f"{line['times']:.2f} ×", va="center")
        else:
            axes.text(0.02, place, f"{line['status']}: {line['reason']}"[:90], va="center", color=GREY, fontsize=8)
    names = [f"{'+ ' if place else ''}{rung}" for place, rung in zip(places, table["rung"], strict=True)]
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set(xlabel="pages a second, as many times as at the start", xlim=(0, 1.25 * max(1.0, times.max())))
    return figure


def step_table(parts: pd.DataFrame) -> pd.DataFrame:
    """Return the parts of a decode step as people read them: operators, microseconds, share in percent, and the sum."""
    shown = parts.set_index("part")[["operators", "host_s", "share"]]
    shown.loc["a token in all"] = shown.sum()
    return shown.assign(
        operators=shown["operators"].round(1), microseconds=(shown["host_s"] * 1e6).round(0),
        percent=(100 * shown["share"]).round(1),
    )[["operators", "microseconds", "percent"]]  # fmt: skip
