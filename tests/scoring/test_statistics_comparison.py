import numpy as np
import pytest

from ocrlab.scoring.metrics import Edits
from ocrlab.scoring.statistics import Interval, Verdict, ratio_of_sums, share_interval, verdict


def uniform(edits, length=1000, count=20):
    return [Edits(edits, length)] * count


def mixed(first, second, length=1000, count=20):
    """Half the documents with `first` edits, half with `second`: an interval of some width."""
    return [Edits(first, length)] * (count // 2) + [Edits(second, length)] * (count // 2)


@pytest.mark.parametrize(
    ("a", "b", "kind", "words"),
    [
        # Every document 10 edits in 1000 fewer: 1 point, interval of no width.
        (uniform(10), uniform(20), "better", "better in CER (difference -1.00, 95 % interval -1.00 to -1.00, 20 doc"),
        (uniform(20), uniform(10), "worse", "worse in CER (difference +1.00, 95 % interval +1.00 to +1.00, 20 doc"),
        # 0.2 points worse for certain, which is less than the 0.5 that matter.
        (uniform(12), uniform(10), "not worse", "worse, but by less than 0.5 CER points (difference +0.20,"),
        # 0.6 points worse for certain: just past the margin.
        (uniform(16), uniform(10), "worse", "worse in CER (difference +0.60,"),
        (
            uniform(10),
            uniform(10),
            "not worse",
            "no difference seen; not worse by more than 0.5 CER points (difference",
        ),
        # Half 0.2 better, half 0.2 worse: the interval is within +-0.2, around zero.
        (mixed(8, 12), uniform(10), "not worse", "no difference seen; not worse by more than 0.5 CER points"),
        # Half 8 points better, half 8 worse: around zero and far wider than the margin.
        (mixed(20, 180), uniform(100), "not settled", "no difference seen, but worse by more than 0.5 CER points is"),
    ],
)
def test_every_kind_with_its_words(a, b, kind, words):
    found = verdict(a, b)
    assert found.kind == kind
    assert found.words.startswith(words)
    asks = f"; about {found.documents_needed:,} documents would settle it" if kind == "not settled" else ""
    assert found.words.endswith(f", 20 documents){asks}")


def test_the_documents_asked_for_settle_it_in_most_draws():
    """By hand: half width 0.02 at 20 documents, no difference, margin 0.005: 20 · (0.02 / 0.005)² · 2.04 = 653."""
    interval = Interval(-0.02, 0.02, 0.0, 0.95, 20)
    assert Verdict("not settled", "", interval, 0.005).documents_needed == 654
    assert Verdict("not worse", "", interval, 0.005).documents_needed is None
    random, settled = np.random.default_rng(0), []
    for _ in range(60):  # documents of 1,000 letters; the difference has a standard deviation of 1.5 points
        edits = [np.round(50 + random.normal(0, 10.6, 20)).astype(int) for _ in range(2)]
        wanted = _verdict(*edits).documents_needed
        if wanted is not None:
            seen = edits[0].mean() - edits[1].mean()
            more = [np.round(50 + seen * i + random.normal(0, 10.6, wanted)).astype(int) for i in (1, 0)]
            settled.append(_verdict(*more).kind != "not settled")
    assert len(settled) > 20 and np.mean(settled) > 0.7


def _verdict(one, other):
    return verdict([Edits(int(e), 1000) for e in one], [Edits(int(e), 1000) for e in other])


def test_the_whole_sentence():
    found = verdict(uniform(10), uniform(10), margin=0.01, confidence=0.9, metric="WER")
    assert found.words == (
        "no difference seen; not worse by more than 1 WER points "
        "(difference +0.00, 90 % interval +0.00 to +0.00, 20 documents)"
    )
    assert (found.margin, found.difference.point, found.difference.confidence) == (0.01, 0.0, 0.9)


def test_the_margin_decides():
    a, b = uniform(12), uniform(10)  # 0.2 points worse
    assert verdict(a, b, margin=0.003).kind == "not worse"
    assert verdict(a, b, margin=0.001).kind == "worse"


def test_a_difference_too_small_for_two_decimals_is_not_printed_as_zero():
    # 1 edit in 100,000 is 0.001 points.
    found = verdict(uniform(1, 100_000), uniform(2, 100_000))
    assert found.kind == "better"
    assert found.words.startswith("better in CER (difference -0.001, 95 % interval -0.001 to -0.001")


@pytest.mark.parametrize("margin", [0, -0.005, float("nan")])
def test_a_verdict_needs_a_margin(margin):
    with pytest.raises(ValueError, match="not above 0"):
        verdict(uniform(1), uniform(1), margin=margin)


def test_shares_and_ratios_by_hand():
    # Wilson's interval for 1 of 60 (Brown, Cai and DasGupta 2001, formula 4): 0.0029 to 0.0886.
    assert share_interval(1, 60) == pytest.approx((0.00295, 0.08861), abs=1e-4)
    assert share_interval(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4) and share_interval(0, 0) == (0.0, 1.0)
    found = ratio_of_sums([1.0, 1.0, 10.0], [1.0, 1.0, 2.0])
    assert found.point == 3.0 and found.low == 1.0 and found.high == 5.0, "12 over 4; a page alone gives 1 or 5"
