import numpy as np
import pytest

from ocrlab.scoring import statistics
from ocrlab.scoring.metrics import Edits
from ocrlab.scoring.statistics import paired_difference, swap_test, verdict


def pair(*gaps, length=100):
    return [Edits(10 + gap, length) for gap in gaps], [Edits(10, length) for _ in gaps]


def test_the_chance_of_all_on_one_side_by_hand():
    # n documents that differ by 1: of 2^n ways to swap, 2 part the sides as far (all one way, all the other).
    for n in (4, 6, 9):
        assert swap_test(*pair(*[1] * n), resamples=20_000) == pytest.approx(2.0 ** (1 - n), abs=0.008)


def test_no_difference_is_certainly_chance_and_equal_documents_count_for_nothing():
    assert swap_test(*pair(0, 0, 0)) == 1.0
    assert swap_test(*pair(1, -1)) == 1.0
    assert swap_test(*pair(1, 2, 3, 4)) == swap_test(*pair(1, 0, 2, 0, 0, 3, 4))


def test_large_gaps_weigh_more():
    # 5, 1, 1 against 0: only the sign of 5 and both 1s matter; 7 is reached in 2 of 8 ways.
    assert swap_test(*pair(5, 1, 1), resamples=20_000) == pytest.approx(0.25, abs=0.01)


def test_drawing_in_blocks_changes_little(monkeypatch):
    a, b = pair(*[3, 1, -1, 2, 2, -1, 1, 1])
    whole = swap_test(a, b, resamples=5000)
    monkeypatch.setattr(statistics, "_BLOCK", 80)
    assert swap_test(a, b, resamples=5000) == pytest.approx(whole, abs=0.03)


def test_p_is_uniform_or_above_under_chance():
    # 300 nulls of 15 documents: at most 5 % + 2 standard deviations (2.5 points) at 0.05.
    found = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        gaps = rng.normal(0, 5, 15).round().astype(int)
        found.append(swap_test(*pair(*gaps, length=200), resamples=500))
    assert np.mean(np.array(found) <= 0.05) <= 0.075
    assert np.mean(np.array(found) <= 0.5) == pytest.approx(0.5, abs=0.09)


def test_an_interval_is_stretched_to_zero_where_chance_explains_it():
    # Four documents of forty one edit worse, none better: resampled intervals leave out zero, yet that is 1 in 8.
    a, b = pair(*[1] * 4, *[0] * 36)
    interval = paired_difference(a, b)
    assert interval.low == 0.0 < interval.point < interval.high
    assert paired_difference(b, a).high == 0.0 > paired_difference(b, a).low
    assert verdict(a, b, margin=0.001).kind == "not settled" and verdict(b, a).kind == "not worse"
    # Ten of forty are not chance.
    assert verdict(*pair(*[1] * 10, *[0] * 30), margin=0.001).kind == "worse"


def test_five_documents_never_show_a_difference_and_six_can():
    assert verdict(*pair(*[50] * 5)).kind == "not settled"
    assert verdict(*pair(*[50] * 6)).kind == "worse"
