"""How many bytes an image file should have, read from its own headers: to tell how much of it is missing."""

from __future__ import annotations

import struct

_MAGIC = {b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", b"BM": "BMP", b"II*\0": "TIFF", b"MM\0*": "TIFF"}


def format_of(data: bytes) -> str:
    """Return the format that the first bytes announce, by Pillow's name, or an empty string."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    return next((name for magic, name in _MAGIC.items() if data.startswith(magic)), "")


def expected_bytes(data: bytes, name: str) -> int:
    """Return the file's full length as far as its headers tell: exact for BMP and WebP, else a lower bound."""
    readers = {"PNG": _png, "BMP": _bmp, "WEBP": _webp, "TIFF": _tiff}
    try:
        return readers[name](data) if name in readers else 0
    except struct.error:
        # The header itself is cut.
        return len(data) + 1


def _bmp(data: bytes) -> int:
    return int(struct.unpack_from("<I", data, 2)[0])


def _webp(data: bytes) -> int:
    return int(struct.unpack_from("<I", data, 4)[0]) + 8


def _png(data: bytes) -> int:
    """Return where the last chunk that begins in `data` ends, and room for the closing chunk."""
    at = 8
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        at += 12 + length
        if kind == b"IEND":
            return int(at)
    return at + 12


def _tiff(data: bytes) -> int:
    """Return where the last strip or tile ends (TIFF 6.0: tags 273 and 279, or 324 and 325)."""
    order = "<" if data[:2] == b"II" else ">"
    directory = struct.unpack_from(order + "I", data, 4)[0]
    if directory + 2 > len(data):
        return int(directory) + 2
    entries = struct.unpack_from(order + "H", data, directory)[0]
    values: dict[int, tuple[int, ...]] = {}
    for entry in range(entries):
        at = directory + 2 + 12 * entry
        tag, kind, count = struct.unpack_from(order + "HHI", data, at)
        if tag in (273, 279, 324, 325) and kind in (3, 4):
            width = {3: 2, 4: 4}[kind]
            start = at + 8 if count * width <= 4 else struct.unpack_from(order + "I", data, at + 8)[0]
            values[tag] = struct.unpack_from(f"{order}{count}{'HI'[kind - 3]}", data, start)
    pairs = [p for a, b in ((273, 279), (324, 325)) for p in zip(values.get(a, ()), values.get(b, ()), strict=False)]
    return max((offset + length for offset, length in pairs), default=0)
