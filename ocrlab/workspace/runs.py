"""Which run a command is about: the one named, else the newest in results/."""

from __future__ import annotations

from pathlib import Path

from ocrlab import paths
from ocrlab.machine.describe import describe_machine, machine_name
from ocrlab.workspace.plan import PlanError
from ocrlab.workspace.provenance import read_record

_MACHINE = ("system", "cpu", "cores", "gpu")


def known_runs(results: Path) -> list[Path]:
    """Return the folders of `results` that are runs, the newest first."""
    runs = [folder for folder in paths.runs_in(results) if read_record(folder)]
    return sorted(runs, key=lambda folder: str(read_record(folder).get("started", "")), reverse=True)


def runs_here(results: Path) -> list[Path]:
    """Return the runs that were made on this machine, the newest first: not the committed one, not those added.

    What changes with an upgrade or a reboot (torch's build, bytes of memory) does not make another machine.
    """
    here = {name: describe_machine()[name] for name in _MACHINE}
    return [
        run for run, record in ((run, read_record(run)) for run in known_runs(results))
        if not run.name.startswith("reference-") and "added" not in record
        and {name: record.get("machine", {}).get(name) for name in _MACHINE} == here
    ]  # fmt: skip


def find_run_here(name: str | None, results: Path | None = None) -> Path:
    """Return the folder of the run named, by default of the newest that was made on this machine.

    Raises:
        PlanError: there is no such run; the message says what makes one and names those that are in `results`.
    """
    results = results or paths.RESULTS
    if name is not None:
        return find_run(name, results)
    if mine := runs_here(results):
        return mine[0]
    others = ", ".join(run.name for run in known_runs(results))
    ask = f"; RUN=name asks about another machine's: {others}" if others else ""
    raise PlanError(f"no run of this machine ({machine_name()}) in {results} yet: `make reproduce` makes one{ask}")


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
