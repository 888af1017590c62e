import pytest

from ocrlab.scoring.metrics import Edits
from ocrlab.scoring.statistics import verdict


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
    assert found.words.endswith(", 20 documents)")


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
