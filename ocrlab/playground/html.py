"""Pieces of HTML for the playground's widgets. Whatever was read, typed or named elsewhere is escaped here."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ocrlab.reading.result import Reading

STYLE = f"<style>{(Path(__file__).parent / 'style.css').read_text(encoding='utf-8')}</style>"
#: How a reading's status is coloured; all others are bad.
STATUS_KIND = {"ok": "good", "truncated": "warn", "loop": "warn", "empty": "warn"}
_MIB, _GIB = 2**20, 2**30


def escaped(text: object) -> str:
    """Return text with every character that HTML could take for markup replaced, quotes too."""
    return html.escape(str(text), quote=True)


def block(text: object, *classes: str) -> str:
    """Return text in a box, escaped, white space kept."""
    return f'<div class="{" ".join(classes)}">{escaped(text)}</div>'


def note(text: object, kind: str = "quiet") -> str:
    """Return a sentence for the person: kind quiet, good, warn or bad; nothing for an empty one."""
    return block(text, "ocr-note", f"ocr-{kind}") if text else ""


def busy(text: object) -> str:
    """Return a sentence beside a spinner."""
    return f'<div class="ocr-note ocr-quiet"><span class="ocr-ring"></span>{escaped(text)}</div>'


def chips(values: Mapping[str, str]) -> str:
    """Return names and values side by side, each pair in one piece; names without a value are left out."""
    spans = (f'<span class="ocr-chip"><b>{escaped(v)}</b> {escaped(k)}</span>' for k, v in values.items() if v)
    return f'<div class="ocr-chips">{"".join(spans)}</div>'


def costs(reading: Reading) -> dict[str, str]:
    """Return what a reading cost, in words by name; a cost that is not known is empty."""
    peak = reading.peak_memory_bytes
    return {
        "to the first token": duration(reading.ttft_s),
        "per page": duration(reading.page_s),
        "tokens/s": _count(reading.tokens_per_second),
        "tokens": _count(reading.tokens),
        "image tokens": _count(reading.image_tokens),
        "above the model": "" if peak is None else size(peak),
    }


def _count(number: float | None) -> str:
    return f"{number:,.0f}" if number else ""


def duration(seconds: float | None) -> str:
    """Return a time in ms or s; empty for none."""
    if seconds is None:
        return ""
    return f"{seconds * 1e3:,.3g} ms" if seconds < 1 else f"{seconds:,.2f} s"


def size(amount: float) -> str:
    """Return bytes as MiB or GiB."""
    return f"{amount / _GIB:,.2f} GiB" if amount >= _GIB else f"{amount / _MIB:,.1f} MiB"


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a table with every cell escaped."""
    top = "".join(f"<th>{escaped(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{escaped(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="ocr-scroll"><table class="ocr-table"><tr>{top}</tr>{body}</table></div>'


def savable(text: str, name: str, label: str) -> str:
    """Return two small buttons for a text: copy it, and download it as a file of that name.

    The text travels as base64, so no character of it can end the attribute that holds it.
    """
    data = base64.b64encode(text.encode()).decode()
    return (
        f'<span class="ocr-save"><button type="button" class="ocr-copy" data-text="{data}" onclick="ocrlabCopy(this)">'
        f"copy {escaped(label)}</button>"
        f'<a class="ocr-download" download="{escaped(file_name(name))}" '
        f'href="data:text/plain;charset=utf-8;base64,{data}">download {escaped(label)}</a></span>'
    )


def file_name(name: str) -> str:
    """Return a name that any system takes for a file: letters, digits, dots, dashes; at most 80."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.")[-80:] or "page"


def ruled_out(reasons: Mapping[str, Mapping[Any, str]]) -> str:
    """Return a folded list of the choices that do not run here, each with its reason; nothing where all do."""
    bad = [(name, value, why) for name, found in reasons.items() for value, why in found.items() if why]
    items = "".join(f"<li><b>{escaped(name)}={escaped(value)}</b>: {escaped(why)}</li>" for name, value, why in bad)
    return f"<details><summary>{len(bad)} choices do not run here; why?</summary><ul>{items}</ul></details>" * bool(bad)


def first_line(text: Any, most: int = 60) -> str:
    """Return the beginning of a text in one line."""
    line = " ".join(str(text).split())
    return line if len(line) <= most else line[: most - 1] + "…"
