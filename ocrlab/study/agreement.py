"""Where no page has a truth: agreement with one setting's texts, votes between two, and which pages to label first."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import combinations
from typing import Any, Literal, NamedTuple

import pandas as pd
from rapidfuzz.distance import Levenshtein

from ocrlab.pages import Page
from ocrlab.pages.truth import REFERENCE
from ocrlab.reading.settings import Settings, make_settings
from ocrlab.scoring.clean import clean
from ocrlab.scoring.metrics import Edits, normalise
from ocrlab.scoring.outcomes import WITH_TEXT
from ocrlab.scoring.statistics import share_of_votes, votes_needed
from ocrlab.study.experiment import Store
from ocrlab.study.records import asks_to_read, rows_of

#: What a person says of two texts of a place, without knowing which setting read which.
Choice = Literal["left", "right", "both", "neither"]
_EXACT = {"float32": 3, "auto": 2, "bfloat16": 1, "float16": 0}

Record = Mapping[str, Any]


def with_reference(records: Sequence[Record]) -> tuple[list[Record], dict[tuple[str, str], Settings]]:
    """Return the records with a reference's texts as truths, and the reference of each machine and model.

    Where any page of a machine and model has a truth, its records stay as they are, and it has no reference; so do
    pages that the reference did not read to their end. The reference is the setting that read the most pages; of
    several, the one with the most exact dtype, no quantization, the largest pixel budget, and one page at a time.
    """
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        if asks_to_read(record["asked"]):
            groups.setdefault((str(record["machine"]), str(record["asked"]["model_id"])), []).append(record)
    found: dict[tuple[str, str], Settings] = {}
    texts: dict[tuple[str, str, str], str] = {}
    for group, mine in groups.items():
        read = [record for record in mine if record["status"] == "ok"]
        if not read or any(isinstance(record.get("truth"), str) for record in mine):
            continue
        by_setting: dict[Settings, dict[str, str]] = {}
        for record in read:
            by_setting.setdefault(make_settings(record["asked"]), {})[record["page_sha256"]] = record["text"]
        found[group] = max(by_setting, key=lambda one: (len(by_setting[one]), *_exactness(one)))
        texts |= {(*group, page): clean(text).text for page, text in by_setting[found[group]].items()}
    held = [
        record if text is None else {**record, "truth": text, "truth_source": REFERENCE}
        for record in records
        for text in [texts.get((str(record["machine"]), str(record["asked"]["model_id"]), record["page_sha256"]))]
    ]
    return held, found


def _exactness(settings: Settings) -> tuple[int, bool, float, bool, int]:
    pixels = float("inf") if settings.max_pixels is None else settings.max_pixels
    greedy = settings.do_sample is False
    return _EXACT[settings.dtype], settings.quantization is None, pixels, greedy, -settings.batch_size


def against_reference(rows: pd.DataFrame, experiment: str) -> tuple[pd.DataFrame, str]:
    """Return an experiment's rows, scored against a reference where no page has a truth, and a sentence that says so.

    The sentence is empty where there is a truth, or nothing was read.
    """
    if rows.empty or ("cer_edits" in rows and rows["cer_edits"].notna().any()):
        return rows, ""
    known = Store(experiment).readings.by_key
    held, references = with_reference([known[key] for key in rows["key"]])
    return (pd.DataFrame(rows_of(held)), words(references)) if references else (rows, "")


def words(references: Mapping[tuple[str, str], Settings]) -> str:
    """Return what figures are held against where no page has a truth, in a sentence; empty without a reference."""
    if not references:
        return ""
    names = "; ".join(
        ", ".join(f"{name}={value!s:.40}" for name, value in one.changed().items() if name != "model_id") or "defaults"
        for one in references.values()
    )
    return (
        f"No page has a truth, so every setting is held against what one of them read ({names}): CER and words found "
        "are agreement with it, and say nothing of what it misread."
    )


class Place(NamedTuple):
    """Where two texts part: the words that both have around it, what either has there, and at which letter of it.

    `share` is how much of the first text stands before it.
    """

    before: str
    after: str
    texts: tuple[str, str]
    starts: tuple[int, int]
    share: float

    def record(self, page: Page, settings: Sequence[Settings], left: int, choice: Choice) -> dict[str, Any]:
        """Return a vote on it as a finding, where `left` is the number of the text that was shown on the left.

        The key is that of page, place and settings, whichever was on the left: a second vote replaces the first.
        """
        asked = [one.as_dict() for one in settings]
        sides = [{"asked": asked[n], "text": self.texts[n], "start": self.starts[n]} for n in (left, 1 - left)]
        place = [page.id, page.sha256, *sorted(json.dumps(side, sort_keys=True) for side in sides)]
        about = {"page": page.id, "page_sha256": page.sha256, "truth_source": "vote", "choice": choice}
        shown = {"left": sides[0], "right": sides[1], "before": self.before, "after": self.after}
        key, now = hashlib.sha256(json.dumps(place).encode()).hexdigest()[:24], datetime.now(UTC)
        return {"key": key} | about | shown | {"time_utc": now.isoformat(timespec="seconds")}


def places(a: str, b: str) -> list[Place]:
    """Return where two readings part, in whole words and in order.

    White space is collapsed, what a model wrote around the page's text is taken off, and six words are around a place.
    """
    left, right = (normalise(clean(text).text).split() for text in (a, b))
    found: list[Place] = []
    i = k = 0
    for j, m, size in Levenshtein.editops(left, right).as_matching_blocks():
        if i < j or k < m:
            around = " ".join(left[max(0, i - 6) : i]), " ".join(left[j : j + 6])
            starts = len(" ".join([*left[:i], ""])), len(" ".join([*right[:k], ""]))
            texts = " ".join(left[i:j]), " ".join(right[k:m])
            found.append(Place(*around, texts, starts, i / max(1, len(left))))
        i, k = j + size, m + size
    return found


def vote_words(votes: Iterable[Record], a: Settings, b: Settings) -> str:
    """Return what votes between two settings, in whichever order shown, say of them as A and B; empty without votes."""
    one, other = a.as_dict(), b.as_dict()
    mine = [vote for vote in votes if [vote["left"]["asked"], vote["right"]["asked"]] in ([one, other], [other, one])]
    counts, decided = Counter(vote["choice"] for vote in mine), [vote for vote in mine if vote["choice"] in vote]
    for_a = Counter(vote["page_sha256"] for vote in decided if vote[vote["choice"]]["asked"] == one)
    pages = [Edits(for_a[page], count) for page, count in Counter(vote["page_sha256"] for vote in decided).items()]
    said = f"{len(mine)} blind votes: {counts['both']} both fine, {counts['neither']} neither"
    if not pages:
        return f"{said}; none prefers A or B yet." if mine else ""
    found, more = share_of_votes(pages), votes_needed(pages)
    share = f"A is preferred in {found.point:.1%} of the other {len(decided)} (95 % interval {found.low:.1%} to "
    end = f"not settled: about {more:,} more would do it if the share stays, on at least six pages in all"
    if not more:
        end = "that is even: more settle it only if the share moves" if found.point == 0.5 else "that settles it"
    return f"{said}; {share}{found.high:.1%}; pages: {found.documents}); {end}."


def label_first(readings: Iterable[Record]) -> list[dict[str, Any]]:
    """Return the pages without a truth that several settings read, those on which their texts differ most first.

    A line has `page`, how many `settings` read it, and `differ`: the mean over pairs of settings of the share of
    letters in which their texts differ (edits over the letters of the longer one), white space collapsed. Of a
    setting's readings of a page the last counts.
    """
    texts: dict[tuple[str, str], dict[str, str]] = {}
    for one in readings:
        if not isinstance(one.get("truth"), str) and one["status"] in WITH_TEXT:
            page, setting = (one["page"], one["page_sha256"]), json.dumps(one["asked"], sort_keys=True)
            texts.setdefault(page, {})[setting] = normalise(clean(one["text"]).text)
    lines = []
    for (name, _), found in texts.items():
        if apart := [Levenshtein.normalized_distance(x, y) for x, y in combinations(found.values(), 2)]:
            lines.append({"page": name, "settings": len(found), "differ": sum(apart) / len(apart)})
    return sorted(lines, key=lambda line: -line["differ"])
