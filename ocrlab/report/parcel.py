"""A run as one zip: which files it may hold, its manifest, and the limits that both ends keep."""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Mapping
from typing import Any

MANIFEST = "manifest.json"
FORMAT = "ocrlab run"
SCHEMA = 1
MOST_BYTES = 10_000_000
"""The largest zip that is made or added."""
MOST_UNPACKED_BYTES = 150_000_000
"""What a zip may grow to, records unpacked."""
MOST_FILES = 2_000
MOST_RATIO = 250
"""How many times larger a file may become; a run's own records reach about 40."""

_NAME = r"[\w(][\w .,()+-]{0,150}"
_KEPT = (
    r"run\.json", rf"(?:readings|findings)/{_NAME}\.jsonl(?:\.gz)?", rf"notebooks/{_NAME}\.ipynb",
    rf"figures/{_NAME}\.(?:png|jpg)", rf"pages/{_NAME}\.png", rf"{_NAME}\.yaml",
)  # fmt: skip
# Earlier versions kept scored rows beside the readings; they are scored anew.
_REBUILT = (rf"{_NAME}\.html", r"style\.css", r"report\.md", rf"rows/{_NAME}\.jsonl(?:\.gz)?")


class ParcelError(ValueError):
    """A run that cannot be shared, or a zip that cannot be added; the message says what is wrong and what to do."""


def kept(name: str) -> bool:
    """Whether a run's file of this name (with `/`) is evidence that is unpacked."""
    return any(re.fullmatch(pattern, name) for pattern in _KEPT)


def rebuilt(name: str) -> bool:
    """Whether a file of this name is made from the evidence, so that whoever adds the run makes it again."""
    return any(re.fullmatch(pattern, name) for pattern in _REBUILT)


def manifest(run: str, files: Mapping[str, bytes]) -> bytes:
    """Return the manifest: format, schema, the run's name, and each file's sha256."""
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())}
    whole = {"format": FORMAT, "schema": SCHEMA, "run": run, "files": hashes}
    return (json.dumps(whole, indent=1, ensure_ascii=False) + "\n").encode()


def gunzip(data: bytes, most: int) -> bytes:
    """Return unpacked gzip, never more than `most` bytes.

    Raises:
        ParcelError: it holds more, or is damaged.
    """
    unpack = zlib.decompressobj(wbits=31)
    try:
        found = unpack.decompress(data, most)
    except zlib.error as error:
        raise ParcelError(f"damaged gzip ({error})") from error
    if not unpack.eof or unpack.unused_data:
        raise ParcelError(f"its gzip is damaged or unpacks to more than {most:,} bytes")
    return found


def parse_strictly(text: str | bytes) -> Any:
    """Return JSON without NaN or infinities.

    Raises:
        ParcelError: it is not JSON, or nested too deep.
    """

    def refuse(word: str) -> Any:
        raise ParcelError(f"{word} is no JSON number")

    try:
        return json.loads(text, parse_constant=refuse)
    except ParcelError:
        raise
    except (ValueError, RecursionError) as error:
        raise ParcelError(f"not JSON ({str(error)[:80]})") from error
