import random

import pytest

from ocrlab.scoring.metrics import (
    PROFILES,
    Piece,
    align,
    character_edits,
    confusions,
    first_divergence,
    graphemes,
    normalise,
)

UNITS = ["a", "b", "c", " ", "  ", "\n", "e\u0301", "й", "x\u0323\u0301", "\U0001f468\u200d\U0001f467", ".", "О", "O"]


def random_pairs(count, seed=3):
    rng = random.Random(seed)
    for _ in range(count):
        truth = rng.choices(UNITS, k=rng.randrange(25))
        reading = [rng.choice(UNITS) if rng.random() < 0.2 else unit for unit in truth if rng.random() < 0.9]
        yield "".join(reading), "".join(truth)


def test_pieces_by_hand():
    # 220 V read as 22O V!: 22 | 0>O | space V | +!
    assert align("22O V!", "220 V") == [
        Piece("equal", "22", "22"),
        Piece("replace", "0", "O"),
        Piece("equal", " V", " V"),
        Piece("insert", "", "!"),
    ]
    assert align("ac", "abc") == [Piece("equal", "a", "a"), Piece("delete", "b", ""), Piece("equal", "c", "c")]


def test_empty_sides():
    assert align("", "") == []
    assert align("", "ab") == [Piece("delete", "ab", "")]
    assert align("ab", "") == [Piece("insert", "", "ab")]


def test_pieces_are_cut_between_graphemes():
    # й written in two code points against и: the whole letter is replaced, its breve is not inserted.
    assert align("и", "\u0438\u0306") == [Piece("replace", "й", "и")]
    assert align("x\u0301", "x") == [Piece("replace", "x", "x\u0301")]


@pytest.mark.parametrize("profile", PROFILES)
def test_pieces_join_to_both_texts_and_hold_all_edits(profile):
    for reading, truth in random_pairs(200):
        pieces = align(reading, truth, profile)
        assert "".join(piece.truth for piece in pieces) == normalise(truth, profile)
        assert "".join(piece.reading for piece in pieces) == normalise(reading, profile)
        assert all((piece.kind == "equal") == (piece.truth == piece.reading) for piece in pieces)
        changed = [piece for piece in pieces if piece.kind != "equal"]
        counted = sum(max(len(graphemes(piece.truth)), len(graphemes(piece.reading))) for piece in changed)
        assert counted == character_edits(reading, truth, profile).edits


def test_confusions_by_hand():
    # 0 read as O twice, one B left out, one ! too many; nothing that was right is counted.
    found = confusions([("1O", "10"), ("O", "0"), ("A", "AB"), ("ok!", "ok")])
    assert found == {("0", "O"): 2, ("B", ""): 1, ("", "!"): 1}


def test_confusions_tell_truth_from_reading():
    assert confusions([("rn", "m")]) != confusions([("m", "rn")])
    assert confusions([("о", "o")]) == {("o", "о"): 1}  # Latin o read as Cyrillic о


def test_confusions_follow_the_profile():
    assert confusions([("a b", "A\nb")], "strict") == {("A", "a"): 1, ("\n", " "): 1}
    assert confusions([("a b", "A\nb")], "layout") == {("A", "a"): 1}
    assert confusions([("a b", "A\nb")], "loose") == {}


def test_confusions_add_up_to_the_edits():
    pairs = list(random_pairs(100))
    assert confusions(pairs).total() == sum(character_edits(*pair).edits for pair in pairs) > 0


@pytest.mark.parametrize(
    ("a", "b", "index"),
    [
        ("same", "same", None),
        ("", "", None),
        ("abc", "abd", 2),
        ("ab", "abc", 2),
        ("", "x", 0),
        ("e\u0301x", "\u00e9y", 1),  # the accent is part of grapheme 0
        ("\U0001f468\u200d\U0001f467a", "\U0001f468\u200d\U0001f467b", 1),
        ("a b", "a\nb", 1),
    ],
)
def test_first_divergence(a, b, index):
    assert first_divergence(a, b) == index
    assert first_divergence(b, a) == index


def test_first_divergence_follows_the_profile():
    assert first_divergence("a b", "a\nb", "layout") is None
