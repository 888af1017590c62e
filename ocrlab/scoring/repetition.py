"""Text that comes again and again and then ends properly, which no status tells of."""

from __future__ import annotations

from collections.abc import Sequence

from rapidfuzz import fuzz
from rapidfuzz.distance import Levenshtein

REPEATS = 3
PASSAGE_WORDS, PASSAGE_LETTERS = 8, 30
# Ruled lines, rows of zeros and a form's dots repeat, too, but hold few different words.
_LEAST_DIFFERENT = 4
_LONG_WORDS = 20  # letters per word from which on a text has no words
_ALIKE = 0.9  # a passage that is misread somewhere is still the same


def is_repeated(text: str, truth: str | None = None) -> bool:
    """Return whether a passage comes three times or more in a text, or the whole text twice.

    A passage is 8 words, or 30 characters of a text without spaces. What the truth, where there is one, repeats as
    often does not count. By hand: `a b c d e f g h` three times, or twice and nothing else → True; a line of dots of
    any length → False.
    """
    words = text.split()
    letters = len(text) > _LONG_WORDS * max(len(words), 1)
    size = PASSAGE_LETTERS if letters else PASSAGE_WORDS
    parts, expected = (list("".join(t.split())) if letters else t.split() for t in (text, truth or ""))
    if _twice(parts, size) and not _twice(expected, size):
        return True
    found: dict[tuple[str, ...], tuple[int, int]] = {}  # how often a passage came, and where it ended last
    for end in range(size, len(parts) + 1):
        passage = tuple(parts[end - size : end])
        count, last = found.get(passage, (0, 0))
        if end - size >= last:
            found[passage] = count + 1, end
    often = ((passage, count) for passage, (count, _) in found.items() if count >= REPEATS and _is_text(passage))
    return any(_times(expected, passage) < count for passage, count in often)


def _is_text(passage: Sequence[str]) -> bool:
    return len({part for part in passage if any(map(str.isalnum, part))}) >= _LEAST_DIFFERENT


def _twice(parts: list[str], size: int) -> bool:
    half = len(parts) // 2
    one, other = parts[:half], parts[len(parts) - half :]
    return half >= size and _is_text(one) and Levenshtein.normalized_similarity(one, other) >= _ALIKE


def _times(parts: list[str], passage: Sequence[str]) -> int:
    """Return how often the passage comes in a text, misreadings of a letter or two apart."""
    wanted, start, count = " ".join(passage), 0, 0
    while start <= len(parts) - len(passage):
        alike = fuzz.ratio(wanted, " ".join(parts[start : start + len(passage)])) >= 100 * _ALIKE
        count, start = count + alike, start + (len(passage) if alike else 1)
    return count
