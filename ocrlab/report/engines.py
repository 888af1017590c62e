"""Engines in pictures: pages a second, and how long a page waits for its first token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from ocrlab.study.plots import COLOURS, GREY, blank_figure

if TYPE_CHECKING:
    import pandas as pd


def pages_a_second(table: pd.DataFrame) -> Figure:
    """Return pages a second of each engine and number of pages at once: median, lowest and highest of repetitions."""
    return _bars(table, "pages_per_s", 1, "pages a second (bars: median, whiskers: all repetitions)", "{:.1f}")


def first_token(table: pd.DataFrame) -> Figure:
    """Return the time to a page's first token of each engine and number of pages at once: median and quartiles, ms."""
    label = "ms to the first token (bars: median, whiskers: quartiles over pages)"
    return _bars(table, "ttft_s", 1000, label, "{:.0f}")


def words(table: pd.DataFrame) -> list[str]:
    """Return what the table says of speed: pages a second by engine, and whether the fastest stands apart."""
    ran = table.dropna(subset=["pages_per_s"]) if "pages_per_s" in table else table.iloc[:0]
    if ran.empty:
        return ["No engine read the pages; the table has the reasons."]
    told = []
    for name, mine in ran.groupby("engine", sort=False):
        rates = [f"{line['pages_per_s']:.1f} with {line['in_flight']} at once" for line in _lines(mine)]
        told.append(f"Pages a second, {name}: {', '.join(rates)}.")
    fast = ran.sort_values("pages_per_s").iloc[-1]
    near = ran[(ran["pages_per_s_high"] >= fast["pages_per_s_low"]) & (ran.index != fast.name)]
    if len(near):
        others = ", ".join(f"{line['engine']} with {line['in_flight']}" for line in _lines(near))
        told.append(f"Between the fastest and {others}: no difference seen in {fast['repeats']:.0f} repetition(s).")
    else:
        told.append(f"Fastest: {fast['engine']} with {fast['in_flight']} at once, in every repetition.")
    return told


def _bars(table: pd.DataFrame, column: str, scale: float, label: str, form: str) -> Figure:
    figure, axes = blank_figure(7.0, 0.9 + 0.42 * len(table))
    names = list(dict.fromkeys(table["engine"]))
    values = table.reindex(columns=[column, f"{column}_low", f"{column}_high"]).astype(float) * scale
    most = float(np.nan_to_num(values.to_numpy()).max()) or 1.0
    for place, (line, (middle, low, high)) in enumerate(zip(_lines(table), values.to_numpy(), strict=True)):
        if np.isnan(middle):
            words = f"{line['status']}: {line['reason']}"
            shown = words if len(words) <= 72 else f"{words[:71]}…"
            axes.text(0.01 * most, place, shown, va="center", color=GREY, fontsize=8)
            continue
        colour = COLOURS[names.index(line["engine"]) % len(COLOURS)]
        axes.barh(place, middle, xerr=[[middle - low], [high - middle]], color=colour, capsize=3, height=0.6)
        axes.text(high + 0.015 * most, place, form.format(middle), va="center", fontsize=9)
    axes.set_yticks(range(len(table)), [f"{line['engine']}, {line['in_flight']} at once" for line in _lines(table)])
    axes.invert_yaxis()
    axes.set(xlabel=label, xlim=(0, 1.18 * most))
    return figure


def _lines(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(k): v for k, v in line.items()} for line in table.to_dict("records")]
