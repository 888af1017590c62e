"""Some of a run's pages read again with the settings of its readings: is the text still the same, and where not?"""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from ocrlab.pages import Page, load_pages
from ocrlab.pages.images import PageError
from ocrlab.pages.load import OWN_SETS
from ocrlab.reading.isolated import Refused
from ocrlab.reading.pool import ReaderPool
from ocrlab.reading.result import Reading
from ocrlab.reading.settings import LOAD_SETTINGS, Settings, make_settings
from ocrlab.scoring.outcomes import WITH_TEXT
from ocrlab.study.compare import Difference, first_difference
from ocrlab.study.experiment import pinned_revision
from ocrlab.study.records import setting_label

LEAST_PAGES = 3
Outcome = Literal["same", "different", "left out"]


@dataclass(frozen=True)
class Again:
    """One reading and what came of it now: the same text, another one, or not comparable."""

    page: str
    experiment: str
    setting: str
    outcome: Outcome
    reason: str = ""
    difference: Difference | None = None


def repeatable(readings: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the readings whose text must come out again: greedy, of real weights and natural length, each once.

    Those that ran code from a repository are left out, too: nobody is asked here whether to run it.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for reading in readings:
        settings = make_settings(reading["asked"])
        usual = settings.weights == "pretrained" and settings.min_new_tokens is None and settings.do_sample is False
        if usual and not settings.trust_remote_code and reading["status"] in WITH_TEXT:
            found.setdefault(repr((settings, reading["page_sha256"])), reading)
    return list(found.values())


def draw(pages: Sequence[str], share: float, seed: int) -> list[str]:
    """Return a random share of page hashes, three at least (or all there are), the same for the same seed."""
    ordered = sorted(set(pages))
    count = min(len(ordered), max(LEAST_PAGES, math.ceil(share * len(ordered))))
    return sorted(random.Random(seed).sample(ordered, count))


def reread(readings: Sequence[Mapping[str, Any]], here: Mapping[str, Page]) -> Iterator[Again]:
    """Yield each reading's outcome as it comes, models loaded once each; `here` holds the pages by sha256.

    Where the weights have another revision than the reading's, it is left out, with the reason.
    """
    groups: dict[Settings, list[Mapping[str, Any]]] = {}
    for reading in readings:
        groups.setdefault(make_settings(reading["asked"]), []).append(reading)
    with ReaderPool(Settings()) as pool:
        for settings in sorted(groups, key=lambda s: repr([getattr(s, name) for name in LOAD_SETTINGS])):
            pool.apply(settings)
            now, by_page = pinned_revision(settings), {}
            for one in groups[settings]:
                then = one["actual"].get("actual_revision")
                if now in {then, "absent"}:
                    by_page[here[one["page_sha256"]].id] = one
                else:
                    yield _again(one, "left out", f"the weights differ: {then} then, {now} now")
            try:
                for result in pool.read([here[one["page_sha256"]] for one in by_page.values()]):
                    yield _compared(by_page.pop(result.reading.page), result.reading)
            except Refused as error:
                yield from (_again(one, "left out", f"cannot be read here: {error}") for one in by_page.values())


def _compared(one: Mapping[str, Any], reading: Reading) -> Again:
    if reading.status not in WITH_TEXT:
        return _again(one, "different", f"{reading.status}: {reading.reason}")
    difference = first_difference(one["text"], reading.text)
    batched = "it was read in a batch with other pages" if one["asked"]["batch_size"] > 1 else ""
    return _again(one, "different", batched, difference) if difference else _again(one, "same")


def _again(one: Mapping[str, Any], outcome: Outcome, reason: str = "", difference: Difference | None = None) -> Again:
    return Again(one["page"], one["experiment"], setting_label(one["asked"]), outcome, reason, difference)


# Where the pages of readings are on this machine: found by the sha256 that each reading carries.


def pages_by_hash(sources: Iterable[str | Path] = OWN_SETS, dpis: Iterable[int] = ()) -> dict[str, Page]:
    """Return the pages of sets, folders with those below, or files by sha256; absent and refused ones are left out.

    Where the same bytes lie in several sources the first is taken. A PDF's pages are hashed as drawn for their reader,
    and at `dpis`.
    """
    found: dict[str, Page] = {}
    for page in _pages(sources, dpis):
        if page.sha256 and not page.refused:
            found.setdefault(page.sha256, page)
    return found


def absent_pages(
    readings: Collection[Mapping[str, Any]], here: Mapping[str, Page], sources: Iterable[str | Path]
) -> dict[str, str]:
    """Return the pages of readings that are not here with the same bytes, by id, each with what is known of it."""
    by_name: dict[tuple[Any, ...], Page] = {
        (page.set, page.id, page.dpi, page.degrade): page for page in _pages(sources, dpis_of(readings))
    }
    absent = {}
    for reading in readings:
        then = reading["page_sha256"]
        if then not in here:
            drawn = reading.get("dpi"), str(reading.get("degrade", ""))
            now = by_name.get((reading["set"], reading["page"], *drawn))
            changed = now and f"its file has changed since (sha256 {then[:12]}… then, {now.sha256[:12]}… now)"
            absent[reading["page"]] = changed or "not found here; name the folder that holds it"
    return absent


def dpis_of(readings: Iterable[Mapping[str, Any]]) -> set[int]:
    """Return the resolutions at which readings say that their pages were drawn."""
    return {dpi for reading in readings if isinstance(dpi := reading.get("dpi"), int) and dpi > 0}


def _pages(sources: Iterable[str | Path], dpis: Iterable[int]) -> Iterator[Page]:
    further = sorted(set(dpis))
    for source in sources:
        try:
            pages = load_pages(source, recursive=True)
            multipage = any(page.page_number is not None for page in pages)
            others = [load_pages(source, recursive=True, dpi=dpi) for dpi in further] if multipage else []
        except PageError:
            continue
        for page in chain(pages, *others):
            yield from (page, page.degraded("scan"))
