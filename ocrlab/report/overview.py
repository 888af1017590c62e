"""All runs in one table: `results/index.html`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ocrlab import paths
from ocrlab.report.frame import templates, write_style
from ocrlab.report.material import begun, count_readings, read_json


def build_overview(results: Path) -> Path:
    """Return the `index.html` over all runs, made from their `run.json` and readings; the newest run comes first.

    Raises:
        OSError: the folder cannot be written to.
    """
    runs = sorted(
        (_line(folder) for folder in paths.runs_in(results)),
        key=lambda run: (run["started"], run["name"]),
        reverse=True,
    )
    write_style(results)
    index = results / "index.html"
    index.write_text(templates().get_template("overview.html.j2").render(runs=runs), encoding="utf-8", newline="\n")
    return index


def _line(folder: Path) -> dict[str, Any]:
    record = read_json(folder / "run.json")
    notebooks = record.get("notebooks")
    entries = notebooks.values() if isinstance(notebooks, dict) else []
    states = Counter(str(entry.get("status", "not recorded")) for entry in entries if isinstance(entry, dict))
    machine = record.get("machine")
    facts: dict[str, Any] = machine if isinstance(machine, dict) else {}
    rows = sum((Counter(statuses) for statuses in count_readings(folder).values()), Counter())
    return {
        "name": folder.name, "href": f"{quote(folder.name)}/index.html", "started": begun(record),
        "profile": str(record.get("profile") or ""), "machine": str(facts.get("gpu") or facts.get("cpu") or ""),
        "memory_bytes": facts.get("gpu_memory_bytes") or facts.get("memory_bytes"),
        "versions": record.get("versions") if isinstance(record.get("versions"), dict) else {},
        "commit": str(record.get("commit") or "")[:12], "dirty": bool(record.get("dirty")),
        "added": record.get("added") if isinstance(record.get("added"), dict) else None,
        "states": states, "failed": sum(states.values()) - states["ok"] - states["skipped"] - states["not recorded"],
        "rows": rows.total(), "not_ok": rows.total() - rows["ok"],
    }  # fmt: skip
