"""What people copy from a page: digit strings and whole lines that come back exactly. Our own metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import regex
from rapidfuzz.distance import LCSseq

from ocrlab.scoring.normalise import normalise
from ocrlab.scoring.rates import Edits

# A telephone number may have single spaces; elsewhere a space parts the cells of a table's row.
_DIGITS = regex.compile(r"(?<!\w)\+\d+(?:[ .,:/'’\-–−]\d+)*|(?:(?<!\w)[\-−])?\d+(?:[.,:/'’\-–−]\d+)*")


@dataclass(frozen=True)
class Kept:
    """How many of the truth's pieces came back unchanged and in order, of how many, and how many were read in all."""

    kept: int
    expected: int
    read: int

    @property
    def share(self) -> float | None:
        """Return the share of the truth's pieces that came back, or None where it has none."""
        return self.kept / self.expected if self.expected else None

    @property
    def lost(self) -> Edits:
        """Return the pieces that did not come back, as edits against the truth's count: what intervals take."""
        return Edits(self.expected - self.kept, self.expected)


def digit_strings(text: str) -> list[str]:
    r"""Return the digit strings of a text, line by line.

    One is a run of digits joined by single `. , : / ' ’ - – −` between two digits, with a `-` or `−` before it that no
    word character precedes. With such a `+` before it, single spaces join too. By hand:
    `Net 1500.50 kg, 12:30` → `1500.50`, `12:30`; `+7 495 123-45-67` → itself; `2026-11-24` → itself; `2 x 30.00 60.00`
    → `2`, `30.00`, `60.00`; `1 500` → `1`, `500`; `-5 to -10` → `-5`, `-10`; `AB-12` → `12`; `220.` → `220`; `5 m²` →
    `5` (a superscript is no digit). Lines and white space are first made as the profile `layout` has them.
    """
    return [found for line in text_lines(text) for found in _DIGITS.findall(line)]


def text_lines(text: str) -> list[str]:
    """Return the lines that are not empty, each with its white space as the profile `layout` has it."""
    return [line for raw in text.splitlines() if (line := normalise(raw))]


def digits_kept(reading: str, truth: str) -> Kept:
    """Return how many of the truth's digit strings came back: the longest common subsequence of the two lists.

    Truth `220 V, 1.5 A`, reading `22O V, 1.5 A`: the strings `220`, `1.5` against `22`, `1.5`; kept 1 of 2, read 2.
    Truth `1 2 3`, reading `3 1 2`: kept 2 of 3, for order counts. Digits that were invented cost nothing here; `read`
    above `expected` tells of them.
    """
    return _kept(digit_strings(reading), digit_strings(truth))


def lines_kept(reading: str, truth: str) -> Kept:
    """Return how many of the truth's lines came back exactly and in order, white space collapsed: rows, in a table.

    Truth `Milk 2 x 3.10` / `Total 6.20`, reading `Milk 2 x 8.10` / `Total  6.20`: kept 1 of 2, read 2.
    """
    return _kept(text_lines(reading), text_lines(truth))


def _kept(got: Sequence[str], expected: Sequence[str]) -> Kept:
    return Kept(int(LCSseq.similarity(list(expected), list(got))), len(expected), len(got))
