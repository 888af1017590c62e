"""Where two texts of one page part, for a person to see: which letter, and what stands there on either side."""

from __future__ import annotations

from dataclasses import dataclass

from ocrlab.scoring.metrics import first_divergence, graphemes, normalise

_SHOWN = 16


@dataclass(frozen=True)
class Parting:
    """The first grapheme (from 0) in which two texts differ, the few before it, and how each goes on from there."""

    at: int
    shared: str
    one: str
    other: str

    def __str__(self) -> str:
        return f"at letter {self.at + 1}, after {self.shared!r}: {self.one!r} against {self.other!r}"


def parting(one: str, other: str) -> Parting | None:
    """Return where two texts part, or None where they are the same but for normal form and newlines at the end."""
    at = first_divergence(one, other)
    if at is None:
        return None
    left, right = (graphemes(normalise(text, "strict")) for text in (one, other))
    shared = "".join(left[max(0, at - _SHOWN) : at])
    return Parting(at, shared, "".join(left[at : at + _SHOWN]), "".join(right[at : at + _SHOWN]))
