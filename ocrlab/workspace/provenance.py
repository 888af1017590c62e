"""Where a run's numbers come from: `run.json`, with the code, the machine, the versions and every notebook's end."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any

from ocrlab import paths
from ocrlab.machine.describe import describe_machine, versions
from ocrlab.workspace.repair import without_home


def now() -> str:
    """Return the time as ISO 8601 with the offset from UTC, to the second."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


def start_record(run: str, profile: str, reason: str) -> dict[str, Any]:
    """Return what `run.json` holds before the first notebook; no host name, user name or home folder is in it."""
    return {
        "run": run, "profile": profile, "profile_reason": reason, "started": now(), "ended": None, **code_state(),
        "versions": versions(), "platform": platform.platform(), "machine": describe_machine(), "notebooks": {},
    }  # fmt: skip


def read_record(folder: Path) -> dict[str, Any]:
    """Return a run folder's `run.json`, or nothing where it is absent or damaged."""
    try:
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Write `run.json`, whole or not at all."""
    part = folder / "run.json.part"
    part.write_text(json.dumps(_plain(record), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(folder / "run.json")


def code_state(root: Path = paths.ROOT) -> dict[str, Any]:
    """Return the git commit and whether anything differs from it; both None where `root` is no git checkout."""
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root.resolve():
        return {"commit": None, "dirty": None}
    changes = _git(root, "status", "--porcelain")
    return {"commit": _git(root, "rev-parse", "HEAD"), "dirty": None if changes is None else bool(changes)}


def _git(root: Path, *arguments: str) -> str | None:
    # GIT_DIR and its like, set inside a git hook, would speak of another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            env=environment,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return without_home(value) if isinstance(value, str) else value
