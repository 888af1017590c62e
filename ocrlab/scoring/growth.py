"""Does a quantity grow with work done? A rate with an interval that does not trust one level to hold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ocrlab.scoring.statistics import Interval


def growth_rate(
    work: Sequence[float], values: Sequence[float], confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Return how much the values grow a unit of work, with a percentile bootstrap interval over the steps between them.

    Steps are resampled, not values: a process's memory wanders and does not return to a level, so that a line fitted
    through it looks surer than it is. `documents` counts the steps. Raises ValueError for fewer than three values, or
    work that does not rise.
    """
    x, y = np.asarray(work, float), np.asarray(values, float)
    if len(x) < 3 or len(x) != len(y):
        raise ValueError(f"{len(x)} places and {len(y)} values; a rate with an interval needs three of each")
    if not (np.diff(x) > 0).all():
        raise ValueError("work must rise from value to value")
    dx, dy = np.diff(x), np.diff(y)
    drawn = np.random.default_rng(seed).integers(len(dx), size=(resamples, len(dx)))
    rates = dy[drawn].sum(axis=1) / dx[drawn].sum(axis=1)
    low, high = np.quantile(rates, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high), float(dy.sum() / dx.sum()), confidence, len(dx))
