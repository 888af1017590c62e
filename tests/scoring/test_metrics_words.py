"""Words, look-alike letters and numbers in another form: by hand, and on what score() makes of a reading."""

from __future__ import annotations

import pytest

from ocrlab.scoring.content import changed_numbers
from ocrlab.scoring.metrics import (
    Edits,
    lookalikes,
    numbers_reformatted,
    numbers_wrong,
    score,
    words_found,
    words_invented,
)


@pytest.mark.parametrize(
    ("reading", "truth", "missing", "invented"),
    [
        ("Milk 6.20 Total", "Total 6.20 Milk 6.20", Edits(1, 4), Edits(0, 4)),
        ("The Total is 6.20 6.20", "Total 6.20", Edits(0, 2), Edits(3, 2)),
        ("b a\nd c", "a b c d", Edits(0, 4), Edits(0, 4)),  # columns across
        ("", "a b", Edits(2, 2), Edits(0, 2)),
        ("a b", "", Edits(0, 0), Edits(2, 0)),
        ("A", "a", Edits(1, 1), Edits(1, 1)),
    ],
)
def test_words_by_hand(reading: str, truth: str, missing: Edits, invented: Edits) -> None:
    assert words_found(reading, truth) == missing
    assert words_invented(reading, truth) == invented


@pytest.mark.parametrize(
    ("reading", "truth", "found"),
    [
        ("HOС 5 х", "НОС 5 x", Edits(3, 4)),  # H, O are Latin and х is Cyrillic in the reading
        ("НОС 5 x", "НОС 5 x", Edits(0, 4)),
        ("cocна", "сосна", Edits(3, 5)),
        ("cocна лес", "сосна", Edits(3, 5)),
        ("Кот", "Kot", Edits(2, 3)),  # к and t are no twins
        ("hope", "home", Edits(0, 4)),
        ("", "сосна", Edits(0, 5)),
        ("1 2", "1 2", Edits(0, 0)),
    ],
)
def test_lookalikes_by_hand(reading: str, truth: str, found: Edits) -> None:
    assert lookalikes(reading, truth) == found


@pytest.mark.parametrize(
    ("reading", "truth", "reformatted", "wrong"),
    [
        ("1,500.00 2024-03-14", "1 500,00 14/03/2024", 3, 0),
        ("3 kg, 22O V, 1,5 A", "220 V, 1.5 A, 3 kg", 1, 1),
        ("1 450,00", "1,450.00", 1, 0),
        ("1500", "1.500", 1, 0),
        ("1.500", "1,500", 1, 0),
        ("12.50", "12.5", 1, 0),
        ("2024-03-14 12.6", "14/03/2024 12.5", 1, 1),
        ("7 −5", "-5 7", 1, 0),
        ("5", "-5", 0, 1),
        ("14.03.24", "14.03.2024", 1, 0),
        ("03/14/2024", "14/03/2024", 1, 0),
        ("15.03.2024", "14.03.2024", 0, 1),
        ("3.2.1", "1.2.3", 0, 1),  # a version is no date
        ("01632960184", "01632 960 184", 3, 0),
        ("+74951234567", "+7 495 123-45-67", 1, 0),
        ("7731", "07731", 0, 1),  # a code
        ("145000", "1,450.00", 0, 1),
        ("3 1 2", "1 2 3", 0, 0),  # in another place, as it was
        ("131,520.00 | 24 | 5,480.00", "24 5 480,00 131 520,00", 4, 0),
        ("", "1 2", 0, 2),
        ("1 2", "", 0, 0),
    ],
)
def test_numbers_by_hand(reading: str, truth: str, reformatted: int, wrong: int) -> None:
    assert (numbers_reformatted(reading, truth).edits, numbers_wrong(reading, truth).edits) == (reformatted, wrong)


def test_changed_numbers_by_hand() -> None:
    assert changed_numbers(("1,500.00",), ("1", "500,00")) == (2, 0)
    assert changed_numbers(("2024-03-14", "12.6"), ("14/03/2024", "12.5")) == (1, 1)
    assert changed_numbers(("7", "−5"), ("-5", "7")) == (1, 0)
    assert changed_numbers(("1,500.00",), ("1", "500,00", "1", "500,00")) == (2, 2)  # each reading counts once


def test_a_score_is_of_the_cleaned_text_and_the_strict_one_of_the_raw() -> None:
    truth = "MILK 2 x 3.10\nTotal 6.20"
    found = score(f"Sure! Here's the transcription:\n\n```\n{truth}\n```\n\nI hope this helps!", truth)
    assert found["cer"] == 0 and found["exact"] == 1 and found["words_found"] == 1 and found["words_invented"] == 0
    assert found["cer_strict_edits"] == len("Sure! Here's the transcription:\n\n```\n\n```\n\nI hope this helps!")


def test_a_truth_with_markup_is_met_by_a_reading_with_or_without_it() -> None:
    truth = "| Milk | 2 |\n|---|---|\n| Tea | 1 |"
    assert score(truth, truth)["cer"] == score("Milk 2\nTea 1", truth)["cer"] == 0
    assert score(truth, truth)["cer_strict"] == 0 and score("Milk 2\nTea 1", truth)["cer_strict"] > 0
