"""Append-only readings of a run, flushed to the disk one by one; rows and scores are derived from them here alone."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ocrlab import paths
from ocrlab.machine.describe import machine_name, versions
from ocrlab.pages import Page
from ocrlab.reading.result import READING_VERSION
from ocrlab.reading.settings import Settings, make_settings
from ocrlab.scoring.clean import clean
from ocrlab.scoring.metrics import normalise, score
from ocrlab.scoring.outcomes import LOST, WITH_TEXT, is_repeated

if TYPE_CHECKING:
    import pandas as pd

    from ocrlab.reading.isolated import PageResult

_RENAMED = {"leaf": "page_number"}  # fields of records that earlier versions wrote
_LATER = {"system_prompt"}  # settings that earlier versions lacked: where None, the key is as it was
#: What a row may say of a text that no status does.
FLAGS = ("repeated", "copied", "text_on_blank")
_COPY_LETTERS = 20  # shorter texts are the same on different pages by chance
_OPTIONAL = {"do_sample", "num_beams", "repetition_penalty", "no_repeat_ngram_size"}

GOES_ON = "Free space or choose a writable folder, then run the same command again: it goes on from here"


class RecordError(ValueError):
    """A record file that cannot be read or written; the message names the file and the remedy."""


class RecordFile:
    """One JSONL file of dicts with a `key`; of one key the last record counts."""

    def __init__(self, file: Path) -> None:
        self.file = file
        packed = _packed(file)
        if packed.exists() and not file.exists():
            paths.write_whole(file, gzip.decompress(packed.read_bytes()))
            packed.unlink()
        found = read_records(file, repair=True) if file.exists() else []
        self.by_key: dict[str, dict[str, Any]] = {record["key"]: record for record in found}
        self._forgets = False

    @property
    def records(self) -> list[dict[str, Any]]:
        """Return what the file holds, in order."""
        return list(self.by_key.values())

    def forget_records(self) -> None:
        """Hold the keys alone from now on: memory then stays flat over any number of records."""
        self._forgets = True
        self.by_key = {key: {} for key in self.by_key}

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
                f"{self.file}: cannot be written ({error.strerror}); {len(self.by_key)} records before it are kept. "
                f"{GOES_ON}"
            ) from error
        self.by_key[record["key"]] = {} if self._forgets else record


def read_records(file: Path, *, repair: bool = False) -> list[dict[str, Any]]:
    """Return a JSONL file's records; `repair` cuts off a last line that a killed process left unfinished.

    Raises:
        RecordError: a line that holds no record; the message names file and line.
    """
    try:
        data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise RecordError(f"{file}: cannot be unpacked ({error}); fetch it again or remove it") from error
    whole, newline, rest = data.rpartition(b"\n")
    if rest and repair:
        os.truncate(file, len(whole) + len(newline))
    records = {}
    for number, record in parse_records(whole):
        if isinstance(record, ValueError):
            raise RecordError(f"{file}: line {number} is {record}; remove that line")
        records[repr(record.get("key", number))] = record
    return list(records.values())


def parse_records(data: bytes) -> Iterator[tuple[int, dict[str, Any] | ValueError]]:
    """Yield the number and the record of each line of JSONL; an error that says what it is where it holds none."""
    for number, line in enumerate(data.split(b"\n"), 1):
        if line.strip():
            try:
                yield number, parse_object(line)
            except ValueError as error:
                yield number, error


def parse_object(text: bytes) -> dict[str, Any]:
    """Return a JSON object without NaN or infinities; raises ValueError that says what the text is instead."""

    def refuse(word: str) -> Any:
        raise ValueError(f"{word} is no JSON number")

    try:
        found = json.loads(text.decode(), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        words = "its text is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)[:80]
        raise ValueError(f"not JSON ({words})") from error
    if not isinstance(found, dict):
        raise ValueError("no object")
    return found


def record_files(folder: Path, name: str = "*") -> list[Path]:
    """Return a folder's record files, packed or not, by name."""
    return sorted([*folder.glob(f"{name}.jsonl"), *folder.glob(f"{name}.jsonl.gz")])


def pack_records(run: Path) -> None:
    """Compress a finished run's readings and findings, which say the same settings on every line, to a twentieth.

    They are unpacked again when the run goes on. The same records give the same bytes.
    """
    for file in [file for part in ("readings", "findings") for file in (run / part).glob("*.jsonl")]:
        paths.write_whole(_packed(file), gzip.compress(file.read_bytes(), mtime=0))
        file.unlink()


def _packed(file: Path) -> Path:
    return file.with_name(file.name + ".gz")


def code_version() -> str:
    """Return READING_VERSION and the versions of torch and transformers, in words: what reads, beside the weights."""
    here = versions()
    return f"reading {READING_VERSION}, torch {here.get('torch')}, transformers {here.get('transformers')}"


def row_key(settings: Settings, page: Page, checkpoint: str, repeat: int) -> str:
    """Return what makes a reading the same: settings, the page's bytes, weights, `code_version`, repetition."""
    asked = {name: value for name, value in settings.as_dict().items() if name not in _LATER or value is not None}
    parts = [asked, page.id, page.sha256, checkpoint, code_version(), repeat]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


def reading_record(
    experiment: str, key: str, settings: Settings, page: Page, seen: PageResult, repeat: int = 0
) -> dict[str, Any]:
    """Return everything about one reading but its scores, ready for JSON; `page_number`, `dpi` only inside a file.

    Truth and facts go along with each text: rows are made of records alone, on any machine.
    """
    about = (
        "set",
        "kind",
        "language",
        "degradation",
        "truth",
        "truth_source",
        *(name for name in ("page_number", "dpi") if page.page_number and getattr(page, name)),
        *(("degrade",) if page.degrade else ()),
        *(("facts",) if page.facts else ()),
    )
    return {
        "key": key,
        "experiment": experiment,
        "page": page.id,
        **{name: getattr(seen.reading, name) for name in ("text", "status", "reason")},
        "asked": settings.as_dict(),
        "actual": seen.actual,
        "measured": seen.reading.measured(),
        "load_s": seen.load_s,
        "repeat": repeat,
        **{name: getattr(page, name) for name in about},
        "page_sha256": page.sha256,
        "code": code_version(),
        "machine": machine_name(),
        "time_utc": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def row_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the flat row of a reading record, scored where there is a truth, or facts.

    A page that was lost (`LOST`) is scored as an empty text: it costs its letters, and a loop no more than these.
    Forced length (`min_new_tokens`) measures speed and dummy weights read nothing: their quality columns stay empty. Of
    what was read, `removed_characters` counts what the model wrote around the page's text; `repeated` says that an
    ended text repeats a passage or itself, `text_on_blank` that the page has none; `copied` takes `rows_of`.
    """
    row, truth = flat_row(record) | dict.fromkeys(FLAGS, False), record.get("truth")
    truth, facts = truth if isinstance(truth, str) else None, record.get("facts", ())
    if not _reads(record):
        return row | score("", truth, facts=facts) if _reads(record, LOST) else row
    cleaned = clean(record["text"])
    blank = bool(row.get("blank")) if truth is None else not truth.strip()
    row |= {
        "removed_characters": cleaned.removed_characters,
        "repeated": record["status"] == "ok" and is_repeated(cleaned.text, truth),
        "text_on_blank": blank and bool(cleaned.text.strip()),
    }
    ended = record["status"] not in ("loop", "truncated")
    return row | score(record["text"], truth, ended, facts)


def asks_to_read(asked: Mapping[str, Any]) -> bool:
    """Return whether settings are about reading: real weights and natural length; others measure speed and memory."""
    return asked.get("min_new_tokens") is None and asked.get("weights") == "pretrained"


def _reads(record: Mapping[str, Any], statuses: Sequence[str] = WITH_TEXT) -> bool:
    return asks_to_read(record["asked"]) and record["status"] in statuses


def rows_of(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of all records of a table, as `row_of` has them, and which texts are `copied`."""
    records = list(records)
    return [row_of(record) | {"copied": copy} for record, copy in zip(records, copied(records), strict=True)]


def copied(records: Sequence[Mapping[str, Any]]) -> list[bool]:
    """Return for each record whether its text is that of another page too, read with the same setting.

    The text has 20 characters or more, the two images differ, and so do the truths where both are known; a text that is
    its page's truth is no copy.
    """
    same: dict[tuple[str, str, str], list[int]] = {}
    for number, record in enumerate(records):
        if _reads(record) and len(text := normalise(clean(record["text"]).text)) >= _COPY_LETTERS:
            setting = json.dumps(record["asked"], sort_keys=True)
            same.setdefault((record["experiment"], setting, text), []).append(number)
    found = [False] * len(records)
    for (_, _, text), numbers in same.items():
        for number in numbers if len(numbers) > 1 else ():
            one, others = records[number], (records[other] for other in numbers)
            found[number] = _words(one.get("truth")) != text and any(_another_page(one, other) for other in others)
    return found


def _another_page(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    truth = _words(one.get("truth"))
    return one["page_sha256"] != other["page_sha256"] and (truth is None or truth != _words(other.get("truth")))


def _words(truth: Any) -> str | None:
    return normalise(truth) if isinstance(truth, str) else None


def flat_row(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was asked, actual and measured of a reading side by side, without texts and scores."""
    hidden = {"asked", "actual", "measured", "text", "truth", "facts"}
    row = {_RENAMED.get(k, k): v for k, v in record.items() if k not in hidden}
    return row | record["asked"] | record["actual"] | record["measured"]


def setting_label(values: dict[str, Any]) -> str:
    """Return a short name of a setting: what differs from the defaults."""
    changed = make_settings(values).changed()
    return ", ".join(f"{name}={value}" for name, value in changed.items()) or "defaults"


def load_rows(run: Path, experiment: str | None = None) -> pd.DataFrame:
    """Return a run's rows as a table, one line per reading, scored here; all experiments unless one is named.

    Raises:
        RecordError: a damaged file; the message names it and the line.
    """
    import pandas as pd

    return pd.DataFrame(rows_of(readings_in(run, experiment or "*")))


def readings_in(run: Path, experiment: str = "*") -> list[dict[str, Any]]:
    """Return the readings of a run's folder, of all experiments unless one is named; raises RecordError."""
    return [record for file in record_files(run / "readings", experiment) for record in read_records(file)]


def settings_of(row: Mapping[Any, Any] | pd.Series) -> Settings:
    """Return the settings that a table's row was read with; what it does not hold, and the seed, are the defaults."""
    values: dict[str, Any] = {}
    for name in (name for name in Settings().as_dict() if name != "seed" and name in row):
        value = row[name].item() if hasattr(row[name], "item") else row[name]
        if value is None or value != value:
            values |= {name: None} if name in _OPTIONAL else {}
        elif isinstance(value, float) and name not in {"temperature", "top_p", "repetition_penalty"}:
            values[name] = round(value)  # a table makes floats of whole numbers where one is missing
        else:
            values[name] = value
    return make_settings(values)


def keep_findings(name: str, found: Iterable[Mapping[str, Any]], folder: Path | None = None) -> pd.DataFrame:
    """Write the lines to the run's `findings/<name>.jsonl`, each with machine and versions, and return them as a table.

    Findings are about the machine as it is now: an earlier file of that name is replaced. Where `found` breaks off, as
    at Ctrl-C, the lines that it gave by then are written.
    """
    import pandas as pd

    def plain(value: Any) -> Any:
        return None if isinstance(value, float) and math.isnan(value) else value

    here = {key: value for key, value in versions().items() if key in {"python", "torch", "transformers"}}
    file = (folder or paths.run_folder()) / "findings" / f"{name}.jsonl"
    lines: list[dict[str, Any]] = []
    whole = False
    try:
        lines.extend({k: plain(v) for k, v in line.items()} | {"machine": machine_name()} | here for line in found)
        whole = True
    finally:
        if whole or lines:
            file.parent.mkdir(parents=True, exist_ok=True)
            text = "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines)
            paths.write_whole(file, text.encode())
            _packed(file).unlink(missing_ok=True)  # what a finished run packed
    return pd.DataFrame(lines)


def load_findings(name: str, folder: Path | None = None) -> pd.DataFrame:
    """Return a run's findings of a name as a table; empty where there are none.

    Raises:
        RecordError: the file is damaged; the message names it and the line.
    """
    import pandas as pd

    files = record_files((folder or paths.run_folder()) / "findings", name)
    return pd.DataFrame([line for file in files for line in read_records(file)])
