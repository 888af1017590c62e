"""Where the pages of readings lie on this machine: found by the sha256 that each reading carries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ocrlab.pages import Page, load_pages
from ocrlab.pages.errors import PageError
from ocrlab.pages.sets import OWN_SETS


def pages_by_hash(sources: Iterable[str | Path] = OWN_SETS) -> dict[str, Page]:
    """Return the pages of sets, folders or files by sha256; absent sources and refused pages are left out.

    Where the same bytes lie in several sources the first is taken.
    """
    found: dict[str, Page] = {}
    for page in _pages(sources):
        if page.sha256 and not page.refused:
            found.setdefault(page.sha256, page)
    return found


def absent_pages(
    readings: Iterable[Mapping[str, Any]], here: Mapping[str, Page], sources: Iterable[str | Path]
) -> dict[str, str]:
    """Return the pages of readings that are not here with the same bytes, by id, each with what is known of it."""
    by_name = {(page.set, page.id): page for page in _pages(sources)}
    absent = {}
    for reading in readings:
        if reading["page_sha256"] not in here:
            now = by_name.get((reading["set"], reading["page"]))
            absent[reading["page"]] = (
                "not found here; name the folder it lies in" if now is None
                else f"its file has changed since (sha256 {reading['page_sha256'][:12]}… then, {now.sha256[:12]}… now)"
            )  # fmt: skip
    return absent


def _pages(sources: Iterable[str | Path]) -> Iterable[Page]:
    for source in sources:
        try:
            yield from load_pages(source)
        except PageError:
            continue
