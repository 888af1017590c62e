"""How many workers a stream of pages needs, in a figure, a table and words."""

from __future__ import annotations

from textwrap import fill
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from ocrlab.report.costs import ends_of, where_of, with_ends
from ocrlab.study.plots import COLOURS, nothing

if TYPE_CHECKING:
    import pandas as pd


def queue_plot(sized: pd.DataFrame, costs: pd.DataFrame) -> Figure:
    """Return seconds in the system, and until all that come at once are read, against the number of workers.

    `costs` holds the line of `page_costs` whose pages were drawn.
    """
    if sized.empty:
        return nothing("no page was read one at a time; 04-pixels makes such rows")
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.8), dpi=110, layout="constrained")
    plt.close(figure)  # the notebook shows what a cell returns, once
    lines = (("p95_s", "95th percentile", "-"), ("median_s", "median", "--"))
    for number, (lengths, mine) in enumerate(sized.groupby("lengths", sort=False)):
        style: dict[str, Any] = {"color": COLOURS[1 - number], "marker": "os"[number], "capsize": 3, "ms": 4}
        for name, what, dashes in lines:
            _errors(left, mine, name, label=f"{what}, {lengths} lengths", ls=dashes, **style)
        _errors(right, mine, "at_once_s", label=f"{lengths} lengths", ls="-", **style)
    first = sized.iloc[0]
    left.set(
        title=f"{first['pages_an_hour']:,.0f} pages an hour, one by one",
        ylabel="seconds from arrival to text",
        yscale="log",
    )
    left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    left.yaxis.set_major_formatter("{x:g}")
    left.yaxis.set_minor_formatter(NullFormatter())
    right.set(title=f"{first['at_once']:,.0f} pages at once", ylabel="seconds until all are read", ylim=(0, None))
    for axes in (left, right):
        axes.set_xlabel(f"workers ({first['workers']:.0f} just keep up: load {first['load']:.0%})")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.title.set_fontsize(9)
        axes.grid(True, alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    cost = costs.iloc[0]
    what = f"{cost['set']}, {cost['setting']}: {cost['pages']} pages measured; {where_of(costs.head(1))}"
    figure.suptitle(fill(what, 110), fontsize=8)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", fontsize=8, frameon=False, ncols=2)
    return figure


def queue_table(sized: pd.DataFrame) -> pd.DataFrame:
    """Return workers, load, pages waiting and seconds in the system for reading, lengths as measured and equal."""
    import pandas as pd

    if sized.empty:
        return pd.DataFrame({"no page was read one at a time": []})
    made = pd.DataFrame({
        "workers": sized["workers"], "lengths": sized["lengths"], "load": sized["load"].map("{:.0%}".format),
        "pages waiting": [with_ends(*ends) for ends in ends_of(sized, "waiting")],
        "median s": [with_ends(*ends) for ends in ends_of(sized, "median_s")],
        "95th percentile s": [with_ends(*ends) for ends in ends_of(sized, "p95_s")],
    })  # fmt: skip
    return made.set_index(["workers", "load", "lengths"])


def queue_words(sized: pd.DataFrame, load: float = 0.8) -> str:
    """Return in words what the least number of workers at this load or below gives, and what unequal pages add."""
    if sized.empty:
        return "No page was read one at a time, so no queue was simulated."
    measured = sized[sized["lengths"] == "measured"]
    line = measured[measured["load"] <= load].iloc[0]
    low, high = line["p95_times_equal_low"], line["p95_times_equal_high"]
    calm = "no difference seen from" if low <= 1 <= high else f"{line['p95_times_equal']:.2f} times that of"
    return (
        f"{line['pages_an_hour']:,.0f} pages an hour keep {line['workers']:.0f} workers {line['load']:.0%} busy;\n"
        f"one page in twenty takes {with_ends(*line[['p95_s', 'p95_s_low', 'p95_s_high']])} s or more,\n"
        f"{calm} pages of equal length ({low:.2f} to {high:.2f} times over simulations)."
    )


def _errors(axes: Any, lines: pd.DataFrame, name: str, **style: Any) -> None:
    spread = [(lines[name] - lines[f"{name}_low"]).clip(lower=0), (lines[f"{name}_high"] - lines[name]).clip(lower=0)]
    shift = 0.03 * (1 if lines["lengths"].iloc[0] == "equal" else -1)  # or one hides the other's bars
    axes.errorbar(lines["workers"] + shift, lines[name], yerr=spread, **style)
