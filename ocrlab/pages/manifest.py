"""Pages from a `manifest.jsonl`: one JSON object a line, every file inside the manifest's folder, hashes checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ocrlab.pages.errors import PageError
from ocrlab.pages.files import hash_of
from ocrlab.pages.page import Page
from ocrlab.pages.truth import truth_beside

NAME = "manifest.jsonl"
_TEXTS = ("id", "file", "sha256", "set", "language", "kind", "degradation", "font", "truth", "licence")


def entries(manifest: Path) -> list[dict[str, Any]]:
    """Return the manifest's entries, each with at least `id` and `file`; a missing id is the file's name.

    Raises:
        PageError: unreadable, not UTF-8, not JSON, wrong fields, a duplicate id; file and line are named.
    """
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
        raise PageError(f"{manifest}: the manifest is empty; write one JSON object a line")
    return list(found.values())


def _entry(where: str, line: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise PageError(f"{where}: not JSON ({error}); write one object a line") from error
    if not isinstance(entry, dict) or not isinstance(entry.get("file"), str) or not entry["file"]:
        raise PageError(f'{where}: no "file"; each line is an object such as {{"file": "p1.png", "truth": "..."}}')
    for field in _TEXTS:
        if not isinstance(entry.get(field, ""), str) and not (field == "truth" and entry[field] is None):
            raise PageError(f'{where}: "{field}" is {entry[field]!r}; it has to be text in quotes')
    return {"id": entry["file"], **entry}


def as_page(manifest: Path, entry: dict[str, Any], *, hash_needed: bool) -> Page:
    """Return the entry's page; what is wrong with its file stands in `problem`, so that the others go on."""
    folder = manifest.parent
    file = folder / entry["file"]
    sha256, problem = "", _outside(folder, entry["file"])
    if not problem:
        sha256, problem = hash_of(file)
    if not problem:
        problem = _hash_problem(manifest, file, sha256, entry.get("sha256", ""), hash_needed)
    refused = bool(problem)
    truth = entry.get("truth")
    if not refused and "truth" not in entry:
        truth, problem = truth_beside(file)
    told = {key: entry.get(key, "") for key in ("language", "kind", "degradation", "font", "licence")}
    return Page(
        id=entry["id"], file=file, sha256=sha256, set=entry.get("set") or folder.resolve().name,
        truth=None if refused else truth, problem=problem, refused=refused, **told,
    )  # fmt: skip


def _outside(folder: Path, name: str) -> str:
    """Return why the file is not inside the manifest's folder, links followed, or an empty string."""
    try:
        inside = (folder / name).resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError) as error:
        return f"{folder / NAME}: {name!r} is no usable path ({error}); correct the entry"
    if inside and ".." not in Path(name).parts and not Path(name).is_absolute():
        return ""
    return f"{folder / NAME}: {name!r} lies outside the manifest's folder; move the file into it and name it from there"


def _hash_problem(manifest: Path, file: Path, found: str, listed: str, needed: bool) -> str:
    if found == listed.lower():
        return ""
    if listed:
        return (
            f"{file}: sha256 {found[:12]}… is not the one in {manifest.name} ({listed[:12]}…): "
            "the file was changed; restore it or renew the entry"
        )
    return f"{manifest}: no sha256 for {file.name}; ours are always checked" if needed else ""
