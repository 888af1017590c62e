"""Pages by name or path: our sets, the Hub's, a user's folder, manifest, list, image, PDF or glob, or a store."""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from ocrlab import paths
from ocrlab.pages import files, remote
from ocrlab.pages.documents import PDF_DPI, is_pdf
from ocrlab.pages.files import MANIFEST
from ocrlab.pages.hub import HUB, hub_pages
from ocrlab.pages.images import PageError
from ocrlab.pages.page import Degrade, Page, Truth
from ocrlab.pages.truth import UTF_8, encoding_of, truth_beside
from ocrlab.scoring.content import facts_problem

OWN_SETS = ("lines", "labels", "sizes", "documents")
_TEXTS = ("id", "file", "sha256", "set", "language", "kind", "degradation", "font", "truth", "licence")


def set_names() -> list[str]:
    """Return the names of the sets in `data/pages`, ours first, then folders that users put there."""
    found = sorted(folder.name for folder in paths.PAGES.glob("[!.]*/"))
    return [*(name for name in OWN_SETS if name in found), *(name for name in found if name not in OWN_SETS)]


def load_pages(
    source: str | Path,
    *,
    limit: int | None = None,
    kind: str | None = None,
    spread: int | None = None,
    recursive: bool = False,
    dpi: int | None = None,
    truth: Truth = "beside",
    degrade: Degrade = "",
    truth_encoding: str = UTF_8,
) -> list[Page]:
    """Return the pages of a set, folder, `manifest.jsonl`, image, PDF or glob, in order; no image is decoded.

    A PDF, a multipage TIFF or a GIF gives each of its pages, a PDF's drawn when opened: at `dpi` dots per inch, or else
    as large as the reader's `max_pixels` takes it (`Page.open`). `recursive`
    takes the folders below a folder too (one with a `manifest.jsonl` is what that says). A URL that fsspec knows
    (`s3://bucket/scans`) is a folder or file of a store; its pages are fetched where they are opened;
    `hub:owner/name` is a set of the Hub, fetched here (`hub_pages`). A set's name
    goes before a folder of that name here (write `./lines` for the folder). `kind` keeps the pages of one kind, then
    `limit` the first so many; `spread` keeps so many evenly over the rest, for a short run over all kinds. A page
    whose file or truth is unusable is listed with its `problem`. With `truth="pdf"` a PDF page without a truth beside
    it has the text of its text layer, and with `degrade="scan"` pages are opened as if scanned or photographed.
    `truth_encoding` is that of text files beside pages.

    Raises:
        PageError: nothing there, no such kind, a limit below 1, a manifest that is not one, no such encoding.
    """
    for name, value in (("limit", limit), ("spread", spread)):
        if value is not None and value < 1:
            raise PageError(f"{name}={value}: give a whole number of pages from 1 on, or None for all")
    _check_dpi(dpi)
    for name, given, known in (("truth", truth, get_args(Truth)), ("degrade", degrade, get_args(Degrade))):
        if given not in known:
            raise PageError(f"{name}={given!r} is not known; there is {' and '.join(map(repr, known))}")
    pages = _load(source, limit, kind, recursive, dpi, encoding_of(truth_encoding))
    if spread is not None and spread < len(pages):
        pages = [pages[index * len(pages) // spread] for index in range(spread)]
    return [finished(page, truth, degrade) for page in pages]


def finished(page: Page, truth: Truth, degrade: Degrade) -> Page:
    """Return a page with the text of its PDF's text layer, or with the reason why that is no truth, and degraded."""
    if truth == "pdf" and page.truth is None and page.page_number is not None and not page.problem:
        from ocrlab.pages.text_layer import text_layer

        try:
            with page.local() as file:
                text, reason = text_layer(file, page.page_number) if is_pdf(file) else (None, "")
            problem = f"{page.where}: page {page.page_number}: {reason}" if reason else ""
        except PageError as error:
            text, problem = None, str(error)
        page = replace(page, truth=text, truth_source="pdf", problem=problem)
    return page.degraded(degrade)


def expand(listed: bytes, *, dpi: int | None = None, truth_encoding: str = UTF_8) -> list[Page]:
    """Return the pages of the files that a list names, in its order; a file named twice is taken once.

    The list is UTF-8 (UTF-16 with its mark), with one path per line, or with NUL between paths as `find -print0`
    writes it. Empty lines, a byte order mark and CRLF are passed over. A path that is no page becomes a refused page
    that names its line. Ids are paths below the lowest folder that holds all.

    Raises:
        PageError: dpi below 1, no such encoding.
    """
    _check_dpi(dpi)
    named: dict[Path, int] = {}
    for number, name in enumerate(_names(listed), 1):
        if name.strip():
            named.setdefault(Path(os.path.normpath(Path(os.fsdecode(name)).absolute())), number)
    if not named:
        return []
    root, encoding = _root_of(list(named)), encoding_of(truth_encoding)
    pages = files.as_pages(list(named), root, dpi=dpi, encoding=encoding)
    return [_numbered(page, named[page.file]) for page in pages]


def _numbered(page: Page, line: int) -> Page:
    known = page.file.suffix.lower() in files.LISTED
    if known and not page.refused:
        return page
    problem = page.problem if page.refused else f"{page.file}: {files.NO_PAGE}"
    return replace(page, problem=f"line {line} of the list: {problem}", refused=True)


def _names(listed: bytes) -> list[bytes]:
    if listed.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        listed = listed.decode("utf-16", "replace").encode()
    listed = listed.removeprefix(codecs.BOM_UTF8)
    return listed.split(b"\0") if b"\0" in listed else listed.replace(b"\r\n", b"\n").split(b"\n")


def _check_dpi(dpi: int | None) -> None:
    if dpi is not None and dpi < 1:
        raise PageError(f"dpi={dpi}: give a whole number of dots per inch from 1 on; {PDF_DPI} suits most print")


def _root_of(found: Sequence[Path]) -> Path:
    """Return the lowest folder that holds all files, given by absolute paths; the first's where drives differ."""
    try:
        return Path(os.path.commonpath([file.parent for file in found]))
    except ValueError:
        return found[0].parent


def _load(
    source: str | Path, limit: int | None, kind: str | None, recursive: bool, dpi: int | None, encoding: str
) -> list[Page]:
    place = None if is_url(source) else place_of(source)
    if place is not None:
        listed = place / MANIFEST
        if listed.is_file() or (place.suffix.lower() == ".jsonl" and not place.is_dir()):
            return _of_manifest(listed if place.is_dir() else place, limit, kind, encoding)
    if kind is not None:
        raise PageError(f"{source}: its pages have no kinds, so kind={kind!r} keeps none; kinds come from a manifest")
    if str(source).startswith(HUB):
        return hub_pages(str(source), limit)
    if place is None:
        return [*remote.pages_at(str(source), limit=limit, recursive=recursive, dpi=dpi, encoding=encoding)]
    if place.is_dir():
        inside = files.in_folder(place, recursive=recursive)
        return files.as_pages(inside, place, limit=limit, dpi=dpi, encoding=encoding)
    if place.is_file():
        if place.suffix.lower() not in files.LISTED:
            raise PageError(f"{place}: {files.NO_PAGE}, a folder of them, a manifest.jsonl or a set")
        return files.as_pages([place], place.parent, limit=limit, dpi=dpi, encoding=encoding)
    found = [file.absolute() for file in files.by_pattern(str(source))]
    return files.as_pages(found, _root_of(found), limit=limit, dpi=dpi, encoding=encoding)


def is_url(source: str | Path) -> bool:
    """Return whether a source is a URL, and so an object or folder of a store, or a set of the Hub."""
    return isinstance(source, str) and ("://" in source or source.startswith(HUB))


def place_of(source: str | Path) -> Path:
    """Return the folder or file meant, or the pattern as it is.

    Raises:
        PageError: nothing there, or no usable path.
    """
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


def _of_manifest(manifest: Path, limit: int | None, kind: str | None, encoding: str) -> list[Page]:
    entries = _entries(manifest)
    kinds = sorted({entry.get("kind", "") for entry in entries} - {""})
    if kind is not None:
        entries = [entry for entry in entries if entry.get("kind") == kind]
        if not entries:
            raise PageError(f"{manifest}: no page of kind {kind!r}; its kinds are {', '.join(kinds) or 'not given'}")
    folder = manifest.resolve().parent
    ours = folder.parent == paths.PAGES.resolve() and folder.name in OWN_SETS
    return [_as_page(manifest, entry, encoding, hash_needed=ours) for entry in entries[:limit]]


def _entries(manifest: Path) -> list[dict[str, Any]]:
    """Return a manifest's entries, each with at least `id` and `file`; a missing id is the file's name."""
    try:
        text = manifest.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PageError(f"{manifest}: not UTF-8 at byte {error.start:,}; save it as UTF-8") from error
    except OSError as error:
        raise PageError(f"{manifest}: cannot be read ({error.strerror}); check that you may read it") from error
    found: dict[str, dict[str, Any]] = {}
    # Not splitlines: that would also cut at a U+2028 inside a truth.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            entry = _entry(f"{manifest}, line {number}", line)
            if entry["id"] in found:
                raise PageError(f"{manifest}, line {number}: the id {entry['id']!r} is used twice; ids are unique")
            found[entry["id"]] = entry
    if not found:
        raise PageError(f"{manifest}: the manifest is empty; write one JSON object per line")
    return list(found.values())


def _entry(where: str, line: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise PageError(f"{where}: not JSON ({error}); write one object per line") from error
    if not isinstance(entry, dict) or not isinstance(entry.get("file"), str) or not entry["file"]:
        raise PageError(f'{where}: no "file"; each line is an object such as {{"file": "p1.png", "truth": "..."}}')
    for field in _TEXTS:
        if not isinstance(entry.get(field, ""), str) and not (field == "truth" and entry[field] is None):
            raise PageError(f'{where}: "{field}" is {entry[field]!r}; it has to be text in quotes')
    if wrong := facts_problem(entry.get("facts", [])):
        raise PageError(f'{where}: "facts": {wrong}')
    return {"id": entry["file"], **entry}


def _as_page(manifest: Path, entry: dict[str, Any], encoding: str, *, hash_needed: bool) -> Page:
    """Return the entry's page; what is wrong with its file is in `problem`, so that the others go on."""
    file = manifest.parent / entry["file"]
    sha256, problem = "", _outside(manifest, entry["file"])
    if not problem:
        sha256, problem = files.hash_of(file)
    problem = problem or _hash_problem(manifest, file, sha256, entry.get("sha256", ""), hash_needed)
    refused, truth, facts = bool(problem), None, tuple(entry.get("facts", ()))
    if not refused:
        known = (entry["truth"], (), "") if "truth" in entry else truth_beside(file, encoding=encoding)
        truth, facts, problem = known[0], facts or known[1], known[2]
    about = {name: entry.get(name, "") for name in ("language", "kind", "degradation", "font", "licence")}
    name = entry.get("set") or manifest.parent.resolve().name
    return Page(entry["id"], file, sha256, name, truth=truth, facts=facts, problem=problem, refused=refused, **about)


def _outside(manifest: Path, name: str) -> str:
    """Return why the file is not inside the manifest's folder, links followed, or an empty string."""
    where, folder = manifest.parent / MANIFEST, manifest.parent
    try:
        inside = (folder / name).resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError) as error:
        return f"{where}: {name!r} is no usable path ({error}); correct the entry"
    if inside and ".." not in Path(name).parts and not Path(name).is_absolute():
        return ""
    return f"{where}: {name!r} lies outside the manifest's folder; move the file into it and name it from there"


def _hash_problem(manifest: Path, file: Path, found: str, listed: str, needed: bool) -> str:
    if found == listed.lower():
        return ""
    if listed:
        return (
            f"{file}: sha256 {found[:12]}… is not the one in {manifest.name} ({listed[:12]}…): "
            "the file was changed; restore it or renew the entry"
        )
    return f"{manifest}: no sha256 for {file.name}; ours are always checked" if needed else ""
