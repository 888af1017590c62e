"""Pages by name or by path: one of our sets, a user's folder, a manifest, one image or PDF, a glob, or a store."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ocrlab import paths
from ocrlab.pages import files, listing, manifest
from ocrlab.pages.errors import PageError
from ocrlab.pages.page import Page
from ocrlab.pages.pdf import PDF_DPI
from ocrlab.pages.stores import is_url

OWN_SETS = ("lines", "labels", "sizes", "documents")


def set_names() -> list[str]:
    """Return the names of the sets in `data/pages`, ours first, then folders that users put there."""
    try:
        found = sorted(f.name for f in paths.PAGES.iterdir() if f.is_dir() and not f.name.startswith("."))
    except OSError:
        found = []
    return [*(name for name in OWN_SETS if name in found), *(name for name in found if name not in OWN_SETS)]


def load_pages(
    source: str | Path, *, limit: int | None = None, kind: str | None = None, spread: int | None = None,
    recursive: bool = False, dpi: int = PDF_DPI,
) -> list[Page]:  # fmt: skip
    """Return the pages of a set, folder, `manifest.jsonl`, image, PDF or glob, in order; no image is decoded.

    A PDF or a TIFF of several pages gives each of its pages, a PDF's drawn at `dpi` dots an inch when opened.
    `recursive` takes the folders below a folder too (one with a `manifest.jsonl` is what that says).
    A URL that fsspec knows (`s3://bucket/scans`) is a folder or file of a store; its pages are fetched where they are
    opened. A set's name goes before a folder of that name here (write `./lines` for the folder). `kind` keeps the
    pages of one kind, then `limit` the first so many; `spread` keeps so many evenly over the rest, for a short run
    over all kinds. A page whose file or truth is unusable is listed with its `problem`.

    Raises:
        PageError: nothing there, no such kind, a limit below 1, a manifest that is not one.
    """
    for name, value in (("limit", limit), ("spread", spread)):
        if value is not None and value < 1:
            raise PageError(f"{name}={value}: give a whole number of pages from 1 on, or None for all")
    check_dpi(dpi)
    pages = _load(source, limit, kind, recursive, dpi)
    if spread is None or spread >= len(pages):
        return pages
    return [pages[index * len(pages) // spread] for index in range(spread)]


def check_dpi(dpi: int) -> None:
    """Refuse a resolution that is none."""
    if dpi < 1:
        raise PageError(f"dpi={dpi}: give a whole number of dots an inch from 1 on; {PDF_DPI} suits most print")


def root_of(files: Sequence[Path]) -> Path:
    """Return the lowest folder that holds all files, given by absolute paths; the first's where drives differ."""
    try:
        return Path(os.path.commonpath([file.parent for file in files]))
    except ValueError:
        return files[0].parent


def _load(source: str | Path, limit: int | None, kind: str | None, recursive: bool, dpi: int) -> list[Page]:
    if is_url(source):
        _refuse_kind(source, kind)
        return [*listing.pages_at(str(source), limit=limit, recursive=recursive, dpi=dpi)]
    place = place_of(source)
    listed = place / manifest.NAME
    if listed.is_file() or (place.suffix.lower() == ".jsonl" and not place.is_dir()):
        return _of_manifest(listed if place.is_dir() else place, limit, kind)
    _refuse_kind(source, kind)
    if place.is_dir():
        return files.as_pages(files.in_folder(place, recursive=recursive), place, limit=limit, dpi=dpi)
    if place.is_file():
        if place.suffix.lower() not in files.LISTED:
            raise PageError(f"{place}: {files.NO_PAGE}, a folder of them, a manifest.jsonl or a set")
        return files.as_pages([place], place.parent, limit=limit, dpi=dpi)
    found = [file.absolute() for file in files.by_pattern(str(source))]
    return files.as_pages(found, root_of(found), limit=limit, dpi=dpi)


def _refuse_kind(source: str | Path, kind: str | None) -> None:
    if kind is not None:
        raise PageError(f"{source}: its pages have no kinds, so kind={kind!r} keeps none; kinds come from a manifest")


def place_of(source: str | Path) -> Path:
    """Return the folder or file meant, or the pattern as it is."""
    if isinstance(source, str) and source in set_names():
        return paths.PAGES / source
    try:
        place = Path(source).expanduser()
        if str(source).strip() and (place.exists() or any(sign in str(source) for sign in "*?[")):
            return place
    except (OSError, ValueError, RuntimeError) as error:
        raise PageError(f"{str(source)!r}: no usable path ({error})") from error
    raise PageError(
        f"{source}: no such file or folder, seen from {Path.cwd()}, and no set of this name; "
        f"our sets are {', '.join(set_names()) or 'missing (data/pages is empty)'}"
    )


def _of_manifest(listed: Path, limit: int | None, kind: str | None) -> list[Page]:
    entries = manifest.entries(listed)
    kinds = sorted({entry.get("kind", "") for entry in entries} - {""})
    if kind is not None:
        entries = [entry for entry in entries if entry.get("kind") == kind]
        if not entries:
            raise PageError(f"{listed}: no page of kind {kind!r}; its kinds are {', '.join(kinds) or 'not given'}")
    ours = listed.resolve().parent.parent == paths.PAGES.resolve() and listed.resolve().parent.name in OWN_SETS
    return [manifest.as_page(listed, entry, hash_needed=ours) for entry in entries[:limit]]
