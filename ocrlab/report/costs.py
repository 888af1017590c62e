"""What many pages cost, in a figure and tables: hours, money, energy, and what disk and network can feed."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from ocrlab.report.across import short_settings
from ocrlab.study.plots import COLOURS, blank_figure, nothing

if TYPE_CHECKING:
    import pandas as pd


def cost_plot(billed: pd.DataFrame, pages: int) -> Figure:
    """Return hours for so many pages on one machine by setting, with the 95 % interval, one colour a run."""
    if billed.empty:
        return nothing("no row has a time; 04-pixels makes such rows")
    names = names_of(billed)
    figure, axes = blank_figure(8.6, 1.5 + 0.5 * len(names))
    for number, (run, mine) in enumerate(billed.groupby("run", sort=False)):
        y = np.flatnonzero(billed["run"] == run)
        spread = [(mine["hours"] - mine["hours_low"]).fillna(0), (mine["hours_high"] - mine["hours"]).fillna(0)]
        style: dict[str, Any] = {"fmt": "os^Dv"[number % 5], "color": COLOURS[number % len(COLOURS)], "capsize": 3}
        label = f"{run}: {mine['machine'].iloc[0]}"
        axes.errorbar(mine["hours"], y, xerr=[s.clip(lower=0) for s in spread], label=label, **style)
    rows_below(axes, names)
    axes.set_xlabel(f"hours for {pages:,} pages on one machine; bars: 95 % interval of the mean page")
    figure.legend(loc="outside upper center", fontsize=8, frameon=False)
    return figure


def cost_table(billed: pd.DataFrame) -> pd.DataFrame:
    """Return the bill for reading: pages an hour, hours, money, energy, each with what it rests on."""
    import pandas as pd

    if billed.empty:
        return pd.DataFrame({"no row has a time": []})
    energy = [
        f"{kwh:,.1f} kWh, {money:,.2f}" if kwh == kwh else "not measured"
        for kwh, money in zip(billed["kwh"], billed["energy_money"], strict=True)
    ]
    errors = [
        f"{c:.1%} ({low:.1%} to {high:.1%})" if c == c else "not scored" for c, low, high in ends_of(billed, "cer")
    ]
    return pd.DataFrame({
        "pages of": billed["set"],
        "hours": [with_ends(*ends) for ends in ends_of(billed, "hours")],
        "money": [with_ends(*ends) for ends in ends_of(billed, "money")],
        "energy": energy, "pages an hour": [f"{value:,.0f}" for value in billed["pages_an_hour"]],
        "CER": errors, "setting": short_settings(billed["setting"].tolist(), 130),
        "read": [_counted(line) for line in billed.itertuples()], "machine": billed["machine"],
    }).set_index("pages of")  # fmt: skip


def feeding_table(fed: pd.DataFrame) -> pd.DataFrame:
    """Return bytes a page, megabytes a second that a worker reads, and how many workers disk and network feed."""
    import pandas as pd

    if fed.empty:
        return pd.DataFrame({"no row has a time": []})
    made = pd.DataFrame({
        "pages of": fed["set"],
        "kB a page": (fed["bytes"] / 1000).map("{:.1f}".format),
        "MB/s a worker": fed["mb_s"].map("{:.3f}".format),
        "workers, disk": fed["disk_workers"].map("{:,.0f}".format),
        "workers, network": fed["network_workers"].map("{:,.0f}".format),
        "setting": short_settings(fed["setting"].tolist(), 130),
    }).set_index("pages of")  # fmt: skip
    return made.replace({"nan": "its pages are not here"})


def names_of(lines: pd.DataFrame) -> list[str]:
    """Return a short name of each line: its page set, and what its setting has that not all share."""
    return [
        f"{name}: {words}"
        for name, words in zip(lines["set"], short_settings(lines["setting"].tolist(), 130), strict=True)
    ]


def rows_below(axes: Any, names: Sequence[str]) -> None:
    """Label one row a name, the first on top."""
    axes.set_yticks(range(len(names)), [fill(name, 52) for name in names], fontsize=7)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(0, None)


def where_of(lines: pd.DataFrame) -> str:
    """Return which machines and runs the lines are of."""
    machines = ", ".join(dict.fromkeys(lines["machine"].astype(str)))
    runs = ", ".join(dict.fromkeys(lines["run"].astype(str)))
    return f"{machines}; rows of {runs}"


def ends_of(table: pd.DataFrame, name: str) -> Any:
    """Return (middle, low, high) of each line."""
    return table[[name, f"{name}_low", f"{name}_high"]].astype(float).itertuples(index=False)


def with_ends(middle: float, low: float, high: float) -> str:
    """Return a number with its ends, rounded for reading."""
    return f"{_round(middle)} ({_round(low)} to {_round(high)})"


def _counted(line: Any) -> str:
    apart = f" in {line.units} batch{'es' * (line.units > 1)}" if line.units != line.pages else ""
    return f"{line.pages} pages{apart}" + (", length forced" if line.forced else "")


def _round(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
