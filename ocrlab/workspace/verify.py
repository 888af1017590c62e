"""`make verify`: read a random tenth of a run's pages again and say which texts changed."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ocrlab.pages.sets import OWN_SETS
from ocrlab.pages.stores import is_url
from ocrlab.study.origin import absent_pages, dpis_of, pages_by_hash
from ocrlab.study.records import RecordError, readings_in
from ocrlab.study.rereading import Again, draw, repeatable, reread
from ocrlab.workspace.plan import PlanError
from ocrlab.workspace.provenance import read_record
from ocrlab.workspace.runs import find_run

_NAMED = 8


def verify(
    run: str | None, share: float = 0.1, seed: int = 0, only: str = "", pages: str = "", results: Path | None = None
) -> int:
    """Read pages again and print what changed; return 0 all the same, 1 some differ, 2 nothing could be compared.

    `only` names experiments with commas between them, `pages` a folder where the run's own pages lie. Nothing is
    fetched from a network and nothing is written.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        folder = find_run(run, results)
        wanted = {name.strip() for name in only.split(",") if name.strip()}
        readings = readings_in(folder)
        if unknown := wanted - {reading["experiment"] for reading in readings}:
            raise PlanError(f"{folder}: has no readings of {', '.join(sorted(unknown))}")
        usable = repeatable([r for r in readings if not wanted or r["experiment"] in wanted])
    except (PlanError, RecordError, ValueError, KeyError) as error:
        print(error if not isinstance(error, KeyError) else f"{run}: a reading lacks {error}", file=sys.stderr)
        return 2
    sources = [*([pages] if pages else []), *OWN_SETS, *_asked_sources(read_record(folder))]
    here = pages_by_hash(sources, dpis_of(usable))
    _tell("page", absent_pages(usable, here, sources))
    drawn = set(draw([r["page_sha256"] for r in usable if r["page_sha256"] in here], share, seed))
    chosen = [reading for reading in usable if reading["page_sha256"] in drawn]
    if not chosen:
        print(f"{folder.name}: no greedy reading of a page that is here: nothing to compare", file=sys.stderr)
        return 2
    print(f"{folder.name}: {len(drawn)} pages (seed {seed}), {len(chosen)} readings", flush=True)
    return _summary(_reread(chosen, here))


def _reread(chosen: list[Mapping[str, Any]], here: Mapping[str, Any]) -> list[Again]:
    done = []
    with tqdm(total=len(chosen), unit="page", file=sys.stderr, disable=not sys.stderr.isatty()) as bar:
        for again in reread(chosen, here):
            done.append(again)
            bar.update()
            if again.outcome == "different":
                where = "; ".join(filter(None, [str(again.parting or ""), again.reason]))
                tqdm.write(f"{again.page} ({again.experiment}: {again.setting}): {where}", file=sys.stdout)
    return done


def _summary(done: list[Again]) -> int:
    reasons = {again.setting: again.reason for again in done if again.outcome == "left out"}
    _tell("setting", reasons)
    counts = Counter(again.outcome for again in done)
    print(f"{counts['same']} same text, {counts['different']} different, {counts['left out']} left out")
    if counts["different"]:
        return 1
    return 0 if counts["same"] else 2


def _tell(what: str, reasons: Mapping[str, str]) -> None:
    """Print each reason once with what it concerns."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        by_reason.setdefault(reason, []).append(name)
    for reason, names in by_reason.items():
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        print(f"left out, {what} {'; '.join(names[:_NAMED])}{more}: {reason}", file=sys.stderr)


def _asked_sources(record: Mapping[str, Any]) -> list[str]:
    """Return the page sets and folders that the run's notebooks were given."""
    found: dict[str, None] = {}
    entries = record.get("notebooks")
    for entry in entries.values() if isinstance(entries, dict) else []:
        given = entry.get("parameters") if isinstance(entry, dict) else None
        for name, value in given.items() if isinstance(given, dict) else ():
            if name not in ("page_set", "page_sets"):
                continue
            given_sources = value if isinstance(value, list) else [value]
            wanted = (s for s in given_sources if isinstance(s, str) and s not in OWN_SETS)
            found |= {s if is_url(s) else str(Path(s).expanduser()): None for s in wanted}
    return list(found)
