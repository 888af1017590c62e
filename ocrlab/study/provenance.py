"""Where a run's numbers come from: `run.json`, with code, machine, versions, settings, pages, and how all ended."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from ocrlab import paths
from ocrlab.machine.describe import describe_machine, versions
from ocrlab.reading.settings import make_settings
from ocrlab.study.records import RecordError, read_records, record_files

_SAME_MACHINE = ("system", "cpu", "cores", "gpu")


def read_json(file: Path) -> dict[str, Any]:
    """Return a JSON file's object, or nothing where it is absent or damaged."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def without_home(text: str, home: str = "") -> str:
    """Return a text with the home folder (or how `home` spells it) written as `~`: what is shared names no user."""
    home = home or str(Path.home())
    return text.replace(home, "~") if len(home) > 1 else text


def now() -> str:
    """Return the time as ISO 8601 with the offset from UTC, to the second."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


def start_record(run: str, profile: str, reason: str) -> dict[str, Any]:
    """Return what `run.json` holds before the first notebook; no host name, user name or home folder is in it."""
    asked = {"run": run, "profile": profile, "profile_reason": reason, "started": now(), "ended": None}
    here = {"versions": versions(), "platform": platform.platform(), "machine": describe_machine()}
    return asked | code_state() | here | {"notebooks": {}}


def read_record(folder: Path) -> dict[str, Any]:
    """Return a run folder's `run.json`, or nothing where it is absent or damaged."""
    return read_json(folder / "run.json")


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Write `run.json`, whole or not at all."""
    text, home = (json.dumps(value, indent=1, ensure_ascii=False) for value in (record, str(Path.home())))
    paths.write_whole(folder / "run.json", (without_home(text, home[1:-1]) + "\n").encode())


def known_runs(results: Path) -> dict[Path, dict[str, Any]]:
    """Return the record of each run in `results` by its folder, the newest first."""
    found = {folder: record for folder in paths.runs_in(results) if (record := read_record(folder))}
    return dict(sorted(found.items(), key=lambda pair: str(pair[1].get("started", "")), reverse=True))


def runs_here(results: Path) -> list[Path]:
    """Return the runs that were made on this machine, the newest first: not the committed one, not those added.

    What changes with an upgrade or a reboot (torch's build, bytes of memory) does not make another machine.
    """
    here = {name: describe_machine()[name] for name in _SAME_MACHINE}
    return [
        run
        for run, record in known_runs(results).items()
        if not run.name.startswith("reference-")
        and "added" not in record
        and {name: record.get("machine", {}).get(name) for name in _SAME_MACHINE} == here
    ]


def code_state(root: Path = paths.ROOT) -> dict[str, Any]:
    """Return the git commit and whether anything differs from it; both None where `root` is no git checkout."""
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root.resolve():
        return {"commit": None, "dirty": None}
    changes = _git(root, "status", "--porcelain")
    return {"commit": _git(root, "rev-parse", "HEAD"), "dirty": None if changes is None else bool(changes)}


def readings_record(folder: Path) -> dict[str, Any]:
    """Return what a run's readings say of themselves, for `run.json`: each experiment's settings (what differs from
    the defaults), seeds, weights, code, outcomes and times, and the sha256 of every page by its set and id.

    Where a readings file is damaged it is `readings_problem` in words instead.
    """
    experiments: dict[str, Any] = {}
    pages: dict[str, dict[str, str]] = {}
    try:
        for file in record_files(folder / "readings"):
            readings = read_records(file)
            if readings:
                experiments[file.name.partition(".jsonl")[0]] = _experiment_record(readings)
            for reading in readings:
                pages.setdefault(str(reading["set"]), {})[str(reading["page"])] = reading["page_sha256"]
    except RecordError as error:
        return {"readings_problem": str(error)}
    except (KeyError, TypeError, ValueError) as error:
        return {"readings_problem": f"{file}: a reading is not as this version writes it ({error!r})"}
    return {"experiments": experiments, "pages": {name: dict(sorted(found.items())) for name, found in pages.items()}}


def _experiment_record(readings: list[dict[str, Any]]) -> dict[str, Any]:
    times = [reading["time_utc"] for reading in readings]
    return {
        "readings": len(readings),
        "statuses": dict(Counter(r["status"] for r in readings)),
        "settings": _distinct(make_settings(r["asked"]).changed() for r in readings),
        "seeds": _distinct(r["asked"]["seed"] for r in readings),
        "repeats": 1 + max(r["repeat"] for r in readings),
        "weights": _distinct(r["actual"].get("actual_revision") for r in readings),
        "code": _distinct(r["code"] for r in readings),
        "machines": _distinct(r["machine"] for r in readings),
        "first": min(times),
        "last": max(times),
    }


def _distinct(values: Iterable[Any]) -> list[Any]:
    """Return each value once, in order; they may be dicts."""
    return list({repr(value): value for value in values}.values())


def _git(root: Path, *arguments: str) -> str | None:
    # GIT_DIR and its like, set inside a git hook, would speak of another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-C", str(root), *arguments]
    try:
        return subprocess.check_output(
            command, stderr=subprocess.DEVNULL, text=True, timeout=60, env=environment
        ).strip()
    except (OSError, subprocess.SubprocessError):
        return None
