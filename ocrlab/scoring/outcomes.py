"""What became of a page: the statuses, the judgement of a reading that ran to its end, and text that comes again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from rapidfuzz import fuzz
from rapidfuzz.distance import Levenshtein

Status = Literal["ok", "empty", "truncated", "loop", "invalid", "oom", "unsupported", "timeout", "crashed", "error"]
STATUSES: tuple[Status, ...] = get_args(Status)
#: Statuses of a reading that came to an end of its own: it has a text, if only an empty one, that can be scored.
WITH_TEXT: tuple[Status, ...] = ("ok", "empty", "truncated", "loop")
#: Statuses of a page that was lost although others may be read: scored as if nothing had been read.
LOST: tuple[Status, ...] = ("oom", "timeout", "crashed", "error")
WITHOUT_TEXT: tuple[Status, ...] = tuple(status for status in STATUSES if status not in WITH_TEXT)

# "eos": the model ended by itself. "length": the cap ended it.
StopReason = Literal["eos", "length"]

LONGEST_PERIOD = 64  # tokens
CAP_REPEATS, CAP_SPAN = 4, 16
# A model that ended by itself may have read a ruled line; printers set at most 132 columns.
EOS_REPEATS, EOS_SPAN = 65, 200

# A passage that comes again and again in a text that then ends properly, which no status says.
REPEATS = 3
PASSAGE_WORDS, PASSAGE_LETTERS = 8, 30
# Ruled lines, rows of zeros and a form's dots repeat, too, but hold few different words.
_LEAST_DIFFERENT = 4
_LONG_WORDS = 20  # letters per word from which on a text has no words
_ALIKE = 0.9  # a passage that is misread somewhere is still the same


@dataclass(frozen=True)
class Loop:
    """A run at the end of the output: its last `span` tokens repeat the same `period` tokens."""

    period: int
    span: int

    @property
    def repeats(self) -> int:
        """Return how many whole times the tokens stand there."""
        return self.span // self.period


def find_loop(token_ids: Sequence[int], stop_reason: StopReason) -> Loop | None:
    """Return the loop with the shortest period (1 to 64 tokens) that the output ends in, or None.

    `token_ids` are the generated tokens without the end token. At the cap, a run is a loop from 4 repeats that
    fill 16 tokens or the whole output: a line of dots that the cap cuts is then taken for one, for nobody can tell.
    Where the model ended by itself, only from 65 repeats that fill 200 tokens, so that dots, zeros and ruled lines
    pass. Text that counts up while it repeats ("1. a 2. a 3. a") is not found. Raises ValueError for another stop
    reason.
    """
    if stop_reason not in get_args(StopReason):
        raise ValueError(f"stop_reason {stop_reason!r} is unknown; choose one of {', '.join(get_args(StopReason))}")
    for period in range(1, min(LONGEST_PERIOD, len(token_ids) // CAP_REPEATS) + 1):
        loop = Loop(period, _span(token_ids, period))
        if stop_reason == "length":
            found = loop.repeats >= CAP_REPEATS and loop.span >= min(CAP_SPAN, len(token_ids))
        else:
            found = loop.repeats >= EOS_REPEATS and loop.span >= EOS_SPAN
        if found:
            return loop
    return None


def judge(text: str, token_ids: Sequence[int], stop_reason: StopReason, finite: bool) -> tuple[Status, str]:
    """Return the status of a page that was read to its end, and the reason in words ("" where it is ok).

    The first that holds: `invalid` (`finite` is False: a logit was NaN or infinite), `loop`, `truncated` (the cap
    ended it), `empty` (white space at most), `ok`. The other statuses are of pages that were not read to an end.
    Not for runs whose length is forced to measure speed: their text proves nothing.
    """
    count = len(token_ids)
    if not finite:
        return "invalid", f"NaN or infinity among the logits of {count} tokens; try dtype float32 or bfloat16"
    loop = find_loop(token_ids, stop_reason)
    if loop:
        return "loop", _describe(loop, count)
    if stop_reason == "length":
        return "truncated", f"the cap ended it after {count} tokens; raise max_new_tokens"
    if not text.strip():
        return "empty", f"no text: the model ended after {count} tokens; look at the page, its pixels and the prompt"
    return "ok", ""


def _span(token_ids: Sequence[int], period: int) -> int:
    """Return how many tokens at the end repeat with this period, the first `period` of them included."""
    index = len(token_ids) - 1
    while index >= period and token_ids[index] == token_ids[index - period]:
        index -= 1
    return len(token_ids) - 1 - index + period


def _describe(loop: Loop, count: int) -> str:
    if loop.period == 1 and loop.span == count:
        return f"all {count} tokens are the same, which is what NaN logits leave; check them, try dtype float32"
    return (
        f"the last {loop.span} of {count} tokens repeat {loop.period} ({loop.repeats} times); "
        "try repetition_penalty or no_repeat_ngram_size"
    )


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
