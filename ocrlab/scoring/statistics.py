"""What a difference is worth: intervals by resampling documents, the swap test, and a verdict against a margin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ocrlab.scoring.metrics import Edits, corpus_rate

VerdictKind = Literal["better", "not worse", "worse", "not settled", "not compared"]
Array = NDArray[np.float64]
_POWER = ((1.96 + 0.84) / 1.96) ** 2  # what 80 % power adds to the documents of a 95 % interval
_LEAST_PAGES = 6  # on fewer, `swap_test` is above 5 % even where all say the same
_BLOCK = 1_000_000  # drawn indices held at once: 8 MB, however many documents


class Interval(NamedTuple):
    """A corpus rate or a difference of two, as fractions, and the ends of its interval."""

    low: float
    high: float
    point: float
    confidence: float
    documents: int


class Spread(NamedTuple):
    """The middle of repeated measurements and its quartiles, in the unit of the values."""

    median: float
    low_quartile: float
    high_quartile: float


def bootstrap_interval(
    pages: Sequence[Edits], confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Return the corpus rate and its percentile bootstrap interval, whole documents resampled with replacement.

    Below some 20 documents such an interval is too narrow. Raises ValueError for fewer than two documents, no
    truth at all, or a confidence outside 0 to 1. Source: Bisani and Ney, ICASSP 2004.
    """
    _check(pages, confidence, resamples)
    drawn = _resampled_rates([pages], resamples, seed)[0]
    return _interval(drawn, corpus_rate(pages), confidence, len(pages))


def paired_difference(
    a: Sequence[Edits], b: Sequence[Edits], confidence: float = 0.95, resamples: int = 2000
) -> Interval:
    """Return corpus rate of `a` minus that of `b`, with its interval: below zero, `a` reads better.

    Each resample draws the same documents for both, so what makes a page hard cancels out. Where few documents differ,
    such an interval is too narrow: it left out zero in up to 14 % of comparisons of a setting with itself, where 5 %
    are allowed (LOG.md). So it is stretched to zero unless `swap_test` also finds more than chance. Raises ValueError
    as `bootstrap_interval` does, and where the two are not the same documents in the same order.
    """
    if len(a) != len(b):
        raise ValueError(f"{len(a)} documents against {len(b)}; compare readings of the same documents")
    for index, (left, right) in enumerate(zip(a, b, strict=True)):
        if left.length != right.length:
            raise ValueError(
                f"document {index} has a truth of length {left.length} on one side and {right.length} on the other; "
                "put the same documents in the same order, scored with the same profile"
            )
    _check(a, confidence, resamples)
    drawn_a, drawn_b = _resampled_rates([a, b], resamples)
    found = _interval(drawn_a - drawn_b, corpus_rate(a) - corpus_rate(b), confidence, len(a))
    if found.low <= 0 <= found.high or swap_test(a, b, resamples) <= 1 - confidence:
        return found
    return found._replace(low=min(found.low, 0.0), high=max(found.high, 0.0))


def median_spread(values: Sequence[float]) -> Spread:
    """Return the median and the quartiles (linear between neighbours), in the unit of the values.

    Raises ValueError where there are no values, or one is not finite.
    """
    if len(values) == 0:
        raise ValueError("no values to take a median of; measure at least once")
    if not np.isfinite(values).all():
        raise ValueError(f"not all of the {len(values)} values are finite; leave failed measurements out first")
    low, middle, high = np.percentile(values, [25, 50, 75])
    return Spread(float(middle), float(low), float(high))


def bootstrap_median(values: Sequence[float]) -> Interval:
    """Return the median of the values and its 95 % percentile bootstrap interval, in the unit of the values.

    Raises ValueError for fewer than two values, or one that is not finite.
    """
    point = median_spread(values).median
    if len(values) < 2:
        raise ValueError("an interval of a median needs at least 2 values; measure again")
    drawn = np.random.default_rng(0).choice(np.asarray(values, float), size=(2000, len(values)))
    return _interval(np.median(drawn, axis=1), point, 0.95, len(values))


def ratio_of_sums(over: Sequence[float], under: Sequence[float], resamples: int = 2000) -> Interval:
    """Return the sum of `over` divided by that of `under`, with its 95 % percentile bootstrap interval over the pairs.

    Of seconds per page it is the ratio of the whole times, so that one page that takes long counts with all its time.
    """
    x, y = np.asarray(under, float), np.asarray(over, float)
    drawn = np.random.default_rng(0).integers(len(x), size=(resamples, len(x)))
    ratios = y[drawn].sum(axis=1) / x[drawn].sum(axis=1)
    return _interval(ratios, float(y.sum() / x.sum()), 0.95, len(x))


def share_interval(count: float, of: float, z: float = 1.959964) -> tuple[float, float]:
    """Return the ends of Wilson's 95 % interval for a share of `count` in `of`; 0 to 1 where `of` is 0.

    Source: Wilson 1927; recommended for small samples by Brown, Cai and DasGupta, Statistical Science 2001.
    """
    if of == 0:
        return 0.0, 1.0
    share, extra = count / of, z**2 / of
    middle = (share + extra / 2) / (1 + extra)
    half = z * math.sqrt(share * (1 - share) / of + extra / of / 4) / (1 + extra)
    return max(0.0, middle - half), min(1.0, middle + half)


def share_of_votes(pages: Sequence[Edits]) -> Interval:
    """Return the share of votes for one side, with its 95 % interval; each page has that side's votes over all of them.

    It is Wilson's interval over as many votes as are independent by the spread between pages, and it is stretched to a
    half unless `swap_test` also finds more than chance: fewer than six pages never decide. Raises ValueError without
    pages. Source: Kish, Survey Sampling, 1965 (design effect).
    """
    share, independent = corpus_rate(pages), sum(page.length for page in pages) / _design_effect(pages)
    low, high = share_interval(share * independent, independent)
    if swap_test(pages, [Edits(page.length - page.edits, page.length) for page in pages]) > 0.05:
        low, high = min(low, 0.5), max(high, 0.5)
    return Interval(low, high, share, 0.95, len(pages))


def votes_needed(pages: Sequence[Edits]) -> int:
    """Return about how many more votes would settle which side is preferred, with 80 % power, if the share stays.

    0 where they settle it, or where the share is a half, for which no number does. Raises ValueError without pages.
    """
    found, votes = share_of_votes(pages), sum(page.length for page in pages)
    if found.point == 0.5 or not found.low <= 0.5 <= found.high:
        return 0
    spread = 1.96 * 0.5 + 0.84 * math.sqrt(found.point * (1 - found.point))
    needed = math.ceil(_design_effect(pages) * (spread / abs(found.point - 0.5)) ** 2)
    return max(needed - votes, math.ceil(votes / len(pages)) * (_LEAST_PAGES - len(pages)), 1)


def _design_effect(pages: Sequence[Edits]) -> float:
    """Return by how much the spread between pages makes a share less sure than as many independent votes would."""
    share, votes, count = corpus_rate(pages), sum(page.length for page in pages), len(pages)
    chance = votes * share * (1 - share)
    between = sum((page.edits - share * page.length) ** 2 for page in pages)
    return max(1.0, count / (count - 1) * between / chance) if count > 1 and chance else 1.0


def _check(pages: Sequence[Edits], confidence: float, resamples: int) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence} is not between 0 and 1; 0.95 is usual")
    if resamples < 1:
        raise ValueError(f"resamples {resamples} is below 1; 2000 is usual")
    if len(pages) < 2:
        raise ValueError(f"an interval over documents needs at least 2 documents, got {len(pages)}")
    if not any(page.length for page in pages):
        raise ValueError(f"the truth of all {len(pages)} documents is empty; no rate has an interval there")


def _resampled_rates(groups: Sequence[Sequence[Edits]], resamples: int, seed: int = 0) -> list[Array]:
    """Return for each group of pages one corpus rate a resample; a resample draws the same places in every group."""
    edits = [np.array([page.edits for page in group]) for group in groups]
    lengths = np.array([page.length for page in groups[0]])
    documents, random = len(lengths), np.random.default_rng(seed)
    blocks: list[list[Array]] = [[] for _ in groups]
    rows = max(1, _BLOCK // documents)
    for start in range(0, resamples, rows):
        drawn = random.integers(documents, size=(min(rows, resamples - start), documents))
        length = lengths[drawn].sum(axis=1)
        for rates, counts in zip(blocks, edits, strict=True):
            wrong = counts[drawn].sum(axis=1)
            # Only empty truths drawn: the convention of Edits.rate.
            rates.append(np.where(length > 0, wrong / np.maximum(length, 1), wrong > 0))
    return [np.concatenate(rates) for rates in blocks]


def _interval(drawn: Array, point: float, confidence: float, documents: int) -> Interval:
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high), point, confidence, documents)


def swap_test(a: Sequence[Edits], b: Sequence[Edits], resamples: int = 2000) -> float:
    """Return how often swapping the two readings at random, document by document, parts them as far as they are.

    If it did not matter which setting read a document, every swap would be as likely as what was seen; so a difference
    is called one at 5 % where this is at most 0.05, and that is exact for any number of documents and any spread. Fewer
    than six documents that differ never are. Source: Noreen 1989; Yeh, COLING 2000 (approximate randomisation).
    """
    gaps = np.array([x.edits - y.edits for x, y in zip(a, b, strict=True)])
    gaps = gaps[gaps != 0]
    random, seen, as_far = np.random.default_rng(0), abs(gaps.sum()), 0
    rows = max(1, _BLOCK // max(1, len(gaps)))
    for start in range(0, resamples, rows):
        signs = 2 * random.integers(2, size=(min(rows, resamples - start), len(gaps))) - 1
        as_far += int((np.abs(signs @ gaps) >= seen).sum())
    return (1 + as_far) / (1 + resamples)  # what was seen is one of the ways to swap


@dataclass(frozen=True)
class Verdict:
    """What the interval of a difference (a minus b, fractions) says: `kind` for code, `words` for people."""

    kind: VerdictKind
    words: str
    difference: Interval
    margin: float

    @property
    def documents_needed(self) -> int | None:
        """Return about how many documents would settle it with 80 % power, if the difference stays; else None.

        The half width of an interval shrinks with the square root of the documents; it must fall below what separates
        the difference from 0 or from the margin, whichever is farther.
        """
        if self.kind != "not settled":
            return None
        low, high, point, _, documents = self.difference
        return math.ceil(documents * _POWER * ((high - low) / 2 / max(point, self.margin - point)) ** 2)


def verdict(
    a: Sequence[Edits],
    b: Sequence[Edits],
    margin: float = 0.005,
    confidence: float = 0.95,
    resamples: int = 2000,
    metric: str = "CER",
) -> Verdict:
    """Return whether `a` reads worse than `b` over the same documents, where `margin` (a fraction) is what matters.

    `better`: the whole interval of a minus b is below 0. `not worse`: it is below the margin, so a loss that
    matters is ruled out (a smaller one may be certain, and `words` then says so). `worse`: it is above 0 and reaches
    the margin. `not settled`: it holds both 0 and the margin; more documents are needed. Raises ValueError for
    a margin of 0 or less, else as `paired_difference`. Source: CONSORT 2010 extension for non-inferiority trials.
    """
    if not margin > 0:
        raise ValueError(f"margin {margin} is not above 0; 0.005 is half a {metric} point")
    difference = paired_difference(a, b, confidence, resamples)
    kind, claim = _judge(difference, margin, metric)
    found = Verdict(kind, f"{claim} ({_numbers(difference)})", difference, margin)
    if needed := found.documents_needed:
        needed = max(needed, difference.documents + 1)
        found = replace(found, words=f"{found.words}; about {needed:,} documents would settle it")
    return found


def _judge(difference: Interval, margin: float, metric: str) -> tuple[VerdictKind, str]:
    limit = f"{100 * margin:g} {metric} points"
    if difference.high < 0:
        return "better", f"better in {metric}"
    if difference.high < margin:
        if difference.low > 0:
            return "not worse", f"worse, but by less than {limit}"
        return "not worse", f"no difference seen; not worse by more than {limit}"
    if difference.low > 0:
        return "worse", f"worse in {metric}"
    return "not settled", f"no difference seen, but worse by more than {limit} is not ruled out"


def _numbers(difference: Interval) -> str:
    return (
        f"difference {_points(difference.point)}, {100 * difference.confidence:g} % interval "
        f"{_points(difference.low)} to {_points(difference.high)}, {difference.documents} documents"
    )


def _points(fraction: float) -> str:
    """Return percentage points with a sign and two decimals; more where two would make a zero of something else."""
    rounded = f"{100 * fraction:+z.2f}"
    return rounded if fraction == 0 or float(rounded) != 0 else f"{100 * fraction:+.1g}"


def growth_rate(work: Sequence[float], values: Sequence[float], resamples: int = 2000) -> Interval:
    """Return how much the values grow a unit of work, with its 95 % bootstrap interval over the steps between them.

    Steps are resampled, not values: a process's memory wanders and does not return to a level, so that a line fitted
    through it looks surer than it is. `documents` counts the steps. Raises ValueError for fewer than three values, or
    work that does not rise.
    """
    x, y = np.asarray(work, float), np.asarray(values, float)
    if len(x) < 3 or len(x) != len(y):
        raise ValueError(f"{len(x)} places and {len(y)} values; a rate with an interval needs three of each")
    if not (np.diff(x) > 0).all():
        raise ValueError("work must rise from value to value")
    return ratio_of_sums(np.diff(y).tolist(), np.diff(x).tolist(), resamples)
