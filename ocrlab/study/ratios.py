"""How many times a way's column is another's, over pairs of one page; and on how many pages a way failed."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ocrlab.scoring.statistics import bootstrap_median

if TYPE_CHECKING:
    import pandas as pd

_ENOUGH = 6  # fewer pairs all lean one way by chance more often than once in twenty


class Ratio(NamedTuple):
    """The median ratio over pairs with its 95 % interval; its ends are None where the pairs are too few."""

    point: float
    low: float | None
    high: float | None
    pairs: int


def ratio(rows: pd.DataFrame, column: str, way: str, other: str) -> Ratio | None:
    """Return how many times a way's column is another's; None where they have no pair of positive values.

    A pair is one page, or one repetition of a page where there are several: of a time, it is the machine that varies.
    """
    keys = ["page", "repeat"] if "repeat" in rows else ["page"]
    known = rows.dropna(subset=[column]).set_index(["way", *keys])[column]
    if not {way, other} <= set(known.index.get_level_values("way")):
        return None
    pairs = known[way].to_frame("a").join(known[other].to_frame("b"), how="inner")
    if len(pairs) and (pairs["a"] == pairs["b"]).all():
        return Ratio(1.0, 1.0, 1.0, len(pairs))
    ratios = (pairs["a"] / pairs["b"])[(pairs > 0).all(axis=1)]
    if ratios.empty:
        return None
    if len(ratios) < _ENOUGH:
        return Ratio(float(ratios.median()), None, None, len(ratios))
    found = bootstrap_median(np.log(ratios).tolist())
    point, low, high = (float(np.exp(v)) for v in (found.point, found.low, found.high))
    return Ratio(point, low, high, len(ratios))


def ratio_words(rows: pd.DataFrame, column: str, way: str, other: str) -> str:
    """Return the ratio of `ratio` in words."""
    found = ratio(rows, column, way, other)
    if found is None:
        return f"not compared with {other}"
    if found.low is None or found.high is None:
        return f"{found.point:.2g} times {other}'s ({found.pairs} pairs, too few for an interval)"
    if found.low == found.high == 1:
        return f"the same as {other}'s"
    calm = ", no difference seen" if found.low <= 1 <= found.high else ""
    return f"{found.point:.2g} times {other}'s ({found.low:.2g} to {found.high:.2g} over {found.pairs} pairs{calm})"


def failures(fidelity: pd.DataFrame, way: str) -> tuple[int, int, str]:
    """Return on how many pages a way gave no numbers, of how many that the reference read, and the first reason."""
    mine = fidelity[(fidelity["way"] == way) & (fidelity["reference"] == "ok")]
    bad = mine[mine["status"] != "ok"]
    return len(bad), len(mine), "" if bad.empty else str(bad["reason"].iloc[0])
