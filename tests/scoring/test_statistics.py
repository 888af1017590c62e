import numpy as np
import pytest

from ocrlab.scoring import statistics as module
from ocrlab.scoring.metrics import Edits, corpus_rate
from ocrlab.scoring.statistics import bootstrap_interval, median_spread, paired_difference, verdict


def documents(rate, count=200, seed=0):
    """Documents of 50 to 149 graphemes; each grapheme is wrong with the document's own chance, `rate` on average."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(50, 150, count)
    hardness = rng.gamma(2.0, rate / 2.0, count)
    return [Edits(int(rng.binomial(n, min(h, 1.0))), int(n)) for n, h in zip(lengths, hardness, strict=True)]


def made_worse(pages, rate, seed):
    """The same documents with further errors, each grapheme with chance `rate`."""
    rng = np.random.default_rng(seed)
    return [Edits(page.edits + int(rng.binomial(page.length, rate)), page.length) for page in pages]


def other_run(pages, seed):
    """The same documents with noise of no direction: one edit more or one fewer with equal chance."""
    rng = np.random.default_rng(seed)
    signs = [int(rng.integers(-1, 2)) if page.edits else 0 for page in pages]
    return [Edits(page.edits + sign, page.length) for page, sign in zip(pages, signs, strict=True)]


def test_the_interval_of_two_documents_by_hand():
    # Documents 0/10 and 10/10. A resample draws two: rate 0 (chance 1/4), 0.5 (1/2) or 1 (1/4).
    # The 2.5 % and 97.5 % points lie within the outer quarters: 0 and 1. At 40 % confidence (30 % to 70 %): 0.5.
    pages = [Edits(0, 10), Edits(10, 10)]
    assert bootstrap_interval(pages)[:3] == (0.0, 1.0, 0.5)
    assert bootstrap_interval(pages, confidence=0.4)[:3] == (0.5, 0.5, 0.5)


def test_equal_documents_have_an_interval_of_no_width():
    found = bootstrap_interval([Edits(1, 20)] * 30)
    assert (found.low, found.point, found.high) == (0.05, 0.05, 0.05)
    assert (found.confidence, found.documents) == (0.95, 30)


def test_long_documents_weigh_more_in_the_interval():
    # Lengths 100 and 1, so a resample's rate is 0/200, 1/101 or 2/2: never 1/2, which the mean of rates would give.
    found = bootstrap_interval([Edits(0, 100), Edits(1, 1)], confidence=0.4)
    assert found.low == found.high == found.point == 1 / 101


def test_both_ends_agree_with_the_normal_formula():
    pages = documents(0.05, count=400)
    found = bootstrap_interval(pages, resamples=4000)
    rate, lengths = corpus_rate(pages), np.array([page.length for page in pages])
    residuals = np.array([page.edits for page in pages]) - rate * lengths
    # The delta method for a ratio: standard error = sqrt(sum of squared residuals) / total length.
    error = np.sqrt((residuals**2).sum()) / lengths.sum()
    assert found.high - rate == pytest.approx(1.96 * error, rel=0.08)
    assert rate - found.low == pytest.approx(1.96 * error, rel=0.08)


def test_the_interval_covers_the_true_rate_about_as_often_as_it_says():
    # 100 corpora of rate 0.05 at 90 %: 90 expected, standard deviation 3; outside 80..98 something is wrong.
    found = [bootstrap_interval(documents(0.05, 100, seed), confidence=0.9, resamples=500) for seed in range(100)]
    assert 80 <= sum(interval.low <= 0.05 <= interval.high for interval in found) <= 98


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    pages = documents(0.05)
    assert bootstrap_interval(pages, seed=4) == bootstrap_interval(pages, seed=4)
    assert bootstrap_interval(pages, seed=4) != bootstrap_interval(pages, seed=5)


def test_drawing_in_blocks_changes_nothing(monkeypatch):
    pages = documents(0.05, count=50)
    whole = paired_difference(pages, other_run(pages, 1), resamples=101)
    monkeypatch.setattr(module, "_BLOCK", 50 * 7)
    assert paired_difference(pages, other_run(pages, 1), resamples=101) == whole


def test_pairing_cancels_what_makes_a_document_hard():
    pages = documents(0.10)
    worse = [Edits(page.edits + 1, page.length) for page in pages]
    paired = paired_difference(worse, pages)
    # One edit more in each document: the difference is documents / total length in every resample, near enough.
    assert paired.point == pytest.approx(len(pages) / sum(page.length for page in pages))
    alone = bootstrap_interval(pages)
    assert paired.high - paired.low < (alone.high - alone.low) / 5


def test_the_difference_is_a_minus_b():
    low, high = [Edits(1, 100)] * 5, [Edits(3, 100)] * 5
    assert paired_difference(high, low).point == pytest.approx(0.02)
    assert paired_difference(low, high).point == pytest.approx(-0.02)


@pytest.mark.parametrize("seed", range(5))
def test_a_planted_difference_is_found(seed):
    pages = documents(0.03, seed=seed)
    worse = made_worse(pages, 0.02, seed + 100)
    assert verdict(worse, pages).kind == "worse"
    assert verdict(pages, worse).kind == "better"


def test_a_planted_null_is_not_found_more_often_than_the_interval_allows():
    found = []
    for seed in range(60):
        pages = documents(0.03, seed=seed)
        interval = paired_difference(other_run(pages, seed + 500), pages, resamples=500)
        found.append(interval.low > 0 or interval.high < 0)
    # 5 % of 60 are 3, standard deviation 1.7.
    assert sum(found) <= 8


@pytest.mark.parametrize("seed", range(5))
def test_a_planted_null_is_not_worse_by_the_margin(seed):
    pages = documents(0.03, seed=seed)
    found = verdict(other_run(pages, seed + 500), pages)
    assert found.kind == "not worse"


def test_no_documents_of_truth_have_no_interval():
    with pytest.raises(ValueError, match="truth of all 3 documents is empty"):
        bootstrap_interval([Edits(1, 0)] * 3)
    with pytest.raises(ValueError, match="truth of all 3 documents is empty"):
        verdict([Edits(1, 0)] * 3, [Edits(0, 0)] * 3)


@pytest.mark.parametrize("count", [0, 1])
def test_an_interval_needs_two_documents(count):
    with pytest.raises(ValueError, match=f"at least 2 documents, got {count}"):
        bootstrap_interval([Edits(1, 10)] * count)
    with pytest.raises(ValueError, match=f"at least 2 documents, got {count}"):
        paired_difference([Edits(1, 10)] * count, [Edits(1, 10)] * count)


def test_resamples_of_empty_truths_alone_follow_the_convention():
    # A blank page with 3 graphemes read, and a page read well. Draws: blank twice 1.0, one each 3/10, page twice 0.
    found = bootstrap_interval([Edits(3, 0), Edits(0, 10)])
    assert found[:3] == (0.0, 1.0, 0.3)


def test_other_documents_are_not_compared():
    with pytest.raises(ValueError, match="2 documents against 3"):
        paired_difference([Edits(1, 10)] * 2, [Edits(1, 10)] * 3)
    with pytest.raises(ValueError, match="document 1 has a truth of length 10 on one side and 11"):
        paired_difference([Edits(1, 10)] * 2, [Edits(1, 10), Edits(1, 11)])


@pytest.mark.parametrize("confidence", [0, 1, 95])
def test_confidence_is_a_fraction(confidence):
    with pytest.raises(ValueError, match="not between 0 and 1"):
        bootstrap_interval([Edits(1, 10)] * 3, confidence=confidence)


def test_no_resamples_are_refused():
    with pytest.raises(ValueError, match="resamples 0"):
        bootstrap_interval([Edits(1, 10)] * 3, resamples=0)


def test_median_and_quartiles_by_hand():
    # Of 1 2 3 4 the quartiles lie at positions 0.75, 1.5, 2.25: 1.75, 2.5, 3.25.
    assert median_spread([4, 1, 3, 2]) == (2.5, 1.75, 3.25)
    assert median_spread([7.0]) == (7.0, 7.0, 7.0)
    assert median_spread([1, 2, 100]).median == 2


def test_no_median_of_nothing_or_of_a_failed_measurement():
    with pytest.raises(ValueError, match="no values"):
        median_spread([])
    with pytest.raises(ValueError, match="not all of the 2 values are finite"):
        median_spread([1.0, float("nan")])


def test_median_of_repeated_measurements_has_an_interval() -> None:
    from ocrlab.scoring.statistics import bootstrap_median

    same = bootstrap_median([2.0, 2.0, 2.0])
    assert (same.low, same.point, same.high) == (2.0, 2.0, 2.0)
    values = [1.0, 2.0, 3.0, 4.0, 100.0]  # the middle is 3; resampled medians lie among the values
    spread = bootstrap_median(values)
    assert spread.point == 3.0 and 1.0 <= spread.low < 3.0 < spread.high <= 100.0
    with pytest.raises(ValueError, match="at least 2"):
        bootstrap_median([1.0])
