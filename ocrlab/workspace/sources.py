"""From what was typed to pages: sets, folders, files, globs, URLs, or a list on standard input."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ocrlab.pages import Page, PageError, expand, load_pages
from ocrlab.pages.load import is_url, place_of
from ocrlab.pages.remote import StoredPage


@dataclass(frozen=True)
class Sourced:
    """Pages with unique ids, the relative path under which each is mirrored, and the folder where they stand."""

    pages: list[Page]
    names: list[str]
    root: Path


def gather(sources: Sequence[str], *, limit: int | None, dpi: int) -> Sourced:
    """Return the pages of all sources; a page that two of them hold is taken once.

    A folder's pages are mirrored from that folder on; with several sources its own name stands before. Single files
    are mirrored by their name, listed ones by their path, objects of a store by their path below the URL.

    Raises:
        PageError: nothing there, or no page in it.
    """
    pages: dict[tuple[str, int | None], Page] = {}
    names: dict[tuple[str, int | None], str] = {}
    roots = []
    for source in sources:
        if source == "-":
            found = expand(sys.stdin.buffer.read(), dpi=dpi)[:limit]
        else:
            found = load_pages(source, limit=limit, recursive=True, dpi=dpi)
        root = _root(source)
        roots.append(root or Path.cwd())
        for page in found:
            key = (page.where if isinstance(page, StoredPage) else str(page.file.absolute()), page.leaf)
            pages.setdefault(key, page)
            names.setdefault(key, _name(page, root, len(sources) > 1))
    if not pages:
        raise PageError(f"{', '.join(sources)}: no page found; give images, PDFs, a folder of them, or a set")
    kept = list(pages.values())
    if len({page.id for page in kept}) < len(kept):
        kept = [replace(page, id=f"{page.where}#{page.leaf}" if page.leaf else page.where) for page in kept]
    return Sourced(kept, list(names.values()), roots[0])


def _root(source: str) -> Path | None:
    """Return the folder that a source is, if it is one."""
    if source == "-" or is_url(source):
        return None
    place = place_of(source)
    return place.absolute() if place.is_dir() else None


def _name(page: Page, root: Path | None, several: bool) -> str:
    if isinstance(page, StoredPage):
        return f"{page.set}/{page.name}" if several else page.name
    file = page.file.absolute()
    if root is not None:
        return str(file.relative_to(root.parent if several else root))
    here = Path.cwd()
    return str(file.relative_to(here)) if file.is_relative_to(here) else str(file.relative_to(file.anchor))
