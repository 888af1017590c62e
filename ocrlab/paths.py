"""Where things are in this checkout, from this file's own place: no notebook or caller depends on its directory."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
PAGES = ROOT / "data" / "pages"
MODELS = ROOT / "data" / "models"
RESULTS = ROOT / "results"
BUILD = ROOT / "build"
EXPERIMENTS = ROOT / "experiments.yaml"


def write_whole(file: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    part = file.with_name(f"{file.name}.part")
    part.write_bytes(data)
    part.replace(file)


def runs_in(results: Path) -> list[Path]:
    """Return the folders of runs in `results`, by name; what is half added there is none."""
    folders = (folder for folder in sorted(results.glob("*/")) if not folder.name.startswith("."))
    return [folder for folder in folders if (folder / "run.json").is_file()]


def run_in_hand() -> Path | None:
    """Return the folder of the run that `make reproduce` named, or None: in JupyterLab there is no run."""
    named = os.environ.get("OCRLAB_RUN_FOLDER")
    return Path(named) if named else None


def run_folder() -> Path:
    """Return where rows and readings go: the run in hand, else `build/scratch`."""
    return run_in_hand() or BUILD / "scratch"
