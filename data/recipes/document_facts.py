"""Facts about a document, drawn from its lines and rows: what is there, what not, in which order, in which row."""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random
from typing import Any


def facts_of(lines: Sequence[str], rows: Sequence[Sequence[str]], rng: Random) -> list[dict[str, Any]]:
    """Return facts as `ocrlab.scoring.content.fact_holds` judges them: 3 lines that are there, 2 that are not, 2 orders
    and 3 cells, or fewer where the page has not so many lines or rows."""
    text = " ".join(lines)
    single = [number for number, line in enumerate(lines) if len(line) >= 8 and text.count(line) == 1]
    chosen = rng.sample(single, min(3, len(single)))
    facts: list[dict[str, Any]] = [{"present": lines[n], **_spared(lines[n], 25)} for n in sorted(chosen)]
    wrong = (_changed(lines[n], rng) for n in rng.sample(single, len(single)))
    facts += [{"absent": line} for line in wrong if line and line not in text][:2]
    for _ in range(min(2, len(single) - 1)):
        first, then = sorted(rng.sample(single, 2))
        spared = min(len(lines[first]), len(lines[then])) // 8
        facts.append({"first": lines[first], "then": lines[then], **({"max_diffs": spared} if spared else {})})
    named = [(row, label) for row in rows if len(row) > 1 and (label := _label(row))]
    for row, label in rng.sample(named, min(3, len(named))):
        facts.append({"row": label, "cell": rng.choice([cell for cell in row if cell != label])})
    return facts


def _label(row: Sequence[str]) -> str:
    """Return the first cell that is a name, or an empty string where none is or another cell says the same."""
    name = next((cell for cell in row if sum(map(str.isalpha, cell)) > 2), "")
    return name if row.count(name) == 1 else ""


def _spared(line: str, letters: int) -> dict[str, int]:
    """Return how many edits a line may have: one per so many letters, none where it has digits."""
    spared = 0 if re.search(r"\d", line) else len(line) // letters
    return {"max_diffs": spared} if spared else {}


def _changed(line: str, rng: Random) -> str:
    """Return the line with another digit, or with two neighbouring words exchanged; nothing for a single word."""
    digits = [found.start() for found in re.finditer(r"\d", line)]
    if digits:
        at = rng.choice(digits)
        other = (int(line[at]) + rng.randint(1, 9)) % 10
        return f"{line[:at]}{other}{line[at + 1 :]}"
    words = line.split()
    if len(words) < 3:
        return ""
    at = rng.randrange(len(words) - 1)
    words[at : at + 2] = words[at + 1], words[at]
    return " ".join(words)
