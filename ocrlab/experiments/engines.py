"""The same pages read in this process and by servers: the same texts, and how many pages a second?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from ocrlab.reading.loading import Unsupported
from ocrlab.reading.serve import running_server
from ocrlab.reading.server_reader import BY_THE_SERVER
from ocrlab.reading.settings import Settings, make_settings
from ocrlab.scoring.outcomes import WITH_TEXT
from ocrlab.study.compare import first_difference
from ocrlab.study.plots import COLOURS, GREY, blank_figure

if TYPE_CHECKING:
    import pandas as pd


HERE = "in this process"
SERVED = "transformers serve"
GIVEN = "the given server"


@dataclass(frozen=True)
class Engine:
    """A way to have a model; `settings` is None where it cannot be had here, and `reason` says why."""

    name: str
    settings: Settings | None
    reason: str = ""


@contextmanager
def engines(base: Settings, endpoint: str = "") -> Iterator[list[Engine]]:
    """Yield the engines for a model: this process, `transformers serve` started here and ended after, a given server.

    `endpoint` is a model_id of the form `endpoint:http://host:port/v1#model`, empty for none. What is decided when a
    server starts is taken from `base` for the one that is started here, and is the given server's own.
    """
    given = [Engine(GIVEN, _asked_of(base, endpoint))] if endpoint else []
    with ExitStack() as stack:
        try:
            served = Engine(SERVED, _asked_of(base, stack.enter_context(_server(base))))
        except Unsupported as error:
            served = Engine(SERVED, None, str(error))
        yield [Engine(HERE, base), served, *given]


def _server(base: Settings) -> AbstractContextManager[str]:
    told = {"device", "dtype", "attn_implementation"}
    if others := [n for n in BY_THE_SERVER if n not in told and getattr(base, n) != getattr(Settings(), n)]:
        raise Unsupported(f"{', '.join(others)}: not among what the server that is started here can be told")
    return running_server(base.model_id, device=base.device, dtype=base.dtype, attention=base.attn_implementation)


def _asked_of(base: Settings, model_id: str) -> Settings:
    """Return what a server is asked: all but what it was started with."""
    unset = {name: getattr(Settings(), name) for name in BY_THE_SERVER}
    return replace(base, model_id=model_id, **unset)


def engine_runs(ways: Sequence[Engine], in_flight: Sequence[int]) -> list[Settings]:
    """Return the settings of every engine that can be had, with so many pages at once."""
    return [replace(way.settings, batch_size=n) for way in ways if way.settings is not None for n in in_flight]


def engine_table(readings: pd.DataFrame, ways: Sequence[Engine], in_flight: Sequence[int]) -> pd.DataFrame:
    """Return one line an engine and number of pages at once, held against the first line, page by page.

    `pages` were read to an end by both, `same` have the same text in every repetition; `parts` says where the first
    other one parts. `pages_per_s` is the median over repetitions, with the lowest and the highest; `ttft_s` the median
    over pages of the time to the first token (in a batch in this process, the batch's), with quartiles.
    """
    import pandas as pd

    lines: list[dict[str, Any]] = []
    first: dict[str, str] | None = None
    for way in ways:
        for count in in_flight:
            line: dict[str, Any] = {"engine": way.name, "in_flight": count, "status": "ok", "reason": way.reason}
            if way.settings is None:
                lines.append(line | {"status": "unsupported"})
                continue
            settings = replace(way.settings, batch_size=count)
            mine = readings[[make_settings(asked) == settings for asked in readings["asked"]]]
            read = mine[mine["status"].isin(WITH_TEXT)]
            if len(read) < len(mine) or read.empty:
                bad = mine[~mine["status"].isin(WITH_TEXT)]
                why = (bad["status"].iloc[0], bad["reason"].iloc[0]) if len(bad) else ("error", "no rows")
                line |= {"status": why[0], "reason": why[1]}
            first = dict(zip(read["page"], read["text"], strict=True)) if first is None else first
            lines.append(line | _held_against(read, first) | _speed(read))
    return pd.DataFrame(lines)


def _held_against(read: pd.DataFrame, first: dict[str, str]) -> dict[str, Any]:
    both = read[read["page"].isin(list(first))]
    parted = {
        page: where for page, text in zip(both["page"], both["text"], strict=True)
        if (where := first_difference(first[page], text)) is not None
    }  # fmt: skip
    pages = both["page"].nunique()
    parts = f"{next(iter(parted))}: {next(iter(parted.values()))}" if parted else ""
    return {"pages": pages, "same": pages - len(parted), "parts": parts}


def _speed(read: pd.DataFrame) -> dict[str, Any]:
    import pandas as pd

    if read.empty:
        return {}
    costs = pd.DataFrame(list(read["measured"]), index=read.index)
    rates = costs["page_s"].groupby(read["repeat"]).agg(lambda seconds: len(seconds) / seconds.sum())
    low, middle, high = costs["ttft_s"].quantile([0.25, 0.5, 0.75])
    return {
        "pages_per_s": rates.median(), "pages_per_s_low": rates.min(), "pages_per_s_high": rates.max(),
        "repeats": len(rates), "ttft_s": middle, "ttft_s_low": low, "ttft_s_high": high,
    }  # fmt: skip


def same_texts(table: pd.DataFrame) -> list[str]:
    """Return a sentence a line of the table: how many texts are the first line's, or why there are none."""
    told = []
    for line in table.to_dict("records"):
        name = f"{line['engine']}, {line['in_flight']} at once"
        if not line.get("pages", 0) > 0:
            told.append(f"{name}: {line['status']}: {line['reason']}")
            continue
        parts = f"; first other one: {line['parts']}" if line["parts"] else ""
        told.append(f"{name}: {line['same']:.0f} of {line['pages']:.0f} texts the same{parts}")
    return told


# Engines in pictures: pages a second, and how long a page waits for its first token.


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
