"""Which run a command is about: the one named, else the newest in results/."""

from __future__ import annotations

from pathlib import Path

from ocrlab import paths
from ocrlab.commands.plan import PlanError
from ocrlab.study.provenance import read_record


def known_runs(results: Path) -> list[Path]:
    """Return the folders of `results` that are runs, the newest first."""
    runs = [folder for folder in paths.runs_in(results) if read_record(folder)]
    return sorted(runs, key=lambda folder: str(read_record(folder).get("started", "")), reverse=True)


def find_run(name: str | None, results: Path | None = None) -> Path:
    """Return the folder of a run by name or path, by default of the newest.

    Raises:
        PlanError: there is no such run, or its run.json is damaged; the message names those that are here.
    """
    results = results or paths.RESULTS
    runs = known_runs(results)
    if name is None:
        if not runs:
            raise PlanError(f"{results}: no run there yet; `make reproduce` makes one")
        return runs[0]
    folder = Path(name) if Path(name).is_dir() else results / name
    if not read_record(folder):
        here = ", ".join(run.name for run in runs) or "none yet"
        raise PlanError(f"{folder}: no run there, or its run.json is damaged; the runs here are: {here}")
    return folder
