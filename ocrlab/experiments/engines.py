"""The same pages read in this process and by servers: the same texts, and how many pages per second?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

from ocrlab.reading.loading import Unsupported
from ocrlab.reading.serve import running_server
from ocrlab.reading.server_reader import BY_THE_SERVER
from ocrlab.reading.settings import Settings, make_settings
from ocrlab.scoring.outcomes import WITH_TEXT
from ocrlab.study.compare import first_difference

if TYPE_CHECKING:
    import pandas as pd


HERE = "in this process"
SERVED = "transformers serve"
GIVEN = "the given server"


@dataclass(frozen=True)
class Engine:
    """Where a model runs; `settings` is None where it cannot be had here, and `reason` says why."""

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
    given = {"device", "dtype", "attn_implementation"}
    if others := [n for n in BY_THE_SERVER if n not in given and getattr(base, n) != getattr(Settings(), n)]:
        raise Unsupported(f"{', '.join(others)}: the server that is started here has no option for it")
    return running_server(base.model_id, device=base.device, dtype=base.dtype, attention=base.attn_implementation)


def _asked_of(base: Settings, model_id: str) -> Settings:
    """Return what a server is asked: all but what it was started with."""
    unset = {name: getattr(Settings(), name) for name in BY_THE_SERVER}
    return replace(base, model_id=model_id, **unset)


def engine_runs(choices: Sequence[Engine], in_flight: Sequence[int]) -> list[Settings]:
    """Return the settings of every engine that can be had, with so many pages at once."""
    return [replace(one.settings, batch_size=n) for one in choices if one.settings is not None for n in in_flight]


def engine_table(readings: pd.DataFrame, choices: Sequence[Engine], in_flight: Sequence[int]) -> pd.DataFrame:
    """Return one line per engine and number of pages at once, compared with the first line, page by page.

    `pages` were read to an end by both, `same` have the same text in every repetition; `difference` says where the
    first other text begins to differ. `pages_per_s` is the median over repetitions, with the lowest and the highest;
    `ttft_s` the median over pages of the time to the first token (in a batch in this process, the batch's), with
    quartiles.
    """
    import pandas as pd

    lines: list[dict[str, Any]] = []
    first: dict[str, str] | None = None
    settings_read = readings["asked"].map(make_settings)
    for engine, count in product(choices, in_flight):
        line: dict[str, Any] = {"engine": engine.name, "in_flight": count, "status": "ok", "reason": engine.reason}
        if engine.settings is None:
            lines.append(line | {"status": "unsupported"})
            continue
        mine = readings[settings_read == replace(engine.settings, batch_size=count)]
        read, bad = mine[mine["status"].isin(WITH_TEXT)], mine[~mine["status"].isin(WITH_TEXT)]
        if len(bad):
            line |= {"status": bad["status"].iloc[0], "reason": bad["reason"].iloc[0]}
        elif read.empty:
            line |= {"status": "error", "reason": "no rows"}
        first = dict(zip(read["page"], read["text"], strict=True)) if first is None else first
        lines.append(line | _compared_with(first, read) | _speed(read))
    speed = [f"{name}{end}" for name in ("pages_per_s", "ttft_s") for end in ("", "_low", "_high")]
    columns = ["engine", "in_flight", "status", "reason", "pages", "same", "difference", *speed, "repeats"]
    return pd.DataFrame(lines, columns=columns)


def _compared_with(first: dict[str, str], read: pd.DataFrame) -> dict[str, Any]:
    both = read[read["page"].isin(list(first))]
    texts = zip(both["page"], both["text"], strict=True)
    others = {page: where for page, text in texts if (where := first_difference(first[page], text))}
    pages = both["page"].nunique()
    difference = next((f"{page}: {where}" for page, where in others.items()), "")
    return {"pages": pages, "same": pages - len(others), "difference": difference}


def _speed(read: pd.DataFrame) -> dict[str, Any]:
    import pandas as pd

    if read.empty:
        return {}
    costs = pd.DataFrame(list(read["measured"]), index=read.index)
    rates = costs["page_s"].groupby(read["repeat"]).agg(lambda seconds: len(seconds) / seconds.sum())
    low, middle, high = costs["ttft_s"].quantile([0.25, 0.5, 0.75])
    found = {"pages_per_s": rates.median(), "pages_per_s_low": rates.min(), "pages_per_s_high": rates.max()}
    return found | {"repeats": len(rates), "ttft_s": middle, "ttft_s_low": low, "ttft_s_high": high}
