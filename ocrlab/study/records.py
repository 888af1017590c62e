"""Append-only JSONL that survives a killed process: every record is flushed to the disk before the next begins."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

GOES_ON = "Free space or choose a writable folder, then run the same command again: it goes on from here"


class RecordError(ValueError):
    """A record file that cannot be read or written; the message names the file and the remedy."""


class RecordFile:
    """One JSONL file of dicts with a `key`; `records` holds what it has, in order."""

    def __init__(self, file: Path) -> None:
        self.file = file
        packed = _packed(file)
        if packed.exists() and not file.exists():
            part = file.with_suffix(".part")
            part.write_bytes(gzip.decompress(packed.read_bytes()))
            part.replace(file)
            packed.unlink()
        self.records: list[dict[str, Any]] = read_records(file, repair=True) if file.exists() else []
        self.keys = {record["key"] for record in self.records}
        self._forgets = False

    def forget_records(self) -> None:
        """Hold the keys alone from now on: memory then stays flat over any number of records."""
        self._forgets = True
        self.records.clear()

    def append(self, record: dict[str, Any]) -> None:
        """Add one record and wait until it is on the disk.

        Raises:
            RecordError: the folder is read-only or the disk is full; a half-written line is taken back.
        """
        line = (json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n").encode()
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("ab", buffering=0) as file:
                end = file.tell()
                try:
                    left = memoryview(line)
                    while left:
                        left = left[file.write(left) :]
                    os.fsync(file.fileno())
                except OSError:
                    file.truncate(end)
                    raise
        except OSError as error:
            raise RecordError(
                f"{self.file}: cannot be written ({error.strerror}); {len(self.keys)} records before it are kept. "
                f"{GOES_ON}"
            ) from error
        if not self._forgets:
            self.records.append(record)
        self.keys.add(record["key"])


def read_records(file: Path, *, repair: bool = False) -> list[dict[str, Any]]:
    """Return a JSONL file's records; `repair` cuts off a last line that a killed process left unfinished.

    Raises:
        RecordError: a line that is not JSON; the message names file and line.
    """
    data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    whole, newline, rest = data.rpartition(b"\n")
    if rest and repair:
        os.truncate(file, len(whole) + len(newline))
    records = []
    for number, line in enumerate(whole.split(b"\n"), 1):
        if line.strip():
            try:
                records.append(json.loads(line))
            except ValueError as error:
                raise RecordError(f"{file}: line {number} is not JSON ({error}); remove that line") from error
    return records


def record_files(folder: Path, name: str = "*") -> list[Path]:
    """Return a folder's record files, packed or not, by name."""
    return sorted([*folder.glob(f"{name}.jsonl"), *folder.glob(f"{name}.jsonl.gz")])


def pack_records(run: Path) -> None:
    """Compress a finished run's readings and rows, which say the same settings on every line, to a twentieth.

    They are unpacked again when the run goes on. The same records give the same bytes.
    """
    for file in [file for part in ("readings", "rows", "findings") for file in (run / part).glob("*.jsonl")]:
        part = file.with_suffix(".part")
        part.write_bytes(gzip.compress(file.read_bytes(), mtime=0))
        part.replace(_packed(file))
        file.unlink()


def _packed(file: Path) -> Path:
    return file.with_name(file.name + ".gz")
