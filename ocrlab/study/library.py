"""A library read page by page into text files and one JSONL: what stands there already is not read again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ocrlab.pages import Page, PageError
from ocrlab.pages.stores import StoredPage
from ocrlab.reading.reader import in_batches
from ocrlab.reading.settings import Settings
from ocrlab.reading.sizes import image_tokens_of
from ocrlab.scoring import WITH_TEXT
from ocrlab.study.records import GOES_ON, RecordError, RecordFile, read_records
from ocrlab.study.rows import reading_record, row_key, row_of
from ocrlab.study.store import pinned_revision

RECORDS = "readings.jsonl"


@dataclass(frozen=True)
class Item:
    """A page to read, the key of its reading, its image tokens, and where its text goes, if anywhere."""

    page: Page
    key: str
    image_tokens: int
    text_file: Path | None


def plan_items(settings: Settings, pages: Sequence[Page], text_files: Sequence[Path | None]) -> list[Item]:
    """Return an item for each page; image tokens are 0 where a page or the model's sizes cannot be told."""
    checkpoint = pinned_revision(settings)
    sizes = image_tokens_of(settings, pages)
    return [
        Item(page, row_key(settings, page, checkpoint, 0), size, file)
        for page, size, file in zip(pages, sizes, text_files, strict=True)
    ]


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
        leaf = f".p{page.leaf:04d}" if page.leaf is not None else ""
        place = folder / name if folder is not None else page.file
        file = place.with_name(f"{place.name}{leaf}.txt")
        if file in seen:
            raise PageError(f"{file}: both {seen[file].where} and {page.where} would be written there; read them apart")
        seen[file] = page
    return list(seen)


class Shelf:
    """Where readings go: one JSON object a page in `records`, and the text in its own file."""

    def __init__(self, records: Path, *, retry_failed: bool = False) -> None:
        self.file = RecordFile(records)
        self.known = {record["key"]: record["status"] in WITH_TEXT for record in self.file.records}
        self.pages = {record["file"] for record in self.file.records}
        self.file.forget_records()
        if retry_failed:
            self.known = {key: good for key, good in self.known.items() if good}

    def missing(self, items: Iterable[Item]) -> list[Item]:
        """Return the items that have not been read yet; a text file that a killed run did not write is written now.

        Raises:
            PageError: a text file is there that no reading of this shelf wrote.
        """
        todo, lost = [], {}
        for item in items:
            if item.key not in self.known:
                todo.append(item)
                _refuse_foreign(item, self.pages)
            elif self.known[item.key] and item.text_file is not None and not item.text_file.exists():
                lost[item.key] = item
        if lost:
            for record in read_records(self.file.file):
                if record["key"] in lost:
                    _write(lost[record["key"]].text_file, record["text"])
        return todo

    def put(self, item: Item, told: dict[str, Any]) -> None:
        """Save a page's reading, then its text; raises RecordError where the disk does not take it."""
        self.file.append(told)
        if item.text_file is not None and told["status"] in WITH_TEXT:
            _write(item.text_file, told["text"])


def read_items(engine: Any, settings: Settings, items: Sequence[Item], batches: Iterable[Sequence[Page]]
               ) -> Iterator[tuple[Item, dict[str, Any]]]:  # fmt: skip
    """Yield each item with its reading as one flat object, as the engine's workers end their batches."""
    by_id = {item.page.id: item for item in items}
    for results in engine.stream(batches):
        for result in results:
            reading = result.reading
            item = by_id[reading.page]
            record = reading_record("read", item.key, settings, item.page, reading, result.actual, result.load_s, 0)
            row = row_of(record)
            first = {
                "file": item.page.where, "leaf": item.page.leaf, "status": reading.status,
                "reason": reading.reason, "text": reading.text, "cer": row.get("cer"),
            }  # fmt: skip
            yield item, first | row


def _refuse_foreign(item: Item, ours: set[str]) -> None:
    if item.text_file is not None and item.text_file.exists() and item.page.where not in ours:
        raise PageError(
            f"{item.text_file}: is there already and was not written by this reading; move it, or choose another --out"
        )


def _write(file: Path | None, text: str) -> None:
    assert file is not None
    part = file.with_name(f"{file.name}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text + "\n" if text else "", encoding="utf-8")
        part.replace(file)
    except OSError as error:
        raise RecordError(
            f"{file}: cannot be written ({error.strerror}); what was read before is kept. {GOES_ON}"
        ) from error
