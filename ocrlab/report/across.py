"""Runs side by side in figures and tables: quality and time by setting, and how far figures move by themselves."""

from __future__ import annotations

from textwrap import fill, shorten
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ocrlab.study.plots import COLOURS, blank_figure, nothing

if TYPE_CHECKING:
    import pandas as pd


def quality_time_plot(quality: pd.DataFrame, most: int = 10) -> Figure:
    """Return CER (95 % interval over pages) and time a page (quartiles) by setting, one colour a run.

    Shown are the settings that most runs share, then those with the most pages.
    """
    if quality.empty:
        return nothing("no run has scored rows")
    settings = list(dict.fromkeys(quality["setting"]))[:most]
    runs = list(dict.fromkeys(quality["run"]))
    height = 1.4 + len(settings) * (0.34 + 0.1 * len(runs))
    figure, both = plt.subplots(1, 2, figsize=(8.6, height), dpi=110, layout="constrained", sharey=True)
    plt.close(figure)  # the notebook shows what a cell returns, once
    for number, run in enumerate(runs):
        mine = quality[(quality["run"] == run) & quality["setting"].isin(settings)]
        if mine.empty:
            continue
        y = np.array([settings.index(s) for s in mine["setting"]]) + 0.6 * (number + 0.5) / len(runs) - 0.3
        style: dict[str, Any] = {"fmt": "os^Dv"[number % 5], "color": COLOURS[number % len(COLOURS)], "capsize": 3}
        for axes, column, scale in zip(both, ("cer", "page_s"), (1, 1000), strict=True):
            middle, low, high = (mine[f"{column}{end}"] * scale for end in ("", "_low", "_high"))
            spread = [(middle - low).clip(lower=0), (high - middle).clip(lower=0)]
            axes.errorbar(middle, y, xerr=spread, label=f"{run} ({mine['machine'].iloc[0]})", **style)
    both[0].set_yticks(range(len(settings)), [fill(s, 38) for s in short_settings(settings, 70)], fontsize=7)
    both[0].invert_yaxis()
    both[0].xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    both[0].set(xlabel="CER, 95 % interval over pages", xlim=(0, None))
    both[1].set(xlabel="ms a page, median and quartiles", xlim=(0, None))
    for axes in both:
        axes.grid(True, alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*both[0].get_legend_handles_labels(), loc="outside upper center", fontsize=8, frameon=False)
    return figure


def stability_plot(steady: pd.DataFrame) -> Figure:
    """Return most over least of each figure where nothing but the time changed, a point a setting; 1 is no change."""
    if steady.empty or steady["ratio"].isna().all():
        return nothing("no setting was read twice on one machine")
    shown = steady.dropna(subset=["ratio"])
    names = list(dict.fromkeys(shown["figure"]))
    figure, axes = blank_figure(7.0, 1.2 + 0.55 * len(names))
    for number, (between, mine) in enumerate(shown.groupby("between", sort=False)):
        y = np.array([names.index(name) for name in mine["figure"]]) + 0.16 * (2 * number - 1)
        jitter = np.linspace(-0.08, 0.08, len(y))
        style = {"marker": "os"[number % 2], "ls": "", "color": COLOURS[number], "alpha": 0.7}
        axes.plot(mine["ratio"], y + jitter, label=f"between {between}", **style)
    axes.axvline(1, color="black", lw=1)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel("most over least of the same setting, pages and machine")
    figure.legend(loc="outside upper center", fontsize=8, ncols=2, frameon=False)
    return figure


def quality_table(quality: pd.DataFrame, most: int = 20) -> pd.DataFrame:
    """Return quality, time and memory by setting and run for reading, with the verdict against the first run."""
    import pandas as pd

    if quality.empty:
        return pd.DataFrame({"no run has scored rows": []})
    table = quality.head(most)
    return pd.DataFrame({
        "setting": short_settings(table["setting"].tolist()), "run": table["run"], "pages": table["pages"],
        "CER": ["" if pd.isna(c) else f"{c:.2%} ({low:.2%} to {high:.2%})"
                for c, low, high in zip(table["cer"], table["cer_low"], table["cer_high"], strict=True)],
        "ms a page": (table["page_s"] * 1000).round(1),
        "peak MiB": (table["peak_memory_bytes"] / 2**20).round(0), "against the first": table["words"],
        "machine": table["machine"],
    }).set_index(["setting", "run"])  # fmt: skip


def speed_table(speed: pd.DataFrame, most: int = 30) -> pd.DataFrame:
    """Return milliseconds a token with quartiles, memory and the share of the machine's limit, by setting and run."""
    import pandas as pd

    if speed.empty:
        return pd.DataFrame({"no run has rows of forced length": []})
    table = speed.head(most)
    times = table[["tpot_s", "tpot_s_low", "tpot_s_high"]] * 1000
    return pd.DataFrame({
        "setting": short_settings(table["setting"].tolist()), "run": table["run"],
        "ms a token": [f"{m:.2f} ({low:.2f} to {high:.2f})" for m, low, high in times.itertuples(index=False)],
        "share of the limit": [f"{share:.0%}" if pd.notna(share) else why
                               for share, why in zip(table["tpot_share"], table["why_no_share"], strict=True)],
        "peak MiB": (table["peak_memory_bytes"] / 2**20).round(0),
        "machine": table["machine"],
    }).set_index(["setting", "run"])  # fmt: skip


def parted_table(parted: pd.DataFrame, most: int = 20) -> pd.DataFrame:
    """Return where texts part, what a person looks for first: page, letter, what stands there in either run."""
    shown = parted.head(most).assign(setting=short_settings(parted["setting"].head(most).tolist()))
    return shown[["page", "at", "shared", "one", "two", "setting", "run", "other", "actual"]].set_index("page")


def steady_table(steady: pd.DataFrame) -> pd.DataFrame:
    """Return the least steady setting of each figure, between runs and between repeats; empty where there is none."""
    if steady.empty:
        return steady
    worst = steady.sort_values("ratio", ascending=False, kind="stable").groupby(["between", "figure"]).head(1)
    worst = worst.assign(ratio=worst["ratio"].round(2), setting=short_settings(worst["setting"].tolist()))
    return worst.set_index(["between", "figure"])[["ratio", "count", "pages", "setting", "machine"]]


def short_settings(settings: list[str], width: int = 44) -> list[str]:
    """Return settings without what all of them say: the weights, the cap."""
    parts = [setting.replace(" (weights ", ", (weights ").split(", ") for setting in settings]
    shared = set.intersection(*map(set, parts)) if len(set(settings)) > 1 else set()
    made = [", ".join(part for part in mine if part not in shared) or "as all others" for mine in parts]
    return [shorten(words, width, placeholder=" …") for words in made]
