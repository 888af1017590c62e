"""One function per table: rows in, a pandas table or safe HTML out; numbers stay raw until the last step."""

from __future__ import annotations

import html

import pandas as pd
from IPython.display import HTML

from ocrlab.scoring.metrics import align, shown_metrics
from ocrlab.study.compare import name_sources, summarise

_COLOURS = {"replace": "#E69F00", "insert": "#56B4E9", "delete": "#CC79A7"}


def settings_table(rows: pd.DataFrame, by: str | list[str]) -> pd.DataFrame:
    """Return one rounded line per setting: metrics with intervals, image tokens, time per page, memory, reason.

    Where truths are of several sources, a setting has a line of each.
    """
    keys = [by] if isinstance(by, str) else by
    rows = name_sources(rows)
    keys = [*keys, "truth"] if rows["truth"].any() else keys
    table = summarise(rows, keys)
    shown = table[keys].copy()
    shown["pages"] = table["pages"]
    for name, metric in shown_metrics().items():
        if table[name].notna().any():
            shown[metric.label] = [metric.interval_words(line, name) or "–" for line in table.to_dict("records")]
    for column, title, scale, digits in (
        ("image_tokens", "image tokens", 1, 0),
        ("page_s", "ms per page", 1e-3, 1),
        ("peak_memory_bytes", "peak MiB above the model", 2**20, 1),
    ):
        if table[column].notna().any():
            shown[title] = (table[column] / scale).round(digits)
    shown["read to the end"] = [f"{share:.0%}" for share in table["ok"]]
    if table["flagged"].any():
        shown["texts to look at"] = table["flagged"]
    if table["reason"].any():
        shown["first problem"] = table["reason"].str.slice(0, 80)
    return shown.set_index(keys)


def diff(reading: str, truth: str, names: tuple[str, str] = ("truth", "reading")) -> HTML:
    """Return the truth and the reading aligned letter by letter, differences coloured, all text escaped.

    `names` are the words in front of the two; they are ours and not escaped.
    """

    def line(side: str) -> str:
        parts = []
        for piece in align(reading, truth):
            text, colour = html.escape(getattr(piece, side)).replace("\n", "⏎<br>"), _COLOURS.get(piece.kind)
            style = f"background:{colour};color:#000" if text else f"color:{colour}"
            parts.append(f'<span style="{style}">{text or "▁"}</span>' if colour else text)
        return "".join(parts)

    left = "text-align:left"
    rows = "".join(
        f'<tr><td style="{left}">{name}</td><td style="{left};font-family:monospace">{line(side)}</td></tr>'
        for name, side in zip(names, ("truth", "reading"), strict=True)
    )
    return HTML(f"<table>{rows}</table>")
