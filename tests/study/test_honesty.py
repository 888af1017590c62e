"""Is what is claimed there? A planted difference is found in 20 of 20 draws of pages, and none in 19 of 20 of a null.

Readings come from the embedded reader through `run_experiment`; each seed draws pages and, for the null with real
noise, which readings of a page are on which side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from ocrlab.pages import load_pages
from ocrlab.reading.settings import Settings
from ocrlab.scoring import statistics
from ocrlab.scoring.metrics import Edits
from ocrlab.scoring.statistics import verdict
from ocrlab.study.compare import compare, interval_of
from ocrlab.study.experiment import run_experiment

SEEDS = range(20)
CLAIMS = {"worse", "better"}
BASE = Settings(dtype="float32", max_new_tokens=64, batch_size=8)
DRAWN = 30  # pages a draw
pytestmark = pytest.mark.timeout(900)  # its 490 readings are made once, for all tests of this file


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    sampled = [replace(BASE, do_sample=True, temperature=1.0, seed=seed) for seed in range(4)]
    runs = {replace(BASE, max_pixels=4096): "few pixels", BASE: "greedy", replace(BASE, seed=1): "greedy again"}
    runs |= {settings: f"sampled {i}" for i, settings in enumerate(sampled)}
    found = run_experiment("x", list(runs), load_pages("lines", spread=70), folder=tmp_path_factory.mktemp("run"))
    assert (found["status"] == "ok").mean() > 0.95
    return found.assign(setting=np.repeat(list(runs.values()), 70))


def drawn(rows: pd.DataFrame, seed: int) -> pd.DataFrame:
    pages = np.random.default_rng(seed).choice(rows["page"].unique(), DRAWN, replace=False)
    return rows[rows["page"].isin(pages)]


def swapped(rows: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Pages by seed, and of each page's four sampled readings two on side a and two on side b, by seed too."""
    rng = np.random.default_rng(seed)
    mine = drawn(rows[rows["setting"].str.startswith("sampled")], seed)
    order = {page: rng.permutation(4) for page in mine["page"].unique()}
    return mine.assign(side=["ab"[order[p][s] // 2] for p, s in zip(mine["page"], mine["seed"], strict=True)])


def share(kind: Callable[[int], str], count: int) -> float:
    """How often a difference is claimed over so many seeds."""
    return float(np.mean([kind(seed) in CLAIMS for seed in range(count)]))


def test_a_planted_difference_is_found_in_20_of_20(rows: pd.DataFrame) -> None:
    kinds = [compare(drawn(rows, seed), "setting", "few pixels", "greedy").kind for seed in SEEDS]
    assert kinds == ["worse"] * 20


def test_the_same_setting_twice_is_never_found(rows: pd.DataFrame) -> None:
    kinds = [compare(drawn(rows, seed), "setting", "greedy again", "greedy").kind for seed in SEEDS]
    assert kinds == ["not worse"] * 20


def test_two_halves_of_one_setting_do_differ_by_chance(rows: pd.DataFrame) -> None:
    verdicts = [compare(swapped(rows, seed), "side", "a", "b") for seed in SEEDS]
    assert all(v.difference.high > v.difference.low for v in verdicts), "the noise is real"


def test_by_chance_a_difference_is_claimed_no_more_often_than_allowed(rows: pd.DataFrame) -> None:
    # 5 % of 200 draws are 10, standard deviation 3.1.
    assert share(lambda seed: compare(swapped(rows, seed), "side", "a", "b").kind, 200) <= 16 / 200


def reread(seed: int, count: int, loops: float) -> tuple[list[Edits], list[Edits]]:
    """Two readings of the same synthetic pages by the same setting: hard and easy pages, and loops by bad luck."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(4, 49, count)
    hardness = np.minimum(rng.gamma(0.7, 0.08 / 0.7, count), 1.0)

    def side() -> list[Edits]:
        edits = rng.binomial(lengths, hardness) + 200 * (rng.random(count) < loops)
        return [Edits(int(e), int(n)) for e, n in zip(edits, lengths, strict=True)]

    return side(), side()


@pytest.mark.parametrize("loops", [0.0, 0.03])
@pytest.mark.parametrize("count", [10, 20, 80])
def test_a_synthetic_null_is_not_found_in_19_of_20(count: int, loops: float) -> None:
    assert sum(verdict(*reread(seed, count, loops)).kind in CLAIMS for seed in SEEDS) <= 1


@pytest.mark.parametrize("count", [10, 20, 40])
def test_resampling_alone_would_claim_too_much_and_the_verdict_does_not(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 5 % of 300 are 15, standard deviation 3.8.
    assert share(lambda seed: verdict(*reread(seed, count, 0.03), resamples=400).kind, 300) <= 22 / 300
    monkeypatch.setattr(statistics, "swap_test", lambda *_: 0.0)
    assert share(lambda seed: verdict(*reread(seed, count, 0.03), resamples=400).kind, 300) > 22 / 300


def repeated(seed: int, times: int) -> pd.DataFrame:
    """Rows of 20 pages read `times` over by two settings that differ by each page's own luck alone, kept each time."""
    a, b = reread(seed, 20, 0.0)
    return pd.DataFrame(
        [
            {"page": page, "side": side, "repeat": repeat, "cer_edits": e.edits, "cer_length": e.length}
            for side, edits in (("a", a), ("b", b))
            for page, e in enumerate(edits)
            for repeat in range(times)
        ]
    )


def test_reading_a_page_again_does_not_make_more_documents() -> None:
    for seed in range(5):
        once, often = (compare(repeated(seed, times), "side", "a", "b") for times in (1, 5))
        assert once == often and once.difference.documents == 20
        assert interval_of(repeated(seed, 1)) == interval_of(repeated(seed, 5))

    def as_documents(seed: int) -> str:  # what happens where repetitions are taken for documents
        sides = repeated(seed, 5).groupby("side")
        a, b = (
            [Edits(*pair) for pair in side[["cer_edits", "cer_length"]].itertuples(index=False)] for _, side in sides
        )
        return verdict(a, b).kind

    assert share(as_documents, 40) > 0.25
    assert share(lambda seed: compare(repeated(seed, 5), "side", "a", "b").kind, 40) <= 0.1


def test_pages_weigh_the_same_however_often_each_was_read() -> None:
    one, other = repeated(3, 1), repeated(3, 6)
    uneven = pd.concat(
        [one[one["side"] == "a"], other[(other["side"] == "b") & (other["repeat"] < 2 + other["page"] % 3)]]
    )
    assert compare(uneven, "side", "a", "b").difference == compare(one, "side", "a", "b").difference


def test_other_metrics_are_compared_by_their_columns() -> None:
    rows = repeated(1, 1).rename(columns={"cer_edits": "digits_edits", "cer_length": "digits_length"})
    found = compare(rows, "side", "a", "b", metric="digits", confidence=0.9)
    assert found.difference.confidence == 0.9 and "digit-string loss" in found.words
    absent = compare(rows, "side", "a", "b")
    assert absent.kind == "not compared" and absent.words.startswith("not compared: 0 pages have a CER on both sides")
    assert absent.difference.point != absent.difference.point
