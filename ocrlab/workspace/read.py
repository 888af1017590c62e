"""`python -m ocrlab read`: text per page as it comes, then the error rate where truth lies beside."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from tqdm import tqdm

from ocrlab.pages import Page, PageError, load_pages
from ocrlab.reading.outcome import Reading
from ocrlab.reading.settings import Settings
from ocrlab.scoring import character_edits, corpus_rate
from ocrlab.study.rows import reading_record, row_of
from ocrlab.workspace.flags import refuse_held


def read_paths(
    sources: Iterable[str], settings: Settings, *, as_json: bool, limit: int | None, quarantined: bool = False
) -> int:
    """Read every page of the sources and print it; return the exit code (0 all read, 1 some failed, 2 unusable).

    A setting that the canary holds is not read unless `quarantined`.
    """
    from ocrlab.reading.served import Refused, ServedReader

    try:
        pages = [page for source in sources for page in load_pages(source, limit=limit)]
        if len({page.id for page in pages}) < len(pages):
            pages = list({str(page.file): replace(page, id=str(page.file)) for page in pages}.values())
        if not pages:
            raise PageError("no page found; give images, a folder of images, or a set")
        refuse_held(settings, quarantined)
        reader = ServedReader(settings)
    except (PageError, Refused) as error:
        print(error, file=sys.stderr)
        return 2
    bad, edits = 0, []
    with reader, tqdm(total=len(pages), unit="page", file=sys.stderr, disable=not sys.stderr.isatty()) as bar:
        for page, reading in _readings(reader, pages):
            record = reading_record("read", "", settings, page, reading, reader.actual, reader.load_s, 0)
            row = row_of(record)
            if reading.status != "ok":
                bad += 1
            if page.truth is not None and "cer" in row:
                edits.append(character_edits(reading.text, page.truth))
            bar.update()
            _show(page, reading, row, as_json)
    if edits:
        rate = corpus_rate(edits)
        print(f"CER {rate:.2%} over {len(edits)} pages with truth (white space collapsed)", file=_side(as_json))
    if bad:
        print(f"{bad} of {len(pages)} pages were not read to their end", file=sys.stderr)
    return 1 if bad else 0


def _side(as_json: bool) -> Any:
    return sys.stderr if as_json else sys.stdout


def _readings(reader: Any, pages: list[Page]) -> Iterable[tuple[Page, Reading]]:
    by_id = {page.id: page for page in pages}
    for reading in reader.stream(pages):
        yield by_id[reading.page], reading


def _show(page: Page, reading: Reading, row: dict[str, Any], as_json: bool) -> None:
    if as_json:
        first = {"file": str(page.file), "status": reading.status, "reason": reading.reason, "text": reading.text}
        print(json.dumps(first | {"cer": row.get("cer")} | row, ensure_ascii=False), flush=True)
        return
    tqdm.write(f"── {page.file}", file=sys.stdout)
    if reading.text:
        tqdm.write(reading.text, file=sys.stdout)
    if reading.status != "ok":
        tqdm.write(f"{page.file}: {reading.status}: {reading.reason}", file=sys.stderr)
    if page.problem and not page.refused:
        tqdm.write(f"{page.problem}; read without a score", file=sys.stderr)
