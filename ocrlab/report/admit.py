"""A run from elsewhere: its zip looked at before anything is unpacked, each file checked, nothing of it trusted."""

from __future__ import annotations

import hashlib
import re
import stat
import zipfile
import zlib
from pathlib import Path
from typing import Any

from ocrlab.report import parcel
from ocrlab.report.contents import clean
from ocrlab.report.parcel import MANIFEST, ParcelError, kept, parse_strictly, rebuilt

_RUN = re.compile(r"\w[\w.+-]{0,99}(?<!\.)")


def unpack_run(file: Path, folder: Path) -> str:
    """Write a zip's evidence, checked and cleaned, into an empty folder; return the run's own name.

    Its pages are not unpacked: they are built from the evidence. Nor are rows, which are scored from the readings.

    Raises:
        ParcelError: it is no such zip, or holds what a run does not; the message says what, and what to do.
    """
    try:
        size = file.stat().st_size
        if size > parcel.MOST_BYTES:
            raise ParcelError(
                f"{size:,} bytes, a shared run has at most {parcel.MOST_BYTES:,}; ask for fewer experiments"
            )
        with zipfile.ZipFile(file) as archive:
            files = _read(archive)
    except OSError as error:
        raise ParcelError(f"{file}: cannot be read ({error.strerror or error}); check the path") from error
    except zipfile.BadZipFile as error:
        raise ParcelError(f"{file}: no zip, or a damaged one ({error}); fetch it again") from error
    except ParcelError as error:
        raise ParcelError(f"{file}: {error}") from error
    try:
        run = _check_manifest(files)
        for name in files:
            if kept(name):
                cleaned = clean(name, files[name])
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(cleaned)
    except ParcelError as error:
        raise ParcelError(f"{file}: {error}") from error
    return run


def _read(archive: zipfile.ZipFile) -> dict[str, bytes]:
    """Return the files by name, after every entry's name, kind and size were found to be in order."""
    entries = archive.infolist()
    if len(entries) > parcel.MOST_FILES:
        raise ParcelError(f"{len(entries):,} files, a run has at most {parcel.MOST_FILES:,}")
    seen: set[str] = set()
    for entry in entries:
        _check_entry(entry)
        plain = entry.filename.lower().removesuffix(".gz")
        if plain in seen:
            raise ParcelError(f"{_shown(entry.filename)} is in it twice (or in two spellings)")
        seen.add(plain)
    if sum(entry.file_size for entry in entries) > parcel.MOST_UNPACKED_BYTES:
        raise ParcelError(
            f"it unpacks to more than {parcel.MOST_UNPACKED_BYTES:,} bytes: a zip bomb, or no run of ours"
        )
    files, total = {}, 0
    for entry in entries:
        if entry.is_dir():
            continue
        try:
            with archive.open(entry) as opened:
                data = opened.read(entry.file_size + 1)  # what an entry says of its size is a claim, too
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, ValueError) as error:
            raise ParcelError(f"{_shown(entry.filename)} cannot be unpacked ({error}); fetch the zip again") from error
        total += len(data)
        if len(data) != entry.file_size or total > parcel.MOST_UNPACKED_BYTES:
            raise ParcelError(f"{_shown(entry.filename)} has another size than the zip says")
        files[entry.filename] = data
    return files


def _check_entry(entry: zipfile.ZipInfo) -> None:
    name, shown = entry.filename, _shown(entry.filename)
    if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name) or "\\" in name or ".." in name.split("/"):
        raise ParcelError(f"{shown} would be written outside the run's folder; do not use this zip")
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise ParcelError(f"{shown} is a link; a run holds plain files only")
    if entry.flag_bits & 0x1:
        raise ParcelError(f"{shown} is encrypted; a shared run is not")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ParcelError(f"{shown} is packed in a way that `share` does not use")
    if name != MANIFEST and not entry.is_dir() and not kept(name) and not rebuilt(name):
        raise ParcelError(f"{shown} is none of the kinds of file that a run has: records, notebooks, PNG and JPEG "
                          "figures, presets, pages of the site. Programs have no place in it")  # fmt: skip
    if entry.file_size > parcel.MOST_RATIO * max(entry.compress_size, 1_000):
        raise ParcelError(f"{shown} unpacks to {entry.file_size:,} bytes from {entry.compress_size:,}: a zip bomb")


def _check_manifest(files: dict[str, bytes]) -> str:
    if MANIFEST not in files:
        raise ParcelError(f"no {MANIFEST} in it; make the zip with `make share RUN=…`")
    try:
        told: Any = parse_strictly(files.pop(MANIFEST))
    except ParcelError as error:
        raise ParcelError(f"{MANIFEST}: {error}") from error
    if not isinstance(told, dict) or told.get("format") != parcel.FORMAT or not isinstance(told.get("files"), dict):
        raise ParcelError(f"{MANIFEST} is not that of a shared run; make the zip with `make share RUN=…`")
    if told.get("schema") != parcel.SCHEMA:
        raise ParcelError(f"its schema is {str(told.get('schema'))[:20]}, this version reads {parcel.SCHEMA}; "
                          "update ocrlab, or ask for a zip made with this version")  # fmt: skip
    if extra := sorted(files.keys() - told["files"].keys()):
        raise ParcelError(f"{_shown(extra[0])} is not in its {MANIFEST}; someone added it")
    if missing := sorted(told["files"].keys() - files.keys()):
        raise ParcelError(f"{_shown(missing[0])} is in its {MANIFEST} but not in the zip; fetch it again")
    for name, data in files.items():
        if hashlib.sha256(data).hexdigest() != told["files"][name]:
            raise ParcelError(f"{_shown(name)} is not what its {MANIFEST} says (sha256); it was changed or damaged")
    run = told.get("run")
    if not isinstance(run, str) or not _RUN.fullmatch(run):
        raise ParcelError("its run has no usable name; give one with --as NAME")
    return run


def _shown(name: str) -> str:
    """Return a name from the zip as a terminal may see it."""
    return repr(name[:120])
