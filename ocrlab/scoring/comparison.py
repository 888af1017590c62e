"""Is one setting as good as another? A verdict against a margin, as a word and as a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ocrlab.scoring.rates import Edits
from ocrlab.scoring.statistics import Interval, paired_difference

VerdictKind = Literal["better", "not worse", "worse", "not settled", "not compared"]


@dataclass(frozen=True)
class Verdict:
    """What the interval of a difference (a minus b, fractions) says: `kind` for code, `words` for people."""

    kind: VerdictKind
    words: str
    difference: Interval
    margin: float


def verdict(
    a: Sequence[Edits],
    b: Sequence[Edits],
    margin: float = 0.005,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
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
    difference = paired_difference(a, b, confidence, resamples, seed)
    kind, claim = _judge(difference, margin, metric)
    return Verdict(kind, f"{claim} ({_numbers(difference)})", difference, margin)


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
