"""How far a reading is from the truth: edits, CER and WER, over a page and over a corpus."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from rapidfuzz.distance import Levenshtein

from ocrlab.scoring.normalise import Profile, graphemes, normalise


@dataclass(frozen=True)
class Edits:
    """Insertions, deletions and replacements, one each (Levenshtein), against the length of the truth."""

    edits: int
    length: int

    @property
    def rate(self) -> float:
        """Return edits per unit of truth: a fraction, above 1 where more was read than was there.

        Empty truth: 0.0 where nothing was read, else 1.0, so that one blank page with an endless reading cannot
        outweigh all others in a mean (jiwer returns the count of insertions there). In `corpus_rate` such a
        page's edits count in full.
        """
        if self.length == 0:
            return float(self.edits > 0)
        return self.edits / self.length


def character_edits(reading: str, truth: str, profile: Profile = "layout") -> Edits:
    """Return the edits from truth to reading, in grapheme clusters of the normalised texts."""
    expected, got = graphemes(normalise(truth, profile)), graphemes(normalise(reading, profile))
    return Edits(Levenshtein.distance(expected, got), len(expected))


def word_edits(reading: str, truth: str, profile: Profile = "layout") -> Edits:
    """Return the edits from truth to reading, in words (split at white space) of the normalised texts."""
    expected, got = normalise(truth, profile).split(), normalise(reading, profile).split()
    return Edits(Levenshtein.distance(expected, got), len(expected))


def corpus_rate(pages: Iterable[Edits]) -> float:
    """Return total edits over total length of truth: long pages weigh more.

    Raises ValueError where there are no pages. All truths empty: as `Edits.rate` has it.
    """
    counted = list(pages)
    if not counted:
        raise ValueError("no pages to take a rate of; score at least one page that has a truth")
    return Edits(sum(page.edits for page in counted), sum(page.length for page in counted)).rate


def macro_mean(pages: Iterable[Edits]) -> float:
    """Return the mean of the pages' own rates: every page weighs the same.

    Raises ValueError where there are no pages.
    """
    rates = [page.rate for page in pages]
    if not rates:
        raise ValueError("no pages to take a mean of; score at least one page that has a truth")
    return sum(rates) / len(rates)


@dataclass(frozen=True)
class Score:
    """The score columns of a row: rates as fractions, counts in graphemes and words, `layout` where not named."""

    cer: float
    wer: float
    cer_strict: float
    cer_loose: float
    cer_edits: int
    cer_length: int
    wer_edits: int
    wer_length: int
    exact: bool

    def as_dict(self) -> dict[str, float | int | bool]:
        """Return the columns by name, in the order of the fields."""
        return asdict(self)


def score(reading: str, truth: str) -> Score:
    """Return the score of one page's reading against its truth."""
    characters, words = character_edits(reading, truth), word_edits(reading, truth)
    return Score(
        cer=characters.rate,
        wer=words.rate,
        cer_strict=character_edits(reading, truth, "strict").rate,
        cer_loose=character_edits(reading, truth, "loose").rate,
        cer_edits=characters.edits,
        cer_length=characters.length,
        wer_edits=words.edits,
        wer_length=words.length,
        exact=characters.edits == 0,
    )
