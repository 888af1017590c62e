"""A run as a small web site that opens from disk: an index, a page per notebook, its readings; no network."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup, escape

from ocrlab.report.body import Body, render_body, slug
from ocrlab.report.command import again
from ocrlab.report.digest import write_digest
from ocrlab.report.frame import templates, write_style
from ocrlab.report.lift import lift_figures
from ocrlab.report.material import begun, count_readings, natural, read_json, settings_lines, usable_readings
from ocrlab.report.readings import barred_of, sheets_of
from ocrlab.scoring.metrics import shown_metrics

_WORDS = {
    "ok": "completed", "error": "failed", "crashed": "failed: the kernel died", "timeout": "failed: out of time",
    "interrupted": "interrupted", "skipped": "skipped",
}  # fmt: skip


def build_site(run_folder: Path) -> Path:
    """Return the `index.html` made in a run's folder from its `run.json`, `notebooks/` and `readings/`.

    Beside it come a page for each notebook with its images in `figures/` (the notebooks then link to them: each is
    stored once), `readings.html`, one `style.css`, and `report.md` with the same content for a code host. Nothing is
    run. Everything shown is escaped or sanitised: pages hold text that a model read.

    Raises:
        OSError: the folder cannot be written to.
    """
    record, run = read_json(run_folder / "run.json"), run_folder.name
    made = templates()
    # An added run's rows would stand for readings here; what is made again gets a run of its own beside it.
    here = f"{run}-here" if "added" in record else run
    items = [_item(name, entry, run_folder, here) for name, entry in _entries(record, run_folder)]
    _drop_old_figures(run_folder / "figures", items)
    write_style(run_folder)
    for item in items:
        if item["body"]:
            _write(run_folder / f"{item['name']}.html", made, "page", item=item, record=record, run=run)
            lift_figures(run_folder / "notebooks" / f"{item['name']}.ipynb", item["body"].figures)
    usable = usable_readings(run_folder)
    readings = natural(usable)
    sheets = sheets_of(readings, run_folder)
    outcomes = list(dict.fromkeys(reading.outcome for sheet in sheets for reading in sheet.readings))
    if readings:
        values = {"sheets": sheets, "outcomes": outcomes, "barred": barred_of(readings), "run": run}
        _write(run_folder / "readings.html", made, "readings", **values)
    told = {
        "items": items,
        "record": record,
        "run": run,
        "counts": count_readings(run_folder),
        "lines": settings_lines(usable),
        "metrics": shown_metrics(),
        "readings": len(readings),
        "begun": begun(record),
    }
    write_digest(run_folder / "report.md", told)
    return _write(run_folder / "index.html", made, "index", **told)


def _write(file: Path, made: Any, template: str, **values: Any) -> Path:
    page = made.get_template(f"{template}.html.j2").render(**values)
    file.write_text(page, encoding="utf-8", newline="\n")
    return file


def _entries(record: dict[str, Any], run_folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return the notebooks by name with what the record says: those of the record first, as they ran."""
    known = record.get("notebooks")
    entries = {str(name): entry for name, entry in known.items()} if isinstance(known, dict) else {}
    for file in sorted((run_folder / "notebooks").glob("*.ipynb")):
        if not file.name.endswith(".part.ipynb"):
            entries.setdefault(file.stem, {})
    return [(name, entry if isinstance(entry, dict) else {}) for name, entry in entries.items()]


def _item(name: str, entry: dict[str, Any], run_folder: Path, run: str) -> dict[str, Any]:
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
    command = again(name, run, entry.get("profile"), body.parameters if body else {})
    return {
        "name": name, "href": quote(f"{name}.html"), "title": body.title if body else name, "body": body,
        "html": Markup(_with_command(body, command)) if body else "",  # sanitised in body.py, the command escaped
        "status": status, "words": _WORDS.get(status, status), "reason": problem or str(entry.get("reason", "")),
        "failed": status not in ("ok", "skipped", "not recorded"), "cell": str(entry.get("cell", "")),
        "seconds": entry.get("seconds"), "parameters": entry.get("parameters") or {}, "command": command,
    }  # fmt: skip


def _with_command(body: Body, command: str) -> str:
    """Return a notebook's HTML with the command beside every figure of its outputs."""
    if not command:
        return body.html
    files = {figure.file for figure in body.figures}
    told = f'<details class="again"><summary>make it again</summary><code>{escape(command)}</code></details>'
    return re.sub(
        r'<img [^>]*src="figures/([\w.%-]+)"[^>]*>', lambda m: m[0] + (told if m[1] in files else ""), body.html
    )


def _drop_old_figures(folder: Path, items: list[dict[str, Any]]) -> None:
    """Delete images of an earlier build that no page shows any more; figures that notebooks saved stay."""
    for item in items:
        if item["body"]:
            kept = {figure.file for figure in item["body"].figures}
            for file in folder.glob("*"):
                ours = re.fullmatch(re.escape(slug(item["name"])) + r"-\d+-\d+\.(?:png|jpg)", file.name)
                if ours and file.name not in kept:
                    file.unlink()
