"""What counts as the same text: three named profiles, and the units (grapheme clusters) that edits are counted in."""

from __future__ import annotations

import unicodedata
from typing import Literal, get_args

import regex

Profile = Literal["strict", "layout", "loose"]
PROFILES: tuple[Profile, ...] = get_args(Profile)

_GRAPHEME = regex.compile(r"\X")
_PUNCTUATION = regex.compile(r"\p{P}+")


def normalise(text: str, profile: Profile = "layout") -> str:
    r"""Return the text as `profile` compares it.

    `strict`: NFC; `\r\n` and `\r` become `\n`, and newlines at the end go, as files and models differ there by habit.
    `layout`: NFC; each run of white space becomes one space, none at the ends.
    `loose`: NFKC, casefolded, punctuation (Unicode class P) replaced by a space, then white space as in `layout`.
    Symbols (class S: `+ = < > $ ₽ °`) stay in every profile, and so does the difference between е and ё.
    Raises ValueError for another profile. Source: Unicode Standard Annexes 15 (normal forms) and 44 (classes).
    """
    if profile == "strict":
        return unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n")).rstrip("\n")
    if profile == "layout":
        return " ".join(unicodedata.normalize("NFC", text).split())
    if profile == "loose":
        # Casefolding can undo a normal form (Unicode Standard 3.13, D146), hence the second pass.
        folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
        # A space and not nothing: "1.5" must not equal "15", and "220 V/50 Hz" keeps its word boundary.
        return " ".join(_PUNCTUATION.sub(" ", folded).split())
    raise ValueError(f"profile {profile!r} is unknown; choose one of {', '.join(PROFILES)}")


def graphemes(text: str) -> list[str]:
    r"""Return the user-perceived characters of the text, in order (`\X`, Unicode Standard Annex 29)."""
    return _GRAPHEME.findall(text)
