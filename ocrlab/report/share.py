"""A run as one zip that travels: records and provenance, without what names a person, checked where it arrives."""

from __future__ import annotations

import getpass
import gzip
import hashlib
import io
import json
import re
import socket
import stat
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from ocrlab import paths
from ocrlab.reading.settings import make_settings
from ocrlab.report.evidence import all_readings, picture_name
from ocrlab.report.site import build_site
from ocrlab.scoring.content import FACT_TEXTS, facts_problem
from ocrlab.scoring.outcomes import STATUSES
from ocrlab.study.records import parse_object, parse_records
from ocrlab.study.rereading import dpis_of, pages_by_hash

Anonymise = Callable[[str], str]

MANIFEST = "manifest.json"
FORMAT, SCHEMA = "ocrlab run", 1
# The largest zip that is made or added, and what it may grow to, records unpacked.
MOST_BYTES = 10_000_000
MOST_UNPACKED_BYTES = 150_000_000
MOST_FILES = 2_000
MOST_RATIO = 250  # how many times larger a file may become; a run's own records reach about 40
_LONGEST_TEXT = 100_000
_WORDS = {"stop_reason", "retried"}  # what `measured` holds beside numbers
_READING = {
    **dict.fromkeys(("key", "experiment", "page", "status", "reason", "text", "machine", "page_sha256"), str),
    **dict.fromkeys(("asked", "actual", "measured"), dict),
    "truth": str | None,
}
_NAME = r"[\w(][\w .,()+-]{0,150}"
_EVIDENCE = re.compile(rf"run\.json|(?:readings|findings)/{_NAME}\.jsonl(?:\.gz)?|{_NAME}\.yaml")
# Views of the evidence, for whoever unzips the file by hand. They are made here again, never taken over.
_VIEWS = re.compile(rf"{_NAME}\.html|style\.css|report\.md|rows/{_NAME}\.jsonl(?:\.gz)?")
_FOREIGN = re.compile(rf"notebooks/{_NAME}\.ipynb|figures/{_NAME}\.(?:png|jpg)|pages/{_NAME}\.png")
_RUN = re.compile(r"\w[\w.+-]{0,99}(?<!\.)")
_DATE = (2026, 1, 1, 0, 0, 0)  # one for all, so that the same run gives the same zip

# They name a role and not a person, and are words of page texts and messages.
_ANYBODY = "root user users admin administrator ubuntu debian runner jovyan work home guest localhost localdomain"
_HOMES = re.compile(
    r"""(?:/(?:home|Users|export/home|var/home)/|[A-Za-z]:(?:\\{1,2}|/)Users(?:\\{1,2}|/))[^\s/\\"'<>|:;,]+"""
    r"|(?<![\w/])/root(?![\w-])"
)
# A model's server: in a model_id, and where messages name its API's address. Loopback addresses identify nobody.
_SERVERS = re.compile(
    r"""(endpoint:https?://|https?://(?=[^/\s#"'<>]+/v1\b))(?!127\.|localhost\b|\[::1\])[^/\s#"'<>]+"""
)
# Fields of a reading that hold what a page says: the evidence itself, which only loses home folders.
_PAGE_TEXTS = FACT_TEXTS | {"text", "truth"}


class ShareError(ValueError):
    """A run that cannot be shared, or a zip that cannot be added; the message says what is wrong and what to do."""


def pack_run(run: Path, target: Path, images: Path | None = None, anonymise: Anonymise | None = None) -> Path:
    """Return the zip that was written: `run.json`, readings, findings, presets, and pages drawn from these.

    Home folders, user and host names are taken out of every file first. Images of pages go along only where `images`,
    the folder they lie in, is given; ours are in every checkout and never do.

    Raises:
        ShareError: no run there, a file that cannot be read, nothing to share, or above 10 MB.
    """
    if not (run / "run.json").is_file():
        raise ShareError(f"{run}: no run.json there, so this is no run's folder")
    anonymise = anonymise or anonymiser()
    with tempfile.TemporaryDirectory(prefix="ocrlab-share-") as folder:
        copy = Path(folder) / "results" / run.name
        for name in filter(_EVIDENCE.fullmatch, _names_in(run)):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes(_anonymised(run / name, anonymise))
        if images is not None:
            _copy_images(run, copy / "pages", images)
        build_site(copy)
        files = {name: (copy / name).read_bytes() for name in _names_in(copy)}
    packed = _zip(files | {MANIFEST: manifest(run.name, files)})
    if len(packed) > MOST_BYTES:
        largest = ", ".join(sorted(files, key=lambda name: -len(files[name]))[:3])
        raise ShareError(
            f"{run}: {len(packed):,} bytes as a zip, {MOST_BYTES:,} are allowed; the largest files are {largest}. "
            "Remove what is not needed, or share fewer experiments"
        )
    paths.write_whole(target, packed)
    return target


def unpack_run(file: Path, folder: Path) -> tuple[str, list[str]]:
    """Write a zip's evidence, checked, into an empty folder; return the run's own name and what was passed over.

    Every entry's name, kind and size is checked first. Notebooks and pictures are passed over: nothing of others is
    opened or run, and pages and rows are made from the evidence here.

    Raises:
        ShareError: it is no such zip, or holds what a run does not; the message says what, and what to do.
    """
    try:
        size = file.stat().st_size
        if size > MOST_BYTES:
            raise ShareError(f"{size:,} bytes, a shared run has at most {MOST_BYTES:,}; ask for fewer experiments")
        with zipfile.ZipFile(file) as archive:
            entries = _checked_entries(archive)
            wanted = [e for e in entries if e.filename == MANIFEST or _EVIDENCE.fullmatch(e.filename)]
            files = {entry.filename: _read(archive, entry) for entry in wanted}
        run = _check_manifest(files)
        for name, data in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(_checked(name, data))
    except zipfile.BadZipFile as error:
        raise ShareError(f"{file}: no zip, or a damaged one ({error}); fetch it again") from error
    except OSError as error:
        raise ShareError(f"{file}: cannot be read ({error.strerror or error}); check the path") from error
    except ValueError as error:
        raise ShareError(f"{file}: {error}") from error
    return run, [entry.filename for entry in entries if _FOREIGN.fullmatch(entry.filename)]


def anonymiser(user: str | None = None, hosts: tuple[str, ...] | None = None, home: Path | None = None) -> Anonymise:
    """Return what replaces home folders by `~`, this checkout's path by `CHECKOUT`, user by `USER`, hosts by `HOST`.

    Hosts are this machine, and servers that a model_id names. Names count as whole words in any case; short names and
    those that anybody has (`root`, `ubuntu`) stay, except in a home folder. The defaults are of whoever runs this.
    """
    try:
        user = getpass.getuser() if user is None else user
    except (OSError, KeyError):
        user = ""  # a container's number without a name
    hosts = (socket.gethostname(), socket.gethostname().split(".")[0]) if hosts is None else hosts
    places = {str(home or Path.home()): "~", str(paths.ROOT): "CHECKOUT"}
    places |= {place.replace("\\", "\\\\"): word for place, word in places.items()}
    names = [*((host, "HOST") for host in sorted(set(hosts), key=len, reverse=True)), (user, "USER")]
    telling = [(name, word) for name, word in names if len(name) > 2 and name.lower() not in _ANYBODY.split()]
    longest = sorted((place for place in places if len(place) > 1), key=len, reverse=True)
    rules = [
        *((re.compile(re.escape(place) + r"(?![\w-])"), places[place]) for place in longest),
        (_HOMES, "~"),
        (_SERVERS, r"\1HOST"),
        *((re.compile(rf"(?<![^\W_]){re.escape(n)}(?![^\W_])", re.IGNORECASE), word) for n, word in telling),
    ]

    def anonymise(text: str) -> str:
        for pattern, word in rules:
            text = pattern.sub(word, text)
        return text

    return anonymise


def anonymise_all(value: Any, anonymise: Anonymise, page_texts: frozenset[str] = frozenset()) -> Any:
    """Return JSON with every text anonymised, names of fields included; `page_texts` lose home folders only."""
    if isinstance(value, dict):
        return {
            anonymise(str(name)): _HOMES.sub("~", item)
            if name in page_texts and isinstance(item, str)
            else anonymise_all(item, anonymise, page_texts)
            for name, item in value.items()
        }
    if isinstance(value, list):
        return [anonymise_all(item, anonymise, page_texts) for item in value]
    return anonymise(value) if isinstance(value, str) else value


def manifest(run: str, files: Mapping[str, bytes]) -> bytes:
    """Return the manifest: format, schema, the run's name, and each file's sha256."""
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())}
    return _as_json({"format": FORMAT, "schema": SCHEMA, "run": run, "files": hashes})


def _names_in(folder: Path) -> list[str]:
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())


def _as_json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def _anonymised(file: Path, anonymise: Anonymise) -> bytes:
    data = file.read_bytes()
    try:
        if file.suffix == ".json":
            return _as_json(anonymise_all(parse_object(data), anonymise))
        if file.suffix == ".yaml":
            return anonymise(data.decode()).encode()
        plain = gzip.decompress(data) if file.suffix == ".gz" else data
        spared = _PAGE_TEXTS if file.parent.name == "readings" else frozenset()
        text = b""
        for _, record in parse_records(plain):
            if isinstance(record, ValueError):
                raise record
            text += (json.dumps(anonymise_all(record, anonymise, spared), ensure_ascii=False) + "\n").encode()
    except (ValueError, OSError, EOFError) as error:
        raise ShareError(f"{file}: {error}; mend or remove it, then share again") from error
    return gzip.compress(text, mtime=0) if file.suffix == ".gz" else text


def _copy_images(run: Path, target: Path, images: Path) -> None:
    """Write the pages that were read as PNG without their metadata, found in `images` by their hashes."""
    readings = all_readings(run)
    wanted = {reading.get("page_sha256") for reading in readings}
    found = {sha256: page for sha256, page in pages_by_hash([images], dpis_of(readings)).items() if sha256 in wanted}
    if not found:
        raise ShareError(
            f"{images}: holds none of this run's pages (their sha256 are in readings/); give the folder that was read, "
            "or share without images"
        )
    target.mkdir(parents=True, exist_ok=True)
    for sha256, page in found.items():
        page.open().save(target / picture_name(sha256), "PNG", optimize=True)


def _zip(files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, data in files.items():
            info = zipfile.ZipInfo(name, _DATE)
            info.external_attr = 0o644 << 16
            archive.writestr(info, data, zipfile.ZIP_DEFLATED, compresslevel=9)
    return packed.getvalue()


def _checked_entries(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """Return the zip's files after every entry's name, kind and size were found to be in order."""
    entries = archive.infolist()
    if len(entries) > MOST_FILES:
        raise ShareError(f"{len(entries):,} files, a run has at most {MOST_FILES:,}")
    spellings = Counter(entry.filename.lower().removesuffix(".gz") for entry in entries)
    for entry in entries:
        _check_entry(entry)
        if spellings[entry.filename.lower().removesuffix(".gz")] > 1:
            raise ShareError(f"{entry.filename[:120]!r} is in it twice (or in two spellings)")
    if sum(entry.file_size for entry in entries) > MOST_UNPACKED_BYTES:
        raise ShareError(f"it unpacks to more than {MOST_UNPACKED_BYTES:,} bytes: a zip bomb, or no run of ours")
    return [entry for entry in entries if not entry.is_dir()]


def _check_entry(entry: zipfile.ZipInfo) -> None:
    name, bomb = entry.filename, f"unpacks to {entry.file_size:,} bytes from {entry.compress_size:,}: a zip bomb"
    outside = re.match(r"[/\\]|[A-Za-z]:", name) or "\\" in name or ".." in name.split("/")
    known = name == MANIFEST or entry.is_dir() or any(kind.fullmatch(name) for kind in (_EVIDENCE, _VIEWS, _FOREIGN))
    for bad, words in (
        (outside, "would be written outside the run's folder"),
        (stat.S_ISLNK(entry.external_attr >> 16), "is a link"),
        (entry.flag_bits & 0x1, "is encrypted"),
        (
            entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED),
            "has a compression `share` does not use",
        ),
        (not known, "is none of the kinds of file that a shared run has"),
        (entry.file_size > MOST_RATIO * max(entry.compress_size, 1_000), bomb),
    ):
        if bad:
            raise ShareError(f"{name[:120]!r} {words}; do not use this zip")


def _read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    try:
        with archive.open(entry) as opened:
            data = opened.read(entry.file_size + 1)  # what an entry says of its size is a claim, too
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, ValueError) as error:
        raise ShareError(f"{entry.filename!r} cannot be unpacked ({error}); fetch the zip again") from error
    if len(data) != entry.file_size:
        raise ShareError(f"{entry.filename!r} has another size than the zip says; fetch the zip again")
    return data


def _check_manifest(files: dict[str, bytes]) -> str:
    """Take the manifest out of the files, check them against it, and return the run's name."""
    if not {MANIFEST, "run.json"} <= files.keys():
        raise ShareError(f"no {MANIFEST} or no run.json in it; make the zip with `make share RUN=…`")
    said = parse_object(files.pop(MANIFEST))
    if (said.get("format"), said.get("schema")) != (FORMAT, SCHEMA) or not isinstance(said.get("files"), dict):
        raise ShareError(f"{MANIFEST} is not that of a shared run with schema {SCHEMA}; update ocrlab here, or there")
    listed = {name: sha256 for name, sha256 in said["files"].items() if _EVIDENCE.fullmatch(name)}
    for name in sorted(listed.keys() | files.keys()):
        if name not in files or hashlib.sha256(files[name]).hexdigest() != listed.get(name):
            raise ShareError(f"{name!r} is not what its {MANIFEST} says: absent, added or changed; fetch the zip again")
    run = said.get("run")
    if not isinstance(run, str) or not _RUN.fullmatch(run):
        raise ShareError("its run has no usable name; give one with --as NAME")
    return run


def _checked(name: str, data: bytes) -> bytes:
    """Return what is kept of a file: records checked line by line, presets and `run.json` written anew."""
    try:
        if name == "run.json":
            return _checked_run(data)
        return _checked_preset(data) if name.endswith(".yaml") else _checked_records(name, data)
    except ValueError as error:
        raise ShareError(f"{name!r}: {error}") from error


def _checked_records(name: str, data: bytes) -> bytes:
    for number, line in enumerate((_gunzip(data) if name.endswith(".gz") else data).split(b"\n"), 1):
        if line.strip():
            try:
                record = _object(line, _READING if name.startswith("readings/") else {})
                if name.startswith("readings/"):
                    _check_reading(record)
            except ValueError as error:
                raise ShareError(f"line {number}: {error}; update ocrlab, or ask whoever made it") from error
    return data


def _check_reading(record: dict[str, Any]) -> None:
    """Refuse a reading with values that the other parts do not expect."""
    if any(isinstance(value, str) and len(value) > _LONGEST_TEXT for value in record.values()):
        raise ShareError(f"it holds a text of more than {_LONGEST_TEXT:,} letters")
    if odd := [field for field in ("key", "experiment", "page") if not record[field].isprintable()]:
        raise ShareError(f"its {odd[0]!r} holds control characters")
    if record["status"] not in STATUSES:
        raise ShareError(f"status {record['status'][:40]!r} is not one of {', '.join(STATUSES)}")
    numbers = [record.get(field, 1) for field in ("page_number", "leaf", "dpi")]  # `leaf` in earlier versions
    if any(type(number) is not int or number < 1 for number in numbers):
        raise ShareError("its 'page_number' or 'dpi' is no whole number from 1 on")
    if wrong := facts_problem(record.get("facts", [])):
        raise ShareError(f"its 'facts': {wrong}")
    make_settings(record["asked"])
    if not {"min_new_tokens", "weights"} <= record["asked"].keys():
        raise ShareError("its 'asked' lacks settings")
    if any(isinstance(v, str | list | dict) for k, v in record["measured"].items() if k not in _WORDS):
        raise ShareError("its 'measured' holds what is no number")


def _checked_preset(data: bytes) -> bytes:
    try:
        values = yaml.safe_load(data.decode())
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ShareError(f"no preset ({str(error)[:80]})") from error
    if not isinstance(values, dict):
        raise ShareError("a preset holds `name: value` lines")
    settings = make_settings(values)
    if settings.trust_remote_code:
        raise ShareError("a preset that trusts a repository's code; such a choice is not taken from others")
    comments = [line for line in data.decode().splitlines() if line.startswith("#") and line.isprintable()]
    return "\n".join([*comments, settings.to_yaml()]).encode()


def _checked_run(data: bytes) -> bytes:
    record = _object(data, {"run": str, "notebooks": dict, "versions": dict, "machine": dict})
    if not all(isinstance(entry, dict) for entry in record["notebooks"].values()):
        raise ShareError("'notebooks' holds what is no object")
    return _as_json(record)


def _object(text: bytes, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON object that has these fields, each of its type."""
    record = parse_object(text)
    for field, kind in fields.items():
        if not isinstance(record.get(field), kind):
            raise ShareError(f"{field!r} is missing or of another kind")
    return record


def _gunzip(data: bytes) -> bytes:
    unpack = zlib.decompressobj(wbits=31)
    try:
        found = unpack.decompress(data, MOST_UNPACKED_BYTES)
    except zlib.error as error:
        raise ShareError(f"damaged gzip ({error})") from error
    if not unpack.eof or unpack.unused_data:
        raise ShareError(f"its gzip is damaged or unpacks to more than {MOST_UNPACKED_BYTES:,} bytes")
    return found
