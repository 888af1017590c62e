"""Some of a run's pages read again with the settings of its readings: is the text still the same, and where not?"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ocrlab.pages import Page
from ocrlab.reading.reader import LOAD_SETTINGS
from ocrlab.reading.served import Refused, ServedReader
from ocrlab.reading.settings import Settings, make_settings
from ocrlab.scoring.outcomes import WITH_TEXT
from ocrlab.study.parting import Parting, parting
from ocrlab.study.records import setting_label

LEAST_PAGES = 3


@dataclass(frozen=True)
class Again:
    """One reading and what came of it now: the same text, another one (and where they part), or not comparable."""

    page: str
    experiment: str
    setting: str
    outcome: Literal["same", "different", "left out"]
    reason: str = ""
    parting: Parting | None = None


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

    Weights of another revision than the reading's tell nothing of it and are left out, with the reason.
    """
    groups: dict[Settings, list[Mapping[str, Any]]] = {}
    for reading in readings:
        groups.setdefault(make_settings(reading["asked"]), []).append(reading)
    reader: ServedReader | None = None
    try:
        for settings in sorted(groups, key=lambda s: repr([getattr(s, name) for name in LOAD_SETTINGS])):
            mine = groups[settings]
            try:
                if reader is None:
                    reader = ServedReader(settings)
                else:
                    reader.apply(settings)
            except Refused as error:
                yield from (_again(one, "left out", f"cannot be read here: {error}") for one in mine)
                continue
            yield from _read(reader, mine, here)
    finally:
        if reader is not None:
            reader.close()


def _read(reader: ServedReader, mine: list[Mapping[str, Any]], here: Mapping[str, Page]) -> Iterator[Again]:
    now = reader.actual.get("actual_revision")
    comparable = []
    for one in mine:
        then = one["actual"].get("actual_revision")
        if then == now:
            comparable.append(one)
        else:
            yield _again(one, "left out", f"the weights are others: {then} then, {now} now")
    by_page = {here[one["page_sha256"]].id: one for one in comparable}
    for reading in reader.stream([here[one["page_sha256"]] for one in comparable]):
        one = by_page[reading.page]
        if reading.status not in WITH_TEXT:
            yield _again(one, "different", f"{reading.status}: {reading.reason}")
            continue
        parted = parting(one["text"], reading.text)
        batched = "read in a batch with other pages than then" if reader.settings.batch_size > 1 else ""
        yield _again(one, "different", batched, parted) if parted else _again(one, "same")


def _again(
    one: Mapping[str, Any], outcome: Literal["same", "different", "left out"], reason: str = "",
    parted: Parting | None = None,
) -> Again:  # fmt: skip
    return Again(one["page"], one["experiment"], setting_label(one["asked"]), outcome, reason, parted)
