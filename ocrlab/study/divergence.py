"""Do two greedy generations agree as far as they share a prefix, and does either stammer?"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any, Literal

Agreement = Literal["same text", "within rounding", "faulty"]
TOP = 16


@dataclass(frozen=True)
class Generation:
    """A greedy generation: tokens, text, and at each step the highest logits in standard deviations from their mean."""

    tokens: tuple[int, ...]
    text: str
    top_ids: tuple[tuple[int, ...], ...]
    top_logits: tuple[tuple[float, ...], ...]
    finite: bool


def compare(
    found: Generation, reference: Generation, bound: float, text_means_nothing: bool = False
) -> tuple[Agreement, str, dict[str, Any]]:
    """Return verdict, reason and the finding's numbers for a generation against the reference."""
    pairs = zip(found.tokens, reference.tokens, strict=False)
    shared = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(found.tokens), len(reference.tokens)))
    parted = None if found.tokens == reference.tokens else shared
    error = max((_difference(found, reference, i) for i in range(min(shared + 1, len(found.tokens)))), default=0.0)
    numbers: dict[str, Any] = {
        "tokens": len(found.tokens), "parted_at": parted, "error": error, "bound": bound,
        "doubled": doubled_words(found.text), "run": longest_run(found.tokens),
    }  # fmt: skip
    if not found.finite:
        return "faulty", "its logits hold NaN or inf", numbers | {"error": None}
    if error > bound:
        where = "" if parted is None else f", and the text parts at token {parted}"
        return "faulty", f"a logit is {error:.2g} deviations off, where rounding explains {bound:.2g}{where}", numbers
    if not text_means_nothing and numbers["doubled"] > doubled_words(reference.text):
        return (
            "faulty",
            f"{numbers['doubled']} words are doubled, {doubled_words(reference.text)} by reference",
            numbers,
        )
    if not text_means_nothing and numbers["run"] > max(8, 2 * longest_run(reference.tokens)):
        return "faulty", f"one token is repeated {numbers['run']} times on end", numbers
    if parted is None:
        return "same text", "", numbers
    return "within rounding", f"another token at {parted}, where rounding explains it", numbers


def doubled_words(text: str) -> int:
    """Return how many words of three letters or more follow themselves, as in `the the`."""
    words = [word for word in re.findall(r"\w+", text.lower()) if len(word) > 2]
    return sum(a == b for a, b in pairwise(words))


def longest_run(tokens: tuple[int, ...]) -> int:
    """Return the longest run of one token, 0 for none."""
    return max((len(list(group)) for _, group in groupby(tokens)), default=0)


def _difference(found: Generation, reference: Generation, step: int) -> float:
    """Return the largest difference at a step over the reference's highest tokens.

    A token that fell out of the highest counts with the lowest of them.
    """
    if step >= len(reference.top_ids):
        return 0.0
    mine = dict(zip(found.top_ids[step], found.top_logits[step], strict=True))
    lowest = min(found.top_logits[step])
    theirs = zip(reference.top_ids[step], reference.top_logits[step], strict=True)
    return max(abs(mine.get(token, min(lowest, value)) - value) for token, value in list(theirs)[: TOP // 2])
