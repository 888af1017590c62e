"""The numbers of a page that came back in another form, told apart from those that did not come back."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from decimal import Decimal

from rapidfuzz.distance import LCSseq

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
