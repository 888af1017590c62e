"""What many pages cost and where the time goes, in figures and tables."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ocrlab.report.across import short_settings
from ocrlab.study.costs import PHASES, bottleneck, sped_up
from ocrlab.study.plots import COLOURS, GREY, blank_figure, nothing

if TYPE_CHECKING:
    import pandas as pd

_COLOUR = dict(zip(PHASES, (COLOURS[4], COLOURS[0], COLOURS[5], COLOURS[1], GREY), strict=True))
_NO_TIME = "no row has a time; 04-pixels makes such rows"
_NO_PHASES = "no row has phases; 04-pixels and fast-path make such rows"


def cost_plot(billed: pd.DataFrame, pages: int) -> Figure:
    """Return hours for so many pages on one machine by setting, with the 95 % interval, one colour per run."""
    if billed.empty:
        return nothing(_NO_TIME)
    figure, axes = _by_setting(billed, _names_of(billed))
    for number, (run, mine) in enumerate(billed.groupby("run", sort=False)):
        spread = [mine["hours"] - mine["hours_low"], mine["hours_high"] - mine["hours"]]
        style: dict[str, Any] = {"fmt": "os^Dv"[number % 5], "color": COLOURS[number % len(COLOURS)], "capsize": 3}
        style |= {"xerr": [part.fillna(0).clip(lower=0) for part in spread]}
        axes.errorbar(mine["hours"], mine.index, label=f"{run}: {mine['machine'].iloc[0]}", **style)
    axes.set_xlim(0, None)
    axes.set_xlabel(f"hours for {pages:,} pages on one machine; bars: 95 % interval of the mean page")
    figure.legend(loc="outside upper center", fontsize=8, frameon=False)
    return figure


def cost_table(billed: pd.DataFrame) -> pd.DataFrame:
    """Return the bill for reading: pages an hour, hours, money, energy, each with what it rests on."""
    import pandas as pd

    lines = []
    names = short_settings(billed["setting"].tolist(), 130) if len(billed) else []
    for line, setting in zip(billed.to_dict("records"), names, strict=True):
        batches = f" in {line['units']} batch{'es' * (line['units'] > 1)}" if line["units"] != line["pages"] else ""
        lines.append({
            "pages of": line["set"], "hours": _with_ends(line, "hours"), "money": _with_ends(line, "money"),
            "energy": f"{line['kwh']:,.1f} kWh, {line['energy_money']:,.2f}" if line["kwh"] >= 0 else line["energy"],
            "pages an hour": f"{line['pages_an_hour']:,.0f}",
            "CER": f"{line['cer']:.1%} ({line['cer_low']:.1%} to {line['cer_high']:.1%})" if line["cer"] >= 0
            else "not scored",
            "setting": setting, "read": f"{line['pages']} pages{batches}" + ", length forced" * line["forced"],
            "machine": line["machine"],
        })  # fmt: skip
    return pd.DataFrame(lines).set_index("pages of") if lines else pd.DataFrame({"no row has a time": []})


def phases_plot(phases: pd.DataFrame) -> Figure:
    """Return each setting's seconds per page by phase, as shares, with the whole in milliseconds at the end."""
    if phases.empty:
        return nothing(_NO_PHASES)
    sizes = zip(_names_of(phases), phases["batch_pages"], strict=True)
    figure, axes = _by_setting(phases, [n if "batch_size" in n else f"{n}, batch_size={size}" for n, size in sizes])
    left = np.zeros(len(phases))
    for phase in PHASES:
        share = (phases[phase] / phases["page_s"]).to_numpy(float)
        axes.barh(range(len(phases)), share, left=left, color=_COLOUR[phase], label=phase, height=0.7)
        left += share
    for y, seconds in enumerate(phases["page_s"]):
        axes.annotate(f"{seconds * 1000:,.0f} ms", (1.01, y), va="center", fontsize=8, annotation_clip=False)
    axes.grid(False)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set(xlim=(0, 1), xlabel=f"share of the seconds per page (means); {_where_of(phases)}")
    figure.legend(loc="outside upper center", fontsize=8, frameon=False, ncols=len(PHASES))
    return figure


def bottleneck_table(phases: pd.DataFrame) -> pd.DataFrame:
    """Return each setting's longest phase, its share, and from how many times faster on the next is the longest."""
    import pandas as pd

    found = [bottleneck(line) for _, line in phases.iterrows()]
    table = pd.DataFrame({"pages of": phases["set"], "at a time": phases["batch_pages"]})
    table["longest"] = [one.phase for one in found]
    table["share"] = [f"{one.share:.0%}" for one in found]
    table["next"] = [one.next for one in found]
    table["from times faster"] = [f"{one.times:.1f}" for one in found]
    table["setting"] = short_settings(phases["setting"].tolist(), 130)
    return table.set_index("pages of")


def faster_plot(phases: pd.DataFrame, most: float = 64) -> Figure:
    """Return how many times as many pages the first setting reads where one phase gets faster, for each; computed."""
    if phases.empty:
        return nothing(_NO_PHASES)
    line = phases.iloc[0]
    figure, axes = blank_figure(7.6, 3.8)
    times = np.geomspace(1, most, 60)
    for phase in PHASES[:-1]:
        limit = sped_up(line, phase, np.inf)
        label = f"{phase}: {line[phase] / line['page_s']:.0%} of the time, at most {limit:.2f} times"
        axes.plot(times, [sped_up(line, phase, k) for k in times], color=_COLOUR[phase], label=label)
        axes.axhline(limit, color=_COLOUR[phase], ls=":", lw=1)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set(xlabel="that phase alone becomes so many times faster", ylabel="times as many pages")
    axes.set_title(fill(f"{line['set']}, {line['setting']}; {_where_of(phases.head(1))}", 100), fontsize=8)
    figure.legend(loc="outside lower center", fontsize=8, frameon=False, ncols=2)
    return figure


def _by_setting(lines: pd.DataFrame, names: list[str]) -> tuple[Figure, Any]:
    """An empty figure with one labelled row per line, the first on top."""
    figure, axes = blank_figure(8.6, 1.5 + 0.5 * len(lines))
    axes.set_yticks(range(len(lines)), [fill(name, 52) for name in names], fontsize=7)
    axes.set_ylim(len(lines) - 0.5, -0.5)
    return figure, axes


def _names_of(lines: pd.DataFrame) -> list[str]:
    """A short name of each line: its page set, and what its setting has that not all share."""
    settings = short_settings(lines["setting"].tolist(), 130)
    return [f"{name}: {words}" for name, words in zip(lines["set"], settings, strict=True)]


def _where_of(lines: pd.DataFrame) -> str:
    machines, runs = (", ".join(dict.fromkeys(lines[name].astype(str))) for name in ("machine", "run"))
    return f"{machines}; rows of {runs}"


def _with_ends(line: Mapping[Any, Any], name: str) -> str:
    numbers = [line[name], line[f"{name}_low"], line[f"{name}_high"]]
    middle, low, high = (f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in numbers)
    return f"{middle} ({low} to {high})"
