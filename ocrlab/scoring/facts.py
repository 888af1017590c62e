"""Facts about a page, judged without its whole text, as olmOCR's bench does: a line is there, another is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rapidfuzz import fuzz
from rapidfuzz.distance import Levenshtein

from ocrlab.scoring.clean import clean
from ocrlab.scoring.metrics import Kept, normalise, text_lines


def facts_held(reading: str, facts: Sequence[Mapping[str, Any]]) -> Kept:
    """Return how many of the facts hold of a reading, once what the model wrote around the page is off.

    A fact is `{present: line}`, `{absent: line}`, `{first: line, then: line}` or `{row: label, cell: value}`: a line
    of the reading holds both. `max_diffs` is how many edits a line may have and still be found (0). Of an empty
    reading no fact holds.

    Raises:
        ValueError: a fact of another form.
    """
    lines = text_lines(clean(reading).text)
    held = [fact_holds(fact, lines) for fact in facts]
    return Kept(sum(held) if lines else 0, len(facts), len(facts) if lines else 0)


def fact_holds(fact: Mapping[str, Any], lines: Sequence[str]) -> bool:
    """Return whether a fact holds of the lines of a reading, as `text_lines` gives them."""
    text, spared = " ".join(lines), fact.get("max_diffs", 0)
    match fact:
        case {"present": line}:
            return _place(line, text, spared) >= 0
        case {"absent": line}:
            return _place(line, text, spared) < 0
        case {"first": first, "then": then}:
            return 0 <= _place(first, text, spared) < _place(then, text, spared)
        case {"row": row, "cell": cell}:
            return any(_place(row, line, spared) >= 0 and _place(cell, line, 0) >= 0 for line in lines)
    raise ValueError(f"{dict(fact)}: a fact has present, absent, first and then, or row and cell")


def _place(wanted: str, text: str, max_diffs: int) -> int:
    """Return where whole words stand in a text, or -1."""
    wanted = normalise(wanted)
    found = f" {text} ".find(f" {wanted} ")
    if found >= 0 or not max_diffs:
        return found
    near = fuzz.partial_ratio_alignment(wanted, text)
    if near is None or Levenshtein.distance(wanted, text[near.dest_start : near.dest_end]) > max_diffs:
        return -1
    return near.dest_start
