"""Where a reading leaves the truth: pieces for a coloured diff, letter confusions, the first difference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal, cast

from rapidfuzz.distance import Levenshtein

from ocrlab.scoring.normalise import Profile, graphemes, normalise

Kind = Literal["equal", "replace", "insert", "delete"]


@dataclass(frozen=True)
class Piece:
    """A run of one kind; `insert` has no truth (it was read but is not there), `delete` has no reading."""

    kind: Kind
    truth: str
    reading: str


def _runs(reading: str, truth: str, profile: Profile) -> list[tuple[Kind, list[str], list[str]]]:
    expected, got = graphemes(normalise(truth, profile)), graphemes(normalise(reading, profile))
    return [
        (cast(Kind, step.tag), expected[step.src_start : step.src_end], got[step.dest_start : step.dest_end])
        for step in Levenshtein.opcodes(expected, got)
    ]


def align(reading: str, truth: str, profile: Profile = "layout") -> list[Piece]:
    """Return the pieces that turn truth into reading with the fewest edits, cut between grapheme clusters.

    Joined, the pieces give both normalised texts back. A `replace` has as many graphemes on either side. Where
    several alignments have as few edits, this is rapidfuzz's choice, the same every time.
    """
    return [Piece(kind, "".join(expected), "".join(got)) for kind, expected, got in _runs(reading, truth, profile)]


def confusions(pairs: Iterable[tuple[str, str]], profile: Profile = "layout") -> Counter[tuple[str, str]]:
    """Return how often each grapheme was taken for another, over pairs of (reading, truth).

    Keys are (truth grapheme, read grapheme), "" where one was inserted or left out; right ones are not counted,
    so the counts add up to the edits.
    """
    counts: Counter[tuple[str, str]] = Counter()
    for reading, truth in pairs:
        for kind, expected, got in _runs(reading, truth, profile):
            if kind != "equal":
                counts.update(zip_longest(expected, got, fillvalue=""))
    return counts


def first_divergence(a: str, b: str, profile: Profile = "strict") -> int | None:
    """Return the index of the first grapheme in which two normalised texts differ, or None where they are equal.

    Where one text is the beginning of the other, that is the length of the shorter, in graphemes.
    """
    left, right = graphemes(normalise(a, profile)), graphemes(normalise(b, profile))
    return next((i for i, (x, y) in enumerate(zip_longest(left, right)) if x != y), None)
