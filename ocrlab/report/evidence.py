"""A run's readings, page by page and each text once: what could not be read first, then the worst, then the exact."""

from __future__ import annotations

import gzip
import html
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
from markupsafe import Markup

from ocrlab.reading.settings import make_settings
from ocrlab.scoring.clean import clean
from ocrlab.scoring.content import Fact, facts_problem
from ocrlab.scoring.metrics import align, facts_missed, shown_metrics
from ocrlab.scoring.outcomes import WITHOUT_TEXT
from ocrlab.study.compare import name_sources, summarise
from ocrlab.study.records import FLAGS, copied, parse_records, record_files, row_of, rows_of, setting_label
from ocrlab.study.rereading import pages_by_hash

_LONGEST = 6_000


@dataclass
class Reading:
    """One text that a page was read as (or one reason why it was not), and the experiments and settings with it."""

    status: str
    reason: str
    text: str
    scores: dict[str, Any]
    line: Markup
    removed: tuple[str, ...] = ()
    missed: tuple[str, ...] = ()
    flags: list[str] = field(default_factory=list)
    settings: list[str] = field(default_factory=list)
    experiments: list[str] = field(default_factory=list)
    count: int = 0

    @property
    def cer(self) -> float | None:
        """Return the character error rate, or None where there is no truth or no text."""
        return self.scores.get("cer")

    @property
    def words(self) -> str:
        """Return what the metrics that are shown say, but for those that are perfect."""
        shown = [(metric, self.scores.get(name)) for name, metric in shown_metrics().items()]
        imperfect = [(metric, value) for metric, value in shown if value not in (None, metric.better == "high")]
        return ", ".join(f"{metric.label} {metric.words(value)}" for metric, value in imperfect)

    @property
    def outcome(self) -> str:
        """Return what the page filters by: a status that is not ok, else `exact`, `differs` or `no truth`."""
        if self.status != "ok":
            return self.status
        return "no truth" if self.cer is None else "differs" if self.cer else "exact"

    @property
    def rank(self) -> tuple[int, float]:
        """Return what sorts it: no text first, then cut or empty texts, then by falling CER."""
        place = {"differs": 2, "no truth": 3, "exact": 4}.get(self.outcome, 1)
        return (0 if self.status in WITHOUT_TEXT else place, -(self.cer or 0))


@dataclass
class Sheet:
    """A page as it was read: its id and hash, its truth, where its image lies, and its different readings."""

    page: str
    sha256: str
    truth: str | None
    image: str = ""
    readings: list[Reading] = field(default_factory=list)


def unread_settings(readings: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the settings that read no page in an experiment, each with its first reason and how many pages it had."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for reading in readings:
        groups.setdefault((reading["experiment"], reading["setting"]), []).append(reading)
    return [
        {name: mine[0][name] for name in ("experiment", "setting", "status", "reason")}
        | {"pages": len({reading["page"] for reading in mine})}
        for mine in groups.values()
        if all(reading["status"] in WITHOUT_TEXT for reading in mine)
    ]


def sheets_of(readings: Sequence[dict[str, Any]], run: Path) -> list[Sheet]:
    """Return the pages with their readings, failures first on each page and over all; less `unread_settings`.

    A page's image is linked where the run has a copy (`pages/`), or where it is one of our page sets and unchanged.
    """
    sheets: dict[tuple[str, str, str | None], Sheet] = {}
    found: dict[tuple[str, str, str | None, str, str], Reading] = {}
    unread = {(one["experiment"], one["setting"]) for one in unread_settings(readings)}
    for reading, copy in zip(readings, copied(readings), strict=True):
        if (reading["experiment"], reading["setting"]) in unread:
            continue
        page = (reading["page"], reading["page_sha256"], reading["truth"])
        text = "" if reading["status"] in WITHOUT_TEXT else reading["text"]
        key = (*page, reading["status"], text or reading["reason"])
        if key not in found:
            cleaned = clean(text)
            marked = Markup(_marked(cleaned.text, reading["truth"]))  # escaped there, piece by piece
            row = row_of(reading)
            facts = facts_missed(cleaned.text, reading.get("facts", ()))
            missed = tuple(", ".join(f"{name} “{value}”" for name, value in fact.items()) for fact in facts)
            found[key] = Reading(reading["status"], reading["reason"], text, row, marked, cleaned.removed, missed)
            sheets.setdefault(page, Sheet(*page)).readings.append(found[key])
        same = found[key]
        same.count += 1
        raised = same.scores | {"copied": copy}
        same.flags += [words for f in FLAGS if raised[f] and (words := f.replace("_", " ")) not in same.flags]
        for kept, name in ((same.settings, "setting"), (same.experiments, "experiment")):
            if reading[name] not in kept:
                kept.append(reading[name])
    images = _images({sheet.sha256 for sheet in sheets.values()}, run)
    for sheet in sheets.values():
        sheet.image = images.get(sheet.sha256, "")
        sheet.readings.sort(key=lambda reading: reading.rank)
    return sorted(sheets.values(), key=lambda sheet: (sheet.readings[0].rank, sheet.page))


def picture_name(sha256: str) -> str:
    """Return the name of a page's copy in a run's `pages/`."""
    return f"{sha256[:16]}.png"


def _marked(text: str, truth: str | None) -> str:
    """Return the reading as HTML: `mark` for what is another letter in truth, `ins` for added, `del` for left out."""
    if truth is None or not text or len(text) + len(truth) > _LONGEST:
        return html.escape(text[:_LONGEST])
    tags = {"equal": "", "replace": "mark", "insert": "ins", "delete": "del"}
    made = []
    for piece in align(text, truth):
        letters, tag = html.escape(piece.reading or piece.truth), tags[piece.kind]
        made.append(f"<{tag}>{letters}</{tag}>" if tag else letters)
    return "".join(made)


def _images(wanted: set[str], run: Path) -> dict[str, str]:
    """Return where the images of these hashes lie, seen from the run's folder."""
    copies = {sha256: run / "pages" / picture_name(sha256) for sha256 in wanted if sha256.isalnum()}
    found = {sha256: f"pages/{file.name}" for sha256, file in copies.items() if file.is_file()}
    for sha256, page in pages_by_hash().items() if wanted else ():
        if sha256 in wanted:
            # From results/<run>/ to data/pages/: images that the checkout has already are not stored again.
            found.setdefault(sha256, f"../../data/pages/{quote(page.file.parent.name)}/{quote(page.file.name)}")
    return found


# A run's record and readings as far as they can be used: damaged lines are left out, and counted.


_NEEDED = {"page": str, "status": str, "reason": str, "text": str, "asked": dict}


def begun(record: dict[str, Any]) -> str:
    """Return when the first notebook of a run started, as its record has it: it may have gone on several times."""
    notebooks = record.get("notebooks")
    entries = notebooks.values() if isinstance(notebooks, dict) else []
    times = [entry.get("started") for entry in entries if isinstance(entry, dict)]
    return min((str(time) for time in [record.get("started"), *times] if time), default="")


def count_readings(run: Path) -> dict[str, dict[str, int]]:
    """Return the number of readings of each status by file; a line that is none counts as `damaged`."""
    found = {}
    for file in record_files(run / "readings"):
        statuses = ("damaged" if line is None else str(line.get("status", "no status")) for line in _lines(file))
        found[file.name.removesuffix(".gz")] = dict(Counter(statuses))
    return found


def usable_readings(run: Path) -> list[dict[str, Any]]:
    """Return the readings that have a page, an outcome, a text and settings, which are in words as `setting`.

    A setting that the reading's version did not have stands at its default.
    """
    found = []
    for file in record_files(run / "readings"):
        blank: dict[str, Any] = {"experiment": file.name.partition(".")[0], "actual": {}, "measured": {}}
        for line in _lines(file):
            if line is not None and all(isinstance(line.get(name), kind) for name, kind in _NEEDED.items()):
                try:
                    asked = make_settings(line["asked"]).as_dict()
                except (ValueError, TypeError):
                    continue  # counted in `count_readings`
                truth, sha256 = (
                    v if isinstance(v := line.get(name), str) else None for name in ("truth", "page_sha256")
                )
                facts: list[Fact] = [] if facts_problem(line.get("facts", [])) else line.get("facts", [])
                known = {"truth": truth, "page_sha256": sha256 or "", "asked": asked, "setting": setting_label(asked)}
                found.append(blank | line | known | {"facts": facts})
    return found


def settings_lines(readings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one line per experiment × setting: metrics with their intervals, time, memory, how many were read.

    Where truths are of several sources, each has lines of its own, and `truth` says which it is.
    """
    if not readings:
        return []
    rows = name_sources(pd.DataFrame(rows_of(readings))).sort_values("experiment", kind="stable")
    lines = summarise(rows, ["experiment", "setting", "truth"]).to_dict("records")
    return [{str(k): None if isinstance(v, float) and v != v else v for k, v in line.items()} for line in lines]


def all_readings(run: Path) -> list[dict[str, Any]]:
    """Return every record of the run's readings that is not damaged, whatever it holds."""
    return [line for file in record_files(run / "readings") for line in _lines(file) if line is not None]


def _lines(file: Path) -> list[dict[str, Any] | None]:
    """Return a file's records, the last of each key, and None for each that is damaged."""
    data = file.read_bytes()
    try:
        data = gzip.decompress(data) if file.suffix == ".gz" else data
    except (OSError, EOFError, zlib.error):
        return [None]
    found: dict[str, dict[str, Any] | None] = {}
    for number, record in parse_records(data):
        if isinstance(record, ValueError):
            found[repr(number)] = None
        else:
            found[repr(record.get("key", number))] = record
    return list(found.values())
