"""The content of a run's site as one Markdown file, `report.md`, which code hosts show beside the folder."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ocrlab.report.frame import amount, clock, duration, label
from ocrlab.scoring.metrics import Metric

_MARKS = re.compile(r"([\\`*_{}\[\]()#+!|~$@:<>&-])")


def write_digest(file: Path, told: dict[str, Any]) -> None:
    """Write headlines, figures by relative link, tables and the command for each notebook; all text is escaped."""
    record, run = told["record"], told["run"]
    parts = [
        f"# ocrlab run {escape(run)}",
        _summary(record, told["items"], told["begun"]),
        "The same as a site: open `index.html` of this folder from a checkout.",
        *(part for item in told["items"] for part in _notebook(item)),
        *_section("Settings", _settings(told["lines"], told["metrics"])),
        *_section("Readings", _counts(told["counts"])),
        *_section("Machine", _facts(record.get("machine"))),
        *_section("Versions", _facts(record.get("versions"))),
    ]
    file.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8", newline="\n")


def escape(value: Any) -> str:
    """Return text in one line that neither Markdown nor HTML takes for more than text."""
    text = " ".join(str(value).split())
    return _MARKS.sub(lambda m: html.escape(m[1]) if m[1] in "<>&" else f"\\{m[1]}", text)


def _summary(record: dict[str, Any], items: Sequence[dict[str, Any]], begun: str) -> str:
    failed = sum(item["failed"] for item in items)
    told = f"{len(items)} notebooks, {f'{failed} did not finish' if failed else 'none failed'}."
    if record.get("profile"):
        told += f" Profile {escape(record['profile'])}."
    if begun:
        told += f" From {escape(clock(begun))}."
    if record.get("commit"):
        told += f" Code at commit {escape(str(record['commit'])[:12])}{' with changes' if record.get('dirty') else ''}."
    return told


def _notebook(item: dict[str, Any]) -> Iterable[str]:
    body, seconds = item["body"], duration(item["seconds"])
    yield f"## {escape(item['title'])}"
    said = f"{escape(item['name'])}: {escape(item['words'])}{f', {seconds}' if seconds else ''}"
    yield said + (f". {escape(item['reason'])}" if item["reason"] else "")
    if body is None:
        return
    if body.headline:
        yield f"> {escape(body.headline)}"
    yield from (f"![{escape(figure.alt)}](figures/{quote(figure.file)})" for figure in body.figures)
    if item["command"]:
        fence = "`" * (3 + max(map(len, re.findall("`+", item["command"])), default=0))
        yield f"Make it again:\n\n{fence}sh\n{item['command']}\n{fence}"


def _settings(lines: Sequence[dict[str, Any]], metrics: Mapping[str, Metric]) -> Iterable[str]:
    heads = [f"{metric.label} (95 % interval)" for metric in metrics.values()]
    yield from _table(
        ("experiment", "setting", "pages", *heads, "ms per page", "peak MiB", "read to the end"),
        (
            [line["experiment"], line["setting"], line["pages"]]
            + [metric.interval_words(line, name) for name, metric in metrics.items()]
            + [_rounded(line.get("page_s"), 1e-3), _rounded(line.get("peak_memory_bytes"), 2**20), f"{line['ok']:.0%}"]
            for line in lines
        ),
    )


def _rounded(value: float | None, unit: float) -> str:
    return "" if value is None else f"{value / unit:.0f}"


def _counts(counts: dict[str, dict[str, int]]) -> Iterable[str]:
    told = ([f"readings/{n}", ", ".join(f"{c} {s}" for s, c in found.items())] for n, found in counts.items())
    return _table(("file", "readings by outcome"), told)


def _facts(facts: Any) -> Iterable[str]:
    return _table(("", ""), ([label(k), amount(v, k)] for k, v in facts.items())) if isinstance(facts, dict) else []


def _section(title: str, lines: Iterable[str]) -> list[str]:
    table = "\n".join(lines)
    return [f"## {title}", table] if table else []


def _table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterable[str]:
    made = [f"| {' | '.join(escape(value) for value in row)} |" for row in rows]
    return [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads), *made] if made else []
