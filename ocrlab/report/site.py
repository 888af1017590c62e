"""A run as a small web site that opens from disk: an index, a page per notebook, nothing from the network."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from pygments.formatters import HtmlFormatter

from ocrlab.report.body import Body, render_body
from ocrlab.study.records import record_files

_HERE = Path(__file__).parent
_WORDS = {
    "ok": "completed", "error": "failed", "crashed": "failed: the kernel died", "timeout": "failed: out of time",
    "interrupted": "interrupted", "skipped": "skipped",
}  # fmt: skip


def build_site(run_folder: Path) -> Path:
    """Return the `index.html` made in a run's folder from its `run.json`, `notebooks/` and `rows/`.

    Beside it come a page for each notebook and its images in `figures/`. Nothing is run, and nothing written
    elsewhere. Everything shown is escaped or sanitised: pages hold text that a model read.

    Raises:
        OSError: the folder cannot be written to.
    """
    record = _read_json(run_folder / "run.json")
    templates = _templates()
    items = [_item(name, entry, run_folder) for name, entry in _entries(record, run_folder)]
    _drop_old_figures(run_folder / "figures", items)
    for item in items:
        if item["body"]:
            page = templates.get_template("page.html.j2").render(item=item, record=record, run=run_folder.name)
            (run_folder / f"{item['name']}.html").write_text(page, encoding="utf-8")
    index = run_folder / "index.html"
    html = templates.get_template("index.html.j2").render(
        items=items, record=record, run=run_folder.name, rows=_count_rows(run_folder / "rows")
    )
    index.write_text(html, encoding="utf-8")
    return index


def _entries(record: dict[str, Any], run_folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return the notebooks by name with what the record says: those of the record first, as they ran."""
    known = record.get("notebooks")
    entries = {str(name): entry for name, entry in known.items()} if isinstance(known, dict) else {}
    for file in sorted((run_folder / "notebooks").glob("*.ipynb")):
        if not file.name.endswith(".part.ipynb"):
            entries.setdefault(file.stem, {})
    return [(name, entry if isinstance(entry, dict) else {}) for name, entry in entries.items()]


def _item(name: str, entry: dict[str, Any], run_folder: Path) -> dict[str, Any]:
    name = Path(name).name
    file = run_folder / "notebooks" / f"{name}.ipynb"
    body: Body | None = None
    problem = ""
    if file.is_file():
        try:
            body = render_body(file, run_folder / "figures")
        except ValueError as error:
            problem = str(error)
    status = str(entry.get("status", "not recorded"))
    return {
        "name": name, "href": quote(f"{name}.html"), "title": body.title if body else name, "body": body,
        "html": Markup(body.html) if body else "",  # sanitised in body.py
        "status": status, "words": _WORDS.get(status, status), "reason": problem or str(entry.get("reason", "")),
        "failed": status not in ("ok", "skipped", "not recorded"), "cell": str(entry.get("cell", "")),
        "seconds": entry.get("seconds"), "parameters": entry.get("parameters") or {},
    }  # fmt: skip


def _drop_old_figures(folder: Path, items: list[dict[str, Any]]) -> None:
    """Delete images of an earlier build that no page shows any more; figures that notebooks saved stay."""
    for item in items:
        if item["body"]:
            kept = {figure.file for figure in item["body"].figures}
            for file in folder.glob("*"):
                ours = re.fullmatch(
                    re.escape(re.sub(r"[^\w.-]", "_", item["name"])) + r"-\d+-\d+\.(?:png|jpg)", file.name
                )
                if ours and file.name not in kept:
                    file.unlink()


def _count_rows(folder: Path) -> dict[str, dict[str, int]]:
    """Return the number of rows of each status by file; a line that is no row counts as `damaged`."""
    counts = {}
    for file in record_files(folder):
        statuses: Counter[str] = Counter()
        data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        for line in data.decode("utf-8", "replace").splitlines():
            try:
                statuses[str(json.loads(line).get("status", "no status"))] += 1
            except (ValueError, AttributeError):
                statuses["damaged"] += 1
        counts[file.name.removesuffix(".gz")] = dict(statuses)
    return counts


def _read_json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _templates() -> Environment:
    environment = Environment(loader=FileSystemLoader(_HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    light, dark = (HtmlFormatter(style=style).get_style_defs(".highlight") for style in ("friendly", "github-dark"))
    css = (_HERE / "site.css").read_text(encoding="utf-8")
    css += f"{light}\n@media screen and (prefers-color-scheme: dark) {{\n{dark}\n}}\n"
    environment.globals["css"] = Markup(css)  # our own files
    environment.filters |= {"duration": _duration, "amount": _amount, "label": _label, "clock": _clock}
    return environment


def _duration(seconds: Any) -> str:
    if not isinstance(seconds, int | float):
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds // 60:.0f} min {seconds % 60:.0f} s" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def _clock(time: Any) -> str:
    """Return an ISO time less its seconds: `2026-11-23 13:31 +00:00`."""
    return re.sub(r"^(.{10})T(\d\d:\d\d)(?::[\d.]+)?", r"\1 \2 ", str(time))


def _amount(value: Any, name: str) -> str:
    if str(name).endswith("_bytes") and isinstance(value, int | float):
        return f"{value / 2**30:.1f} GiB"
    return "none" if value is None else str(value)


def _label(name: Any) -> str:
    return str(name).removesuffix("_bytes").replace("_", " ")
