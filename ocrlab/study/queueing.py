"""How many workers a stream of pages needs: a simulated queue, and the formula that it is held against."""

from __future__ import annotations

import heapq
import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]
_SETTLING = 0.1  # of the pages, left out while the queue fills


_MORE = (0.0, 0.05, 0.1, 0.2, 0.35, 0.5, 1.0)  # workers beyond those that just keep up, as a share of these


class Queued(NamedTuple):
    """What became of pages in their order of arrival: seconds each waited and was in the system, and the last end."""

    waited_s: Array
    in_system_s: Array
    end_s: float


def simulate(arrivals: Array, services: Array, workers: int) -> Queued:
    """Return what happens where pages arriving at these seconds are read by so many workers, first come, first served.

    `arrivals` are in order; `services` the seconds that each page's reading takes.
    """
    free = [0.0] * workers
    starts = np.empty(len(arrivals))
    for index, (arrival, service) in enumerate(zip(arrivals.tolist(), services.tolist(), strict=True)):
        start = max(arrival, free[0])
        starts[index] = start
        heapq.heapreplace(free, start + service)
    return Queued(starts - arrivals, starts - arrivals + services, max(free))


def poisson(rate: float, pages: int, rng: np.random.Generator) -> Array:
    """Return arrival times in seconds of so many pages that come independently, `rate` a second on average."""
    return np.cumsum(rng.exponential(1 / rate, pages))


def erlang_c(workers: int, offered: float) -> float:
    """Return the share of pages that wait where arrivals are Poisson and times exponential (Erlang, 1917; M/M/c).

    `offered` is arrivals a second times seconds a page; at `workers` or above every page waits.
    """
    if offered >= workers:
        return 1.0
    blocked = 1.0  # Erlang B, by its recursion, which does not overflow
    for count in range(1, workers + 1):
        blocked = offered * blocked / (count + offered * blocked)
    return blocked / (1 - offered / workers * (1 - blocked))


def erlang_wait(workers: int, rate: float, page_s: float) -> float:
    """Return the mean seconds that a page waits in the M/M/c queue; infinite where more comes than is read."""
    offered = rate * page_s
    return math.inf if offered >= workers else erlang_c(workers, offered) * page_s / (workers - offered)


def size_cluster(
    page_s: Array, pages_an_hour: float, *, at_once: int = 1000, simulated: int = 10_000, draws: int = 10, seed: int = 0
) -> pd.DataFrame:
    """Return one line a number of workers × kind of length: load, pages waiting, seconds in the system.

    `lengths` are `measured`, drawn from `page_s`, or `equal`, all of its mean. `median_s` and `p95_s` are over
    `simulated` Poisson arrivals; `waiting` is the mean number of pages in the queue, `at_once_s` the seconds until
    `at_once` pages that come together are read. Each is the middle of `draws` simulations, `_low` and `_high` their
    least and most; every draw resamples the measured pages, so that their number counts. `p95_times_equal` is a
    measured line's 95th percentile over the equal one's of the same draw. The first number of workers just
    keeps up. No pages give no lines.
    """
    import pandas as pd

    if len(page_s) == 0:
        return pd.DataFrame()
    rate = pages_an_hour / 3600
    first = math.floor(rate * float(page_s.mean())) + 1
    steps = sorted({first + round(first * part) for part in _MORE} | {first + 1, first + 2})
    lines = []
    for workers in steps:
        found = {}
        for lengths in ("measured", "equal"):
            rng = np.random.default_rng(seed)  # the same arrivals for all: only workers and lengths differ
            drawn = [_draw(page_s, lengths, rate, workers, simulated, at_once, rng) for _ in range(draws)]
            found[lengths] = pd.DataFrame(drawn)
        found["measured"]["p95_times_equal"] = found["measured"]["p95_s"] / found["equal"]["p95_s"]
        for lengths, table in found.items():
            line = {"workers": workers, "lengths": lengths, "load": rate * float(page_s.mean()) / workers}
            line |= {"pages_an_hour": pages_an_hour, "at_once": at_once}
            for name in table.columns.astype(str):
                line |= {
                    name: table[name].median(),
                    f"{name}_low": table[name].min(),
                    f"{name}_high": table[name].max(),
                }
            lines.append(line)
    return pd.DataFrame(lines)


def _draw(
    page_s: Array, lengths: str, rate: float, workers: int, pages: int, at_once: int,
    rng: np.random.Generator,
) -> dict[str, float]:  # fmt: skip
    arrivals = poisson(rate, pages, rng)
    known = rng.choice(page_s, len(page_s))
    services = rng.choice(known, pages)
    if lengths == "equal":
        services = np.full(pages, known.mean())
    queue = simulate(arrivals, services, workers)
    steady = slice(int(pages * _SETTLING), None)
    median, late = np.quantile(queue.in_system_s[steady], [0.5, 0.95])
    together = simulate(np.zeros(at_once), rng.choice(services, at_once), workers)
    return {
        "median_s": float(median), "p95_s": float(late), "waiting": float(queue.waited_s[steady].mean() * rate),
        "at_once_s": together.end_s,
    }  # fmt: skip
