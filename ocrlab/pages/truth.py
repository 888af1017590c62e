"""The truth that lies beside a page's file."""

from __future__ import annotations

from pathlib import Path


def truth_beside(file: Path, leaf: int | None = None) -> tuple[str | None, str]:
    """Return the truth from NAME.gt.txt or NAME.txt (None where there is none) and what is wrong with it, if anything.

    A leaf's lies in NAME.p0003.gt.txt or NAME.p0003.txt (here leaf 3). A byte order mark and CRLF line ends are
    accepted, and white space at the very end is dropped.
    """
    stem = file.stem if leaf is None else f"{file.stem}.p{leaf:04d}"
    for suffix in (".gt.txt", ".txt"):
        beside = file.with_name(stem + suffix)
        if beside.is_file():
            return _decoded(beside)
    return None, ""


def _decoded(file: Path) -> tuple[str | None, str]:
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return None, (
            f"{file}: the truth is not UTF-8 (byte {error.start:,} is 0x{error.object[error.start]:02x}), so the page "
            "has no score; save it as UTF-8, for example: iconv -f CP1251 -t UTF-8"
        )
    except OSError as error:
        return None, f"{file}: the truth cannot be read ({error.strerror}), so the page has no score"
    return text.replace("\r\n", "\n").replace("\r", "\n").rstrip(), ""
