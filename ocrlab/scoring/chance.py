"""Could chance alone have made a difference? The paired randomisation test over documents."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ocrlab.scoring.rates import Edits

_BLOCK = 1_000_000  # drawn signs held at once: 8 MB


def swap_test(a: Sequence[Edits], b: Sequence[Edits], resamples: int = 2000, seed: int = 0) -> float:
    """Return how often swapping the two readings at random, document by document, parts them as far as they are.

    If it did not matter which setting read a document, every swap would be as likely as what was seen; so a difference
    is called one at 5 % where this is at most 0.05, and that is exact for any number of documents and any spread. Fewer
    than six documents that differ never are. Source: Noreen 1989; Yeh, COLING 2000 (approximate randomisation).
    """
    gaps = np.array([x.edits - y.edits for x, y in zip(a, b, strict=True)])
    gaps = gaps[gaps != 0]
    random, seen, as_far = np.random.default_rng(seed), abs(gaps.sum()), 0
    rows = max(1, _BLOCK // max(1, len(gaps)))
    for start in range(0, resamples, rows):
        signs = 2 * random.integers(2, size=(min(rows, resamples - start), len(gaps))) - 1
        as_far += int((np.abs(signs @ gaps) >= seen).sum())
    return (1 + as_far) / (1 + resamples)  # what was seen is one of the ways to swap
