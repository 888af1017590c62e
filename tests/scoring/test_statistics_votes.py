"""Votes between two settings: an interval that keeps what it promises, and how many more votes would decide."""

from __future__ import annotations

import numpy as np
import pytest

from ocrlab.scoring.metrics import Edits
from ocrlab.scoring.statistics import share_interval, share_of_votes, votes_needed


def drawn(rng: np.random.Generator, share: float, per_page: int, alike: float = 0.0, votes: int = 200) -> list[Edits]:
    """Votes on pages; with `alike` a page has a preference of its own (a beta distribution of that concentration)."""
    pages = votes // per_page
    own = rng.beta(share * alike, (1 - share) * alike, pages) if alike else np.full(pages, share)
    return [Edits(int(rng.binomial(per_page, one)), per_page) for one in own]


@pytest.mark.parametrize(("per_page", "alike"), [(1, 0), (5, 0), (10, 2)], ids=["pages of one", "of five", "alike"])
def test_the_interval_of_200_votes_covers_a_preference_of_60_percent(per_page: int, alike: float) -> None:
    rng = np.random.default_rng(0)
    found = [share_of_votes(drawn(rng, 0.6, per_page, alike)) for _ in range(500)]
    covered = sum(one.low <= 0.6 <= one.high for one in found) / 500
    print(f"covered in {covered:.1%}")
    assert covered >= 0.93


def test_votes_of_a_page_that_go_together_are_fewer_than_they_look() -> None:
    plain = share_interval(120, 200)
    spread = share_of_votes([Edits(10, 10)] * 12 + [Edits(0, 10)] * 8)
    # Pages all one way: as good as 20 votes (20/19 of the variance of the share of 12 in 20).
    assert spread[:2] == pytest.approx(share_interval(0.6 * 19, 19), abs=1e-9)
    assert spread.high - spread.low > 2.5 * (plain[1] - plain[0])
    even = share_of_votes([Edits(6, 10)] * 20)
    assert even[:2] == pytest.approx(plain), "never surer than so many independent votes"


def test_six_pages_all_one_way_decide_and_five_never_do() -> None:
    six, five = share_of_votes([Edits(1, 1)] * 6), share_of_votes([Edits(4, 4)] * 5)
    assert six.low > 0.5 and votes_needed([Edits(1, 1)] * 6) == 0
    assert five.low == 0.5 and votes_needed([Edits(4, 4)] * 5) == 4
    assert votes_needed([Edits(4, 4)] * 2) == 16, "four pages more, with four votes each"


def test_how_many_votes_would_decide() -> None:
    # (1.96 * 0.5 + 0.84 * sqrt(0.6 * 0.4))² / 0.1² = 193.6 votes in all at 60 %, with 80 % power.
    assert votes_needed([Edits(3, 5), Edits(3, 5)] * 4) == 194 - 40
    assert votes_needed([Edits(1, 2)] * 10) == 0, "an even share: no number settles it"
    rng = np.random.default_rng(1)
    decided = sum(share_of_votes(drawn(rng, 0.6, 2, votes=194)).low > 0.5 for _ in range(200)) / 200
    assert 0.7 <= decided <= 0.88
    with pytest.raises(ValueError, match="no pages"):
        share_of_votes([])
