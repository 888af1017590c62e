"""One file of a run from elsewhere: what it must be, and what is kept of it."""

from __future__ import annotations

import gzip
import io
import json
import warnings
from typing import Any

import nbformat
import yaml
from PIL import Image

from ocrlab.reading.settings import SettingError, make_settings
from ocrlab.report.body import LINK
from ocrlab.report.parcel import MOST_UNPACKED_BYTES, ParcelError, gunzip, parse_strictly
from ocrlab.report.sanitise import sanitise
from ocrlab.scoring.outcomes import STATUSES
from ocrlab.study.records import parse_records

_MOST_PIXELS = 40_000_000
_LONGEST_TEXT = 100_000
_NAMES = ("key", "experiment", "page", "status")
_TEXTS = (*_NAMES, "reason", "text", "machine", "page_sha256")
# What an output may be: shown as text, as a picture, or as HTML that is sanitised here.
_OUTPUTS = ("image/png", "image/jpeg", "text/html", "text/markdown", "text/latex", "text/plain")


def clean(name: str, data: bytes) -> bytes:
    """Return what is kept of a file: records checked line by line, figures encoded again, notebooks' HTML sanitised.

    Raises:
        ParcelError: it is not what its name says; the message names it.
    """
    try:
        if name.endswith((".jsonl", ".jsonl.gz")):
            return _records(name.partition("/")[0], data, packed=name.endswith(".gz"))
        if name.endswith((".png", ".jpg")):
            return _picture(data, "PNG" if name.endswith(".png") else "JPEG")
        if name.endswith(".ipynb"):
            return _notebook(data)
        if name.endswith(".yaml"):
            return _preset(data)
        return _record_of_run(data)
    except (ParcelError, SettingError) as error:
        raise ParcelError(f"{name!r}: {error}") from error


def _records(kind: str, data: bytes, packed: bool) -> bytes:
    plain = gunzip(data, MOST_UNPACKED_BYTES) if packed else data
    for number, record in parse_records(plain):
        try:
            if isinstance(record, ValueError):
                raise record
            if kind == "readings":
                _check_reading(record)
        except ValueError as error:
            raise ParcelError(
                f"line {number}: {error}; it was not written by this version; update ocrlab, or ask whoever made it"
            ) from error
    return gzip.compress(plain, mtime=0) if packed else plain


def _check_reading(record: dict[str, Any]) -> None:
    """Refuse a reading without the fields, of the types, that every other part relies on."""
    for field in _TEXTS:
        value = record.get(field)
        if not isinstance(value, str) or len(value) > _LONGEST_TEXT:
            raise ParcelError(f"its {field!r} is no text")
        if field in _NAMES and not value.isprintable():
            raise ParcelError(f"its {field!r} holds control characters")
    if record["status"] not in STATUSES:
        raise ParcelError(f"status {record['status'][:40]!r} is not one of {', '.join(STATUSES)}")
    for field in ("asked", "actual", "measured"):
        if not isinstance(record.get(field), dict):
            raise ParcelError(f"its {field!r} is no object")
    if not isinstance(record.get("truth", ""), str | None):
        raise ParcelError("its 'truth' is no text")
    if any(type(record.get(field, 1)) is not int or record.get(field, 1) < 1 for field in ("leaf", "dpi")):
        raise ParcelError("its 'leaf' or 'dpi' is no whole number from 1 on")
    make_settings(record["asked"])
    if not {"min_new_tokens", "weights"} <= record["asked"].keys():
        raise ParcelError("its 'asked' lacks settings")
    if any(isinstance(v, str | list | dict) for k, v in record["measured"].items() if k != "stop_reason"):
        raise ParcelError("its 'measured' holds what is no number")


def _picture(data: bytes, kind: str) -> bytes:
    """Return a figure decoded and encoded again: pixels, and nothing else that the file may have carried."""
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data), formats=[kind]) as image:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            if image.width * image.height > _MOST_PIXELS:
                raise ParcelError(f"{image.width} × {image.height} pixels; figures have at most {_MOST_PIXELS:,}")
            image.load()
            # A palette is kept: it is what makes figures small.
            plain = image.copy() if image.mode in ("L", "RGB", "RGBA", "P") else image.convert("RGB")
    except ParcelError:
        raise
    except Exception as error:  # Pillow raises a dozen unrelated types on malformed files
        raise ParcelError(f"no {kind} picture ({type(error).__name__}: {str(error)[:80]})") from error
    plain.info.clear()
    made = io.BytesIO()
    plain.save(made, kind, optimize=True)
    return made.getvalue()


def _notebook(data: bytes) -> bytes:
    """Return a notebook whose outputs cannot run: known kinds only, HTML sanitised, no attachments, no widgets."""
    try:
        notebook = nbformat.reads(data.decode(), as_version=4)
        nbformat.validate(notebook)
    except Exception as error:  # nbformat raises whatever the malformed part raises
        raise ParcelError(f"no notebook ({type(error).__name__}: {str(error)[:80]})") from error
    ran = notebook.metadata.get("papermill", {})
    notebook.metadata = nbformat.NotebookNode(
        kernelspec={"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        language_info={"name": "python"}, papermill={"parameters": ran.get("parameters", {})},
    )  # fmt: skip
    for cell in notebook.cells:
        cell.pop("attachments", None)
        kept = {name: cell.metadata[name] for name in ("tags", "papermill") if name in cell.metadata}
        cell.metadata = nbformat.NotebookNode(kept)
        if cell.cell_type == "code":
            cell.outputs = [output for output in map(_output, cell.outputs) if output is not None]
    return (nbformat.writes(notebook) + "\n").encode()


def _output(output: nbformat.NotebookNode) -> nbformat.NotebookNode | None:
    if output.output_type in ("stream", "error"):
        return output
    link, alt = output.metadata.get(LINK), output.metadata.get("alt")
    data = {kind: output.data[kind] for kind in _OUTPUTS if isinstance(output.data.get(kind), str)}
    if "text/html" in data:
        data["text/html"] = sanitise(data["text/html"])
    output.data = nbformat.NotebookNode(data)
    named = {LINK: link, "alt": alt} if isinstance(link, str) and isinstance(alt, str) else {}
    output.metadata = nbformat.NotebookNode(named)
    return output if data else None


def _preset(data: bytes) -> bytes:
    try:
        values = yaml.safe_load(data.decode())
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ParcelError(f"no preset ({str(error)[:80]})") from error
    if not isinstance(values, dict):
        raise ParcelError("a preset holds `name: value` lines")
    settings = make_settings(values)
    if settings.trust_remote_code:
        raise ParcelError("a preset that trusts a repository's code; such a choice is not taken from others")
    comments = [line for line in data.decode().splitlines() if line.startswith("#") and line.isprintable()]
    return "\n".join([*comments, settings.to_yaml()]).encode()


def _record_of_run(data: bytes) -> bytes:
    record = parse_strictly(data)
    if not isinstance(record, dict):
        raise ParcelError("no object")
    wanted: dict[str, type] = {"run": str, "notebooks": dict, "versions": dict, "machine": dict}
    for field, kind in wanted.items():
        if not isinstance(record.get(field), kind):
            raise ParcelError(f"{field!r} is missing or of another kind")
    if not all(isinstance(entry, dict) for entry in record["notebooks"].values()):
        raise ParcelError("'notebooks' holds what is no object")
    return (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode()
