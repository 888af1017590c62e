"""Readings against truths: what counts as the same, how many edits, and the one table of metrics.

A new metric is one entry in `METRICS`; rows, summaries, tables, figures and the site take their columns from it.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from typing import Any, Literal, cast, get_args

import regex
from rapidfuzz.distance import LCSseq, Levenshtein

from ocrlab.scoring.clean import clean
from ocrlab.scoring.content import Fact, changed_numbers, fact_holds

Profile = Literal["strict", "layout", "loose"]
PROFILES: tuple[Profile, ...] = get_args(Profile)

_GRAPHEME = regex.compile(r"\X")
_PUNCTUATION = regex.compile(r"\p{P}+")
#: A word broken at a line's end; in every text of a comparison alike, so "two- and three-column" costs nothing.
_BROKEN_WORD = regex.compile(r"(?<=\p{L})[-\u2010]\s+(?=\p{Ll})")


@lru_cache(maxsize=1024)  # every metric of a page asks for the same texts
def normalise(text: str, profile: Profile = "layout") -> str:
    r"""Return the text as `profile` compares it.

    `strict`: NFC; `\r\n` and `\r` become `\n`, and newlines at the end go, as files and models differ there by habit.
    `layout`: NFC; each run of white space becomes one space, none at the ends; a word broken with a hyphen at a line's
    end is whole, as models write it either broken or whole.
    `loose`: broken words whole, NFKC, casefolded, punctuation (Unicode class P) replaced by a space, then white space
    as in `layout`.
    Symbols (class S: `+ = < > $ ₽ °`) stay in every profile, and so does the difference between е and ё.
    Raises ValueError for another profile. Source: Unicode Standard Annexes 15 (normal forms) and 44 (classes).
    """
    if profile == "strict":
        return unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n")).rstrip("\n")
    if profile == "layout":
        return " ".join(_BROKEN_WORD.sub("", unicodedata.normalize("NFC", text)).split())
    if profile == "loose":
        # Casefolding can undo a normal form (Unicode Standard 3.13, D146), hence the second pass.
        whole = _BROKEN_WORD.sub("", text)
        folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", whole).casefold())
        # A space and not nothing: "1.5" must not equal "15", and "220 V/50 Hz" keeps its word boundary.
        return " ".join(_PUNCTUATION.sub(" ", folded).split())
    raise ValueError(f"profile {profile!r} is unknown; choose one of {', '.join(PROFILES)}")


def graphemes(text: str) -> list[str]:
    r"""Return the user-perceived characters of the text, in order (`\X`, Unicode Standard Annex 29)."""
    if text.isascii() and "\r" not in text:
        return list(text)  # \r\n is the one cluster of several ASCII characters
    return _GRAPHEME.findall(text)


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


def exact_page(reading: str, truth: str) -> Edits:
    """Return one edit of one where the reading differs from the truth at all, white space collapsed."""
    return Edits(int(normalise(reading) != normalise(truth)), 1)


def corpus_rate(pages: Iterable[Edits]) -> float:
    """Return total edits over total length of truth: long pages weigh more.

    Raises ValueError where there are no pages. All truths empty: as `Edits.rate` has it.
    """
    counted = list(pages)
    if not counted:
        raise ValueError("no pages to take a rate of; score at least one page that has a truth")
    return Edits(sum(page.edits for page in counted), sum(page.length for page in counted)).rate


Kind = Literal["equal", "replace", "insert", "delete"]


@dataclass(frozen=True)
class Piece:
    """A run of one kind; `insert` has no truth (it was read but is not there), `delete` has no reading."""

    kind: Kind
    truth: str
    reading: str


def _runs(reading: str, truth: str, profile: Profile) -> list[tuple[Kind, list[str], list[str]]]:
    expected, got = graphemes(normalise(truth, profile)), graphemes(normalise(reading, profile))
    return [
        (cast(Kind, step.tag), expected[step.src_start : step.src_end], got[step.dest_start : step.dest_end])
        for step in Levenshtein.opcodes(expected, got)
    ]


def align(reading: str, truth: str, profile: Profile = "layout") -> list[Piece]:
    """Return the pieces that turn truth into reading with the fewest edits, cut between grapheme clusters.

    Joined, the pieces give both normalised texts back. A `replace` has as many graphemes on either side. Where
    several alignments have as few edits, this is rapidfuzz's choice, the same every time.
    """
    return [Piece(kind, "".join(expected), "".join(got)) for kind, expected, got in _runs(reading, truth, profile)]


def confusions(pairs: Iterable[tuple[str, str]], profile: Profile = "layout") -> Counter[tuple[str, str]]:
    """Return how often each grapheme was taken for another, over pairs of (reading, truth).

    Keys are (truth grapheme, read grapheme), "" where one was inserted or left out; right ones are not counted,
    so the counts add up to the edits.
    """
    counts: Counter[tuple[str, str]] = Counter()
    for reading, truth in pairs:
        for kind, expected, got in _runs(reading, truth, profile):
            if kind != "equal":
                counts.update(zip_longest(expected, got, fillvalue=""))
    return counts


def first_divergence(a: str, b: str, profile: Profile = "strict") -> int | None:
    """Return the index of the first grapheme in which two normalised texts differ, or None where they are equal.

    Where one text is the beginning of the other, that is the length of the shorter, in graphemes.
    """
    left, right = graphemes(normalise(a, profile)), graphemes(normalise(b, profile))
    return next((i for i, (x, y) in enumerate(zip_longest(left, right)) if x != y), None)


# A telephone number may have single spaces; elsewhere a space parts the cells of a table's row.
_DIGITS = regex.compile(r"(?<!\w)\+\d+(?:[ .,:/'’\-–−]\d+)*|(?:(?<!\w)[\-−])?\d+(?:[.,:/'’\-–−]\d+)*")


@dataclass(frozen=True)
class Kept:
    """How many of the truth's pieces came back unchanged and in order, of how many, and how many were read in all."""

    kept: int
    expected: int
    read: int

    @property
    def lost(self) -> Edits:
        """Return the pieces that did not come back, as edits against the truth's count: what intervals take."""
        return Edits(self.expected - self.kept, self.expected)


def digit_strings(text: str) -> list[str]:
    r"""Return the digit strings of a text, line by line.

    One is a run of digits joined by single `. , : / ' ’ - – −` between two digits, with a `-` or `−` before it that no
    word character precedes. With such a `+` before it, single spaces join too. By hand:
    `Net 1500.50 kg, 12:30` → `1500.50`, `12:30`; `+7 495 123-45-67` → itself; `2026-11-24` → itself; `2 x 30.00 60.00`
    → `2`, `30.00`, `60.00`; `1 500` → `1`, `500`; `-5 to -10` → `-5`, `-10`; `AB-12` → `12`; `220.` → `220`; `5 m²` →
    `5` (a superscript is no digit). Lines and white space are first made as the profile `layout` has them.
    """
    return [found for line in text_lines(text) for found in _DIGITS.findall(line)]


def text_lines(text: str) -> list[str]:
    """Return the lines that are not empty, each with its white space as the profile `layout` has it."""
    return [line for raw in text.splitlines() if (line := normalise(raw))]


def digits_kept(reading: str, truth: str) -> Kept:
    """Return how many of the truth's digit strings came back: the longest common subsequence of the two lists.

    Truth `220 V, 1.5 A`, reading `22O V, 1.5 A`: the strings `220`, `1.5` against `22`, `1.5`; kept 1 of 2, read 2.
    Truth `1 2 3`, reading `3 1 2`: kept 2 of 3, for order counts. Digits that were invented cost nothing here; `read`
    above `expected` tells of them.
    """
    return _kept(digit_strings(reading), digit_strings(truth))


def lines_kept(reading: str, truth: str) -> Kept:
    """Return how many of the truth's lines came back exactly and in order, white space collapsed: rows, in a table.

    Truth `Milk 2 x 3.10` / `Total 6.20`, reading `Milk 2 x 8.10` / `Total  6.20`: kept 1 of 2, read 2.
    """
    return _kept(text_lines(reading), text_lines(truth))


def facts_missed(reading: str, facts: Sequence[Fact]) -> list[Fact]:
    """Return the facts that do not hold of a reading, as `fact_holds` judges each; of an empty reading none holds."""
    lines = text_lines(reading)
    normal = ({k: normalise(v) if isinstance(v, str) else v for k, v in fact.items()} for fact in facts)
    return [fact for fact, one in zip(facts, normal, strict=True) if not lines or not fact_holds(one, lines)]


def facts_lost(reading: str, facts: Sequence[Fact]) -> Edits:
    """Return one edit for each fact that does not hold, of all facts."""
    return Edits(len(facts_missed(reading, facts)), len(facts))


def _kept(got: Sequence[str], expected: Sequence[str]) -> Kept:
    return Kept(int(LCSseq.similarity(list(expected), list(got))), len(expected), len(got))


def _shared_words(reading: str, truth: str) -> Kept:
    expected, got = (Counter(normalise(text).split()) for text in (truth, reading))
    return Kept((expected & got).total(), expected.total(), got.total())


def words_found(reading: str, truth: str) -> Edits:
    """Return the truth's words that the reading has fewer of, in whatever order: what a search would not find.

    Truth `Total 6.20 Milk 6.20`, reading `Milk 6.20 Total`: 1 of 4, for one `6.20` is missing.
    """
    return _shared_words(reading, truth).lost


def words_invented(reading: str, truth: str) -> Edits:
    """Return the words that the reading has more of than the truth, in whatever order, over the truth's words.

    Truth `Total 6.20`, reading `The Total is 6.20 6.20`: 3 of 2 (`The`, `is`, the second `6.20`).
    """
    shared = _shared_words(reading, truth)
    return Edits(shared.read - shared.kept, shared.expected)


_CYRILLIC = "АВЕЅІЈКМНОРСТУХҮаеѕіјорсухһԁԛԝ"
_LATIN = "ABESIJKMHOPCTYXYaesijopcyxhdqw"
_TWINS = str.maketrans(_CYRILLIC, _LATIN)


def lookalikes(reading: str, truth: str) -> Edits:
    """Return the letters read as their twin of the other script, Latin for Cyrillic or back, over the truth's letters.

    Truth `НОС 5 x`, reading `HOС 5 х`: 3 of 4 letters; the page looks right, and a search finds neither.
    """
    expected, got = normalise(truth), normalise(reading)
    count = sum(map(str.isalpha, expected))
    if expected == got or {*expected, *got}.isdisjoint(_CYRILLIC):
        return Edits(0, count)
    # Aligned as they look, so that twins lie opposite each other.
    steps = Levenshtein.opcodes(expected.translate(_TWINS), got.translate(_TWINS))
    same = [s for s in steps if s.tag == "equal"]
    sides = ((expected[s.src_start : s.src_end], got[s.dest_start : s.dest_end]) for s in same)
    return Edits(sum(a != b for pair in sides for a, b in zip(*pair, strict=True)), count)


def numbers_reformatted(reading: str, truth: str) -> Edits:
    """Return the truth's digit strings that came back with their value in another form: no misreadings.

    Truth `1 500,00 14/03/2024`, reading `1,500.00 2024-03-14`: 3 of 3 (`1`, `500,00` and the date).
    """
    return _numbers(reading, truth)[0]


def numbers_wrong(reading: str, truth: str) -> Edits:
    """Return the truth's digit strings that came back in no form and no place.

    Truth `220 V, 1.5 A, 3 kg`, reading `3 kg, 22O V, 1,5 A`: 1 of 3 (`220`).
    """
    return _numbers(reading, truth)[1]


@lru_cache(maxsize=64)  # two metrics ask, one after the other
def _numbers(reading: str, truth: str) -> tuple[Edits, Edits]:
    expected = digit_strings(truth)
    reformatted, wrong = changed_numbers(digit_strings(reading), expected)
    return Edits(reformatted, len(expected)), Edits(wrong, len(expected))


@dataclass(frozen=True)
class Metric:
    """One way to score a reading: `count` gives its edits against the truth, which are added up over pages.

    Both texts are cleaned first of what a model writes around a page, but for a metric that is `raw`. One that is `of`
    facts is counted against the page's facts instead.

    `label` heads its columns and stands in verdicts. A metric that is `better` high is the share of the truth that came
    back, else the share that was got wrong. `shown`: it has columns of its own in summaries, tables and the site; all
    others are in the rows. `decimals` are of a percentage.
    """

    label: str
    count: Callable[[str, Any], Edits]
    better: Literal["low", "high"] = "low"
    shown: bool = True
    decimals: int = 2
    #: What verdicts, which are about edits, call a metric that is better high.
    rate_label: str = ""
    raw: bool = False
    of: Literal["truth", "facts"] = "truth"

    def edits(self, reading: str, truth: Any) -> Edits:
        """Return the edits of a reading as the model wrote it, against a text, or facts where the metric is of them."""
        if self.raw:
            return self.count(reading, truth)
        return self.count(clean(reading).text, clean(truth).text if self.of == "truth" else truth)

    def value(self, found: Edits) -> float | None:
        """Return the metric of these edits, a fraction; None for a share of a truth that has nothing to keep."""
        if self.better == "low":
            return found.rate
        return 1 - found.rate if found.length else None

    def interval(self, low: float, high: float, point: float) -> tuple[float, float, float]:
        """Return (value, low, high) of an interval of the rate of edits and its point."""
        return (point, low, high) if self.better == "low" else (1 - point, 1 - high, 1 - low)

    def words(self, value: float | None) -> str:
        """Return a value as people read it, or nothing where there is none."""
        return "" if value is None or value != value else f"{value:.{self.decimals}%}"

    def interval_words(self, line: Mapping[Any, Any], name: str) -> str:
        """Return a summary's value with its interval, such as `5.10% (4.50% to 5.70%)`; nothing where it has none."""
        value, low, high = (self.words(line.get(f"{name}{end}")) for end in ("", "_low", "_high"))
        return value and f"{value} ({low} to {high})"


#: Every metric by the name of its column; `<name>_edits` and `<name>_length` stand beside it in a row.
METRICS: dict[str, Metric] = {
    "cer": Metric("CER", character_edits),
    "wer": Metric("WER", word_edits, shown=False),
    "cer_strict": Metric(
        "strict CER", lambda reading, truth: character_edits(reading, truth, "strict"), shown=False, raw=True
    ),
    "cer_loose": Metric("loose CER", lambda reading, truth: character_edits(reading, truth, "loose"), shown=False),
    "exact": Metric("exact pages", exact_page, better="high", shown=False),
    "digits": Metric(
        "digit strings", lambda reading, truth: digits_kept(reading, truth).lost, "high", False, 1, "digit-string loss"
    ),
    "lines": Metric(
        "exact lines", lambda reading, truth: lines_kept(reading, truth).lost, "high", False, 1, "line loss"
    ),
    "words_found": Metric("words found", words_found, better="high", rate_label="word loss"),
    "facts_held": Metric("facts held", facts_lost, "high", True, 1, "fact loss", of="facts"),
    "words_invented": Metric("words invented", words_invented, shown=False),
    "lookalikes": Metric("look-alike letters", lookalikes, shown=False),
    "numbers_reformatted": Metric("numbers in another form", numbers_reformatted, shown=False, decimals=1),
    "numbers_wrong": Metric("numbers wrong", numbers_wrong, shown=False, decimals=1),
}


def score(
    reading: str, truth: str | None, ended_by_itself: bool = True, facts: Sequence[Fact] = ()
) -> dict[str, float | int | None]:
    """Return the score columns of one page: for each metric its value, a fraction, its edits and the truth's length.

    Columns of truth are there where it is known, those of facts where there are some. Where the cap ended the reading,
    a page costs no more than one of which nothing was read: how long a loop went on is the cap's doing, and one such
    page would outweigh all others.
    """
    columns: dict[str, float | int | None] = {}
    for name, metric in METRICS.items():
        if (against := truth if metric.of == "truth" else facts or None) is None:
            continue
        found = metric.edits(reading, against)
        if found.length and not ended_by_itself:
            found = Edits(min(found.edits, found.length), found.length)
        columns |= {name: metric.value(found), f"{name}_edits": found.edits, f"{name}_length": found.length}
    return columns


def shown_metrics() -> dict[str, Metric]:
    """Return the metrics that have columns of their own in summaries, tables and the site."""
    return {name: metric for name, metric in METRICS.items() if metric.shown}
