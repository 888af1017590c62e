"""Where the pages of readings lie on this machine: found by the sha256 that each reading carries."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from ocrlab.pages import Page, load_pages
from ocrlab.pages.documents import PDF_DPI
from ocrlab.pages.images import PageError
from ocrlab.pages.load import OWN_SETS


def pages_by_hash(sources: Iterable[str | Path] = OWN_SETS, dpis: Iterable[int] = ()) -> dict[str, Page]:
    """Return the pages of sets, folders with those below, or files by sha256, absent and refused ones left out.

    Where the same bytes lie in several sources the first is taken. A PDF's pages are drawn, and so hashed, at the
    default resolution and at `dpis`.
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
    by_name = {(page.set, page.id, page.dpi): page for page in _pages(sources, dpis_of(readings))}
    absent = {}
    for reading in readings:
        if reading["page_sha256"] not in here:
            now = by_name.get((reading["set"], reading["page"], reading.get("dpi", PDF_DPI)))
            absent[reading["page"]] = (
                "not found here; name the folder it lies in" if now is None
                else f"its file has changed since (sha256 {reading['page_sha256'][:12]}… then, {now.sha256[:12]}… now)"
            )  # fmt: skip
    return absent


def dpis_of(readings: Iterable[Mapping[str, Any]]) -> set[int]:
    """Return the resolutions at which readings say that their pages were drawn."""
    told = (reading.get("dpi") for reading in readings)
    return {dpi for dpi in told if isinstance(dpi, int) and dpi > 0}


def _pages(sources: Iterable[str | Path], dpis: Iterable[int]) -> Iterator[Page]:
    further = sorted(set(dpis) - {PDF_DPI})
    for source in sources:
        try:
            pages = load_pages(source, recursive=True)
            leaves = any(page.leaf is not None for page in pages)
            others = [load_pages(source, recursive=True, dpi=dpi) for dpi in further] if leaves else []
        except PageError:
            continue
        yield from chain(pages, *others)
