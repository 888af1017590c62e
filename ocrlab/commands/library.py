"""A library read page by page into text files and one JSONL: what is there already is not read again."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ocrlab.pages import Page, PageError, expand, load_pages
from ocrlab.pages.hub import HUB
from ocrlab.pages.load import finished, is_url, place_of
from ocrlab.pages.page import Degrade, Truth
from ocrlab.pages.remote import StoredPage
from ocrlab.pages.truth import SOURCES, UTF_8
from ocrlab.reading.inputs import in_batches
from ocrlab.reading.loading import image_tokens_of
from ocrlab.reading.settings import Settings
from ocrlab.scoring.outcomes import WITH_TEXT
from ocrlab.study.experiment import pinned_revision
from ocrlab.study.records import GOES_ON, RecordError, RecordFile, read_records, reading_record, row_key, row_of

RECORDS = "readings.jsonl"
_LONGEST_BYTES = 240  # of a page's name in that of its text; file systems take 255


@dataclass(frozen=True)
class Sourced:
    """Pages with unique ids, the relative path under which each is mirrored, and the folder where they are."""

    pages: list[Page]
    names: list[str]
    root: Path


@dataclass(frozen=True)
class Item:
    """A page to read, the key of its reading, its image tokens, and where its text goes, if anywhere."""

    page: Page
    key: str
    image_tokens: int
    text_file: Path | None


def gather(
    sources: Sequence[str],
    *,
    limit: int | None,
    dpi: int | None,
    truth: Truth = "beside",
    degrade: Degrade = "",
    truth_encoding: str = UTF_8,
) -> Sourced:
    """Return the pages of all sources; a page that two of them hold is taken once.

    A folder's pages are mirrored from that folder on; with several sources its own name comes first. Single files
    are mirrored by their name, listed ones by their path, objects of a store by their path below the URL, pages of the
    Hub by their id.

    Raises:
        PageError: nothing there, or no page in it.
    """
    found: dict[tuple[str, int | None], tuple[Page, str]] = {}
    roots = [_root(source) for source in sources]
    for source, root in zip(sources, roots, strict=True):
        if source == "-":
            listed = expand(sys.stdin.buffer.read(), dpi=dpi, truth_encoding=truth_encoding)[:limit]
            pages = [finished(page, truth, degrade) for page in listed]
        else:
            given: dict[str, Any] = {"truth": truth, "degrade": degrade, "truth_encoding": truth_encoding}
            with redirect_stdout(sys.stderr):  # what is said of a set of the Hub; texts go to standard output
                pages = load_pages(source, limit=limit, recursive=True, dpi=dpi, **given)
        for page in pages:
            key = (page.where if isinstance(page, StoredPage) else str(page.file.absolute()), page.page_number)
            found.setdefault(key, (page, _name(page, root, len(sources) > 1)))
    if not found:
        raise PageError(f"{', '.join(sources)}: no page found; give images, PDFs, a folder of them, or a set")
    kept = [page for page, _ in found.values()]
    if len({page.id for page in kept}) < len(kept):
        numbers = [f"#{page.page_number}" if page.page_number else "" for page in kept]
        kept = [replace(page, id=page.where + number) for page, number in zip(kept, numbers, strict=True)]
    return Sourced(kept, [name for _, name in found.values()], roots[0] or Path.cwd())


def list_truths(paths: Sequence[str], dpi: int | None) -> None:
    """Print how many pages have a truth, of which source, and why others have none, with the first three of each."""
    found: dict[str, list[str]] = {}
    for page in gather(paths, limit=None, dpi=dpi, truth="pdf").pages:
        reason = page.problem.removeprefix(f"{page.where}: page {page.page_number}: ")
        named = f"truth in {SOURCES[page.truth_source]}" if page.truth_source else "no truth"
        named += f": {reason or 'none beside it, and no PDF'}" if reason or page.truth is None else ""
        found.setdefault("facts, and " * bool(page.facts) + named, []).append(page.id)
    for reason, ids in sorted(found.items(), reverse=True):
        some = ", ".join(ids[:3]) + ", …" * (len(ids) > 3)
        print(f"{len(ids):>6} page{'s' * (len(ids) > 1)}: {reason} ({some})")


def _root(source: str) -> Path | None:
    """Return the folder that a source is, if it is one."""
    if source == "-" or is_url(source):
        return None
    place = place_of(source)
    return place.absolute() if place.is_dir() else None


def _name(page: Page, root: Path | None, several: bool) -> str:
    if isinstance(page, StoredPage):
        return f"{page.set}/{page.name}" if several else page.name
    if page.set.startswith(HUB):
        return page.id
    file, here = page.file.absolute(), Path.cwd()
    if root is not None:
        return str(file.relative_to(root.parent if several else root))
    return str(file.relative_to(here if file.is_relative_to(here) else file.anchor))


def plan_items(settings: Settings, pages: Sequence[Page], text_files: Sequence[Path | None]) -> list[Item]:
    """Return an item for each page; image tokens are 0 where they cannot be known before the page is read."""
    checkpoint = pinned_revision(settings)
    keys = [row_key(settings, page, checkpoint, 0) for page in pages]
    return list(map(Item, pages, keys, image_tokens_of(settings, pages), text_files))


def make_batches(items: Sequence[Item], size: int) -> list[Sequence[Page]]:
    """Return the items' pages in batches: of like size together and the largest first, or one by one as they come."""
    return in_batches([item.page for item in items], size, [item.image_tokens for item in items] if size > 1 else None)


def target_files(pages: Sequence[Page], names: Sequence[str], folder: Path | None) -> list[Path]:
    """Return each page's text file: its own name with `.txt` behind, beside it or under `folder` at `names`.

    A name such as `scan.png.txt` is never taken for a truth, and two images of one stem do not meet. A page of a PDF
    or TIFF is `scan.pdf.p0003.txt`.

    Raises:
        PageError: two pages would be written to one file, or one beside a page of a store.
    """
    seen: dict[Path, Page] = {}
    for page, name in zip(pages, names, strict=True):
        if folder is None and isinstance(page, StoredPage):
            raise PageError(f"{page.where}: nothing is written into a store; choose a folder with --out")
        number = f".p{page.page_number:04d}" if page.page_number is not None else ""
        place = folder / name if folder is not None else page.file
        file = place.with_name(_text_name(f"{place.name}{number}"))
        if file in seen:
            raise PageError(f"{file}: both {seen[file].where} and {page.where} would go there; read each alone")
        seen[file] = page
    return list(seen)


def _text_name(name: str) -> str:
    """Return a page's name with `.txt` behind; one too long for a file is cut, and its hash tells it from others."""
    data = os.fsencode(name)
    if len(data) > _LONGEST_BYTES:
        name = f"{data[: _LONGEST_BYTES - 9].decode(errors='ignore')}~{hashlib.sha256(data).hexdigest()[:8]}"
    return f"{name}.txt"


class Output:
    """Where readings go: one JSON object per page in `records`, and the text in its own file."""

    def __init__(self, records: Path, *, retry_failed: bool = False) -> None:
        self.file = RecordFile(records)
        known = {record["key"]: record["status"] in WITH_TEXT for record in self.file.records}
        self.known = {key: good for key, good in known.items() if good or not retry_failed}
        self.pages = {record["file"] for record in self.file.records}
        self.file.forget_records()

    def missing(self, items: Iterable[Item]) -> list[Item]:
        """Return the items that have not been read yet; a text file that a killed run did not write is written now.

        Raises:
            PageError: a text file is there that no reading in `records` wrote.
        """
        todo, lost = [], {}
        for item in items:
            there = item.text_file is not None and item.text_file.exists()
            if item.key not in self.known:
                todo.append(item)
                if there and item.page.where not in self.pages:
                    raise PageError(
                        f"{item.text_file}: is there already and was not written by this reading; move it, or choose "
                        "another --out"
                    )
            elif self.known[item.key] and item.text_file is not None and not there:
                lost[item.key] = item.text_file
        for record in read_records(self.file.file) if lost else []:
            if record["key"] in lost:
                _write(lost[record["key"]], record["text"])
        return todo

    def put(self, item: Item, record: dict[str, Any]) -> None:
        """Save a page's reading, then its text; raises RecordError where the disk does not take it."""
        self.file.append(record)
        if item.text_file is not None and record["status"] in WITH_TEXT:
            _write(item.text_file, record["text"])


def read_items(
    engine: Any, settings: Settings, items: Sequence[Item], batches: Iterable[Sequence[Page]]
) -> Iterator[tuple[Item, dict[str, Any]]]:
    """Yield each item with its reading as one flat object, as the engine's workers end their batches."""
    by_id = {item.page.id: item for item in items}
    for results in engine.stream(batches):
        for result in results:
            reading = result.reading
            item = by_id[reading.page]
            record = reading_record("read", item.key, settings, item.page, result)
            row = row_of(record)
            place = {"file": item.page.where, "page_number": item.page.page_number}
            outcome = {name: getattr(reading, name) for name in ("status", "reason", "text")}
            yield item, place | outcome | {"cer": row.get("cer")} | row


def _write(file: Path, text: str) -> None:
    part = file.with_name(f"{file.name}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text + "\n" if text else "", encoding="utf-8")
        part.replace(file)
    except OSError as error:
        raise RecordError(
            f"{file}: cannot be written ({error.strerror}); what was read before is kept. {GOES_ON}"
        ) from error
