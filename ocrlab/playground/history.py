"""What was read in this sitting: a table for the page, and one for code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ocrlab import paths
from ocrlab.playground.html import escaped, first_line, milliseconds, note, table
from ocrlab.reading.settings import Settings
from ocrlab.study.rows import setting_label

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = ("time_utc", "page", "status", "reason", "cer", "ttft_s", "tokens_per_second", "page_s", "text")
_FIELDS = tuple(Settings().as_dict())


def history_html(rows: Sequence[dict[str, Any]], folder: Path) -> str:
    """Return the sitting's readings as HTML, the newest first, and where they are kept."""
    if not rows:
        return note("Nothing has been read yet.")
    lines = [
        (
            row["time_utc"][11:19], first_line(row["page"], 40), first_line(_label(row), 80), row["status"],
            "" if row.get("cer") is None else f"{row['cer']:.2%}", milliseconds(row.get("ttft_s")),
            "" if not row.get("tokens_per_second") else f"{row['tokens_per_second']:,.0f}", first_line(row["text"]),
        )
        for row in reversed(rows)
    ]  # fmt: skip
    head = ("UTC", "page", "settings", "status", "CER", "first token", "tokens/s", "text")
    kept = folder.relative_to(paths.ROOT) if folder.is_relative_to(paths.ROOT) else folder
    return table(head, lines) + f'<div class="ocr-label">kept in {escaped(kept)} (rows and readings)</div>'


def history_table(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Return the readings as a table: time, page, settings as a label, status, scores, costs, text."""
    import pandas as pd

    lines = [{"settings": _label(row)} | {name: row.get(name) for name in _COLUMNS} for row in rows]
    return pd.DataFrame(lines, columns=["settings", *_COLUMNS])


def _label(row: dict[str, Any]) -> str:
    return setting_label({name: row[name] for name in _FIELDS})
