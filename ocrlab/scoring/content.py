"""What a page says apart from its letters: numbers, in whatever form they came back, and facts about its lines."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from rapidfuzz import fuzz
from rapidfuzz.distance import LCSseq, Levenshtein

#: What is known of a page without its whole text, as olmOCR's bench has it: see `fact_holds`.
Fact = Mapping[str, Any]
_FACTS = ({"present"}, {"absent"}, {"first", "then"}, {"row", "cell"})
#: The fields of facts that hold what a page says.
FACT_TEXTS = frozenset[str]().union(*_FACTS)
_LONGEST_FACT = 1_000  # letters; no line is longer

# Point or comma before the decimals; the other one, single spaces or apostrophes may part thousands.
_FORMS = [
    re.compile(rf"([-−]?)([1-9]\d{{0,2}}(?:[{other} '’]\d{{3}})+|0|[1-9]\d*)(?:[{mark}](\d+))?", re.ASCII)
    for mark, other in ((".", ","), (",", "."))
]
_DATE = re.compile(r"(\d{4}|\d\d?)[./-](\d\d?)[./-](\d{4}|\d\d?)", re.ASCII)
_LONGEST = 3  # digit strings that make one number, as 1 234 567,00


def changed_numbers(reading: Sequence[str], truth: Sequence[str]) -> tuple[int, int]:
    """Return how many digit strings of the truth came back with their value in another form, and how many not at all.

    What came back as it was counts for neither, wherever it stands. By hand: truth `1`, `500,00` (printed 1 500,00),
    reading `1,500.00` → (2, 0); truth `14/03/2024`, `12.5`, reading `2024-03-14`, `12.6` → (1, 1); truth `-5`, `7`,
    reading `7`, `−5` → (1, 0). A date may be turned round; `1.500` may be a thousand or not; codes that begin with 0
    have no value, but may be parted by spaces.
    """
    lost, spare = _unmatched(truth, reading), _unmatched(reading, truth)
    moved = Counter(truth[n] for n in lost) & Counter(reading[n] for n in spare)
    lost, spare = _without(moved, lost, truth), _without(moved, spare, reading)
    offered: dict[object, list[Sequence[int]]] = {}
    for run in _runs(spare):
        for value in _values(reading, run):
            offered.setdefault(value, []).append(run)
    taken: set[int] = set()
    given: set[int] = set()
    for run in _runs(lost):
        others = (other for value in _values(truth, run) for other in offered.get(value, ()))
        if taken.isdisjoint(run) and (other := next(filter(given.isdisjoint, others), None)):
            taken.update(run)
            given.update(other)
    return len(taken), len(lost) - len(taken)


def _unmatched(these: Sequence[str], those: Sequence[str]) -> list[int]:
    steps = LCSseq.opcodes(these, those)
    return [n for step in steps if step.tag != "equal" for n in range(step.src_start, step.src_end)]


def _without(moved: Counter[str], numbers: list[int], texts: Sequence[str]) -> list[int]:
    left, kept = moved.copy(), []
    for number in numbers:
        left[texts[number]] -= 1
        if left[texts[number]] < 0:
            kept.append(number)
    return kept


def _runs(numbers: list[int]) -> Iterator[Sequence[int]]:
    """Yield the runs of neighbours among the digit strings of these numbers, the longest first."""
    for size in range(_LONGEST, 0, -1):
        for start in range(len(numbers) - size + 1):
            run = numbers[start : start + size]
            if run[-1] - run[0] == size - 1:
                yield run


def _values(texts: Sequence[str], run: Sequence[int]) -> Iterator[object]:
    """Yield what the run may mean: a number, a date as its sorted parts, a code as its digits."""
    text = " ".join(texts[n] for n in run)
    for form in _FORMS:
        if found := form.fullmatch(text):
            whole, decimals = re.sub(r"\D", "", found[2]), (found[3] or "0").rstrip("0")
            yield Decimal(f"{'-' * bool(found[1])}{whole}.{decimals}")
    if (found := _DATE.fullmatch(text)) and (len(text) > 8 or len(found[1]) == len(found[3]) == 2):
        yield tuple(sorted(int(part) % 100 for part in found.groups()))
    digits = re.sub(r"[ -]" if text.startswith("+") else " ", "", text)
    if len(digits) > 4 and digits.lstrip("+").isdigit():
        yield digits


def facts_problem(given: object) -> str:
    """Return what is wrong with facts that came as JSON, with the remedy, or an empty string."""
    wrong = [one for one in given if not _is_fact(one)] if isinstance(given, list) else [given]
    forms = '{"present": line}, {"absent": line}, {"first": line, "then": line}, {"row": label, "cell": value}'
    return f"{wrong[0]!r:.80} is no fact; write {forms}" if wrong else ""


def _is_fact(value: object) -> bool:
    if not isinstance(value, Mapping) or (texts := {*value} - {"max_diffs"}) not in _FACTS:
        return False
    told = (isinstance(value[n], str) and value[n].strip() and len(value[n]) <= _LONGEST_FACT for n in texts)
    return all(told) and type(spared := value.get("max_diffs", 0)) is int and spared >= 0


def fact_holds(fact: Fact, lines: Sequence[str]) -> bool:
    """Return whether a fact holds of the lines of a reading; white space is collapsed in both.

    A fact is `{present: line}`, `{absent: line}`, `{first: line, then: line}` or `{row: label, cell: value}`: a line
    of the reading holds both. `max_diffs` is how many edits a line may have and still be found (0).

    Raises:
        ValueError: a fact of another form.
    """
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
    found = f" {text} ".find(f" {wanted} ")
    if found >= 0 or not max_diffs:
        return found
    near = fuzz.partial_ratio_alignment(wanted, text)
    if near is None or Levenshtein.distance(wanted, text[near.dest_start : near.dest_end]) > max_diffs:
        return -1
    return near.dest_start
