import random

import jiwer
import pytest

from ocrlab.scoring.metrics import (
    METRICS,
    PROFILES,
    Edits,
    character_edits,
    corpus_rate,
    graphemes,
    normalise,
    score,
    word_edits,
)

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"

TRUTHS = ["Voltage: 220 V", "Мощность: 1500 Вт", "the quick brown fox", "a", "Итого 12 шт"]
READINGS = ["Voltage: 22O V", "Мощность 1500 Bт", "quick brown ox jumps", "a", ""]


def plain_distance(a, b):
    """The textbook table, kept to one row: an independent check of the library."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (x != y))
    return row[-1]


def test_cer_by_hand():
    # k i t t e n  -> s i t t i n g : k>s, e>i, +g = 3 edits over 6 letters of truth
    found = character_edits("sitting", "kitten")
    assert found == Edits(3, 6)
    assert found.rate == 0.5
    # The other way round the truth has 7 letters.
    assert character_edits("kitten", "sitting") == Edits(3, 7)


def test_wer_by_hand():
    # truth: Net weight 5 kg (4 words); read: Net 5 kgs : weight left out, kg>kgs = 2 edits
    assert word_edits("Net 5 kgs", "Net weight 5 kg") == Edits(2, 4)


def test_a_rate_passes_one_where_more_is_read_than_stands_there():
    assert character_edits("abcdef", "ab").rate == 2.0  # 4 insertions over 2


@pytest.mark.parametrize(
    ("reading", "truth", "edits"),
    [
        ("e\u0301", "\u00e9", Edits(0, 1)),  # NFC makes them one
        ("e", "\u00e9", Edits(1, 1)),
        ("\u0438", "\u0439", Edits(1, 1)),  # и for й
        ("x\u0301\u0308", "x", Edits(1, 1)),  # no composed form: still one grapheme, one edit
        (FAMILY, FAMILY, Edits(0, 1)),
        (f"a{FAMILY}", "ab", Edits(1, 2)),  # five code points, one edit
    ],
)
def test_edits_count_graphemes(reading, truth, edits):
    assert character_edits(reading, truth) == edits


@pytest.mark.parametrize(
    ("profile", "edits"),
    [
        ("strict", Edits(5, 9)),  # N>n, ':' left out, newline > space, K>k, G>g
        ("layout", Edits(4, 9)),  # the newline is a space there: one edit fewer
        ("loose", Edits(0, 8)),  # both are "net 5 kg"
    ],
)
def test_profiles_change_what_counts(profile, edits):
    assert character_edits("net 5 kg\n", "Net:\n5 KG", profile) == edits


def test_empty_truth_has_a_rate_of_zero_or_one():
    assert character_edits("", "") == Edits(0, 0)
    assert Edits(0, 0).rate == 0.0
    assert character_edits("abc", " \n") == Edits(3, 0)
    assert Edits(3, 0).rate == 1.0
    assert word_edits("a b", "").rate == 1.0
    assert character_edits("", "abc").rate == 1.0


def test_the_corpus_rate_weighs_by_length():
    pages = [Edits(1, 10), Edits(9, 30)]
    assert corpus_rate(pages) == 10 / 40
    # A blank page with 5 graphemes read: all 5 are in the corpus's edits.
    pages.append(Edits(5, 0))
    assert corpus_rate(pages) == 15 / 40


def test_a_corpus_of_empty_truths_keeps_the_convention():
    assert corpus_rate([Edits(0, 0), Edits(0, 0)]) == 0.0
    assert corpus_rate([Edits(0, 0), Edits(7, 0)]) == 1.0


def test_no_pages_have_no_rate():
    with pytest.raises(ValueError, match="no pages"):
        corpus_rate([])


def test_agreement_with_jiwer_on_a_corpus():
    characters = [character_edits(r, t) for r, t in zip(READINGS, TRUTHS, strict=True)]
    words = [word_edits(r, t) for r, t in zip(READINGS, TRUTHS, strict=True)]
    assert corpus_rate(characters) == pytest.approx(jiwer.cer(TRUTHS, READINGS))
    assert corpus_rate(words) == pytest.approx(jiwer.wer(TRUTHS, READINGS))
    assert 0 < corpus_rate(characters) < corpus_rate(words)


def test_agreement_with_jiwer_page_by_page_on_random_text():
    rng = random.Random(5)
    for _ in range(200):
        truth, reading = (" ".join("".join(rng.choices("abвг1", k=3)) for _ in range(rng.randint(1, 8))) for _ in "tr")
        assert character_edits(reading, truth).rate == pytest.approx(jiwer.cer(truth, reading))
        assert word_edits(reading, truth).rate == pytest.approx(jiwer.wer(truth, reading))


def test_where_jiwer_counts_otherwise():
    assert jiwer.cer("", "abc") == 3  # insertions, where ours is 1.0: see Edits.rate
    assert jiwer.cer("\u00e9", "e\u0301") > 0  # code points, no NFC


@pytest.mark.parametrize("profile", PROFILES)
def test_agreement_with_the_textbook_table(profile):
    rng = random.Random(11)
    units = ["a", "b", " ", "\n", "e\u0301", "й", FAMILY, "x\u0323\u0301", ","]
    for _ in range(100):
        reading, truth = ("".join(rng.choices(units, k=rng.randrange(20))) for _ in "rt")
        expected = plain_distance(graphemes(normalise(truth, profile)), graphemes(normalise(reading, profile)))
        assert character_edits(reading, truth, profile).edits == expected


def test_score_has_every_column_by_hand():
    # layout: "Net: 5 KG" read "Net 5 kg": ':' left out, K>k, G>g = 3 of 9; words Net:>Net, KG>kg = 2 of 3.
    # strict: the truth's newline read as a space makes 4 of 9. loose: "net 5 kg" both.
    found = score("Net 5 kg", "Net:\n5 KG")
    expected = dict(
        cer=3 / 9,
        wer=2 / 3,
        cer_strict=4 / 9,
        cer_loose=0.0,
        cer_edits=3,
        cer_length=9,
        wer_edits=2,
        wer_length=3,
        exact=0.0,
    )
    assert {name: found[name] for name in expected} == expected
    of_truth = [name for name, metric in METRICS.items() if metric.of == "truth"]
    assert list(found) == [f"{name}{end}" for name in of_truth for end in ("", "_edits", "_length")]


def test_exact_means_equal_in_layout():
    assert score("a  b\n", "a\nb")["exact"] == 1
    assert score("a  b\n", "a\nb")["cer_strict"] > 0
    assert score("A b", "a b")["exact"] == 0
    assert score("", "")["exact"] == 1
