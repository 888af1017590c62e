import random
import string

import pytest

from ocrlab.pages import load_pages
from ocrlab.scoring.metrics import METRICS, Edits, Kept, digit_strings, digits_kept, lines_kept, text_lines

PIECES = ["220", "1500.50", "12:30", "+7 495", "-5", "V", "Net", "kg,", " ", "\n", "х", "№", "4/5"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Net 1500.50 kg, 12:30", ["1500.50", "12:30"]),
        ("+7 495 123-45-67", ["+7 495 123-45-67"]),
        ("+7 (495) 123", ["+7", "495", "123"]),
        ("2026-11-24", ["2026-11-24"]),
        ("2 x 30.00 60.00", ["2", "30.00", "60.00"]),
        ("1 500", ["1", "500"]),
        ("1'500 1’500 1,500.00", ["1'500", "1’500", "1,500.00"]),
        ("-5 to -10, −3", ["-5", "-10", "−3"]),
        ("220-240 V~", ["220-240"]),
        ("AB-12 C3", ["12", "3"]),
        ("220. .5 1..2 3,", ["220", "5", "1", "2", "3"]),
        ("5 m² ½", ["5"]),
        ("a+5 6", ["5", "6"]),
        ("+5\n300", ["+5", "300"]),  # a line's end parts even a telephone number
        ("+5 \t\u00a0 300", ["+5 300"]),  # white space as `layout` has it
        ("٣٤", ["٣٤"]),
        ("no digits", []),
        ("", []),
    ],
)
def test_digit_strings_by_hand(text, found):
    assert digit_strings(text) == found


@pytest.mark.parametrize(
    ("reading", "truth", "kept"),
    [
        ("22O V, 1.5 A", "220 V, 1.5 A", Kept(1, 2, 2)),
        ("3 1 2", "1 2 3", Kept(2, 3, 3)),
        ("1 2 2 3", "1 2 3", Kept(3, 3, 4)),  # one was invented, none was lost
        ("1 2", "1 2 2", Kept(2, 3, 2)),
        ("12", "1 2", Kept(0, 2, 1)),
        ("", "1 2", Kept(0, 2, 0)),
        ("1 2", "", Kept(0, 0, 2)),
        ("| 2 | 30.00 |", "2 30.00", Kept(2, 2, 2)),  # a table's bars take nothing from its numbers
        ("2\n30.00", "2 30.00", Kept(2, 2, 2)),
    ],
)
def test_digits_kept_by_hand(reading, truth, kept):
    assert digits_kept(reading, truth) == kept
    assert kept.lost == Edits(kept.expected - kept.kept, kept.expected)


def test_shares_by_hand():
    digits, lines = METRICS["digits"], METRICS["lines"]
    assert digits.value(Kept(1, 4, 9).lost) == 0.25
    assert digits.value(digits_kept("7", "seven").lost) is None and lines.value(lines_kept("x", " \n ").lost) is None


@pytest.mark.parametrize(
    ("reading", "truth", "kept"),
    [
        ("Milk 2 x 8.10\nTotal  6.20", "Milk 2 x 3.10\nTotal 6.20", Kept(1, 2, 2)),
        ("a\n\n  b ", "a\nb", Kept(2, 2, 2)),
        ("a b", "a\nb", Kept(0, 2, 1)),
        ("b\na", "a\nb", Kept(1, 2, 2)),
        ("a\r\nb\r\nb", "a\nb", Kept(2, 2, 3)),
        ("e\u0301", "\u00e9", Kept(1, 1, 1)),
        ("A", "a", Kept(0, 1, 1)),
    ],
)
def test_lines_kept_by_hand(reading, truth, kept):
    assert lines_kept(reading, truth) == kept


def test_lines_are_not_empty_and_calm():
    assert text_lines(" a  b \n\n\t\r\nc") == ["a b", "c"]


def test_a_text_against_itself_keeps_all_and_fewer_are_never_more():
    rng = random.Random(5)
    for _ in range(300):
        truth = "".join(rng.choices(PIECES, k=rng.randrange(12)))
        cut = "".join(letter for letter in truth if rng.random() < 0.8)
        for measure in (digits_kept, lines_kept):
            same, other = measure(truth, truth), measure(cut, truth)
            assert same.kept == same.expected == same.read and METRICS["digits"].value(same.lost) in {1.0, None}
            assert 0 <= other.kept <= min(other.expected, other.read)


def test_every_digit_is_in_exactly_one_string():
    rng = random.Random(6)
    for _ in range(300):
        text = "".join(rng.choices(string.digits + "+-−.,:/' \nab", k=rng.randrange(30)))
        inside = "".join(digit_strings(text))
        assert [c for c in inside if c.isdigit()] == [c for c in text if c.isdigit()]


def test_our_receipts_have_their_prices():
    receipt = next(page for page in load_pages("labels") if page.id == "labels-073")
    assert receipt.truth is not None
    assert digit_strings(receipt.truth) == ["5", "789.65", "772.87", "4", "257.39", "37.58", "12", "947.62"]
