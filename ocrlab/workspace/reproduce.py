"""`make reproduce`: run every notebook afresh, tell what happened to each, and build the site."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ocrlab import paths
from ocrlab.reading.cluster import connect, engine_variables
from ocrlab.reading.isolated import Refused
from ocrlab.report.overview import build_overview
from ocrlab.report.site import build_site
from ocrlab.study.records import pack_records
from ocrlab.workspace.experiments import ExperimentsError, load_experiments
from ocrlab.workspace.overrides import parse_overrides
from ocrlab.workspace.parameters import ParameterError, read_parameters
from ocrlab.workspace.plan import PlanError, Task, choose_profile, plan_tasks, resolve_model, run_folder
from ocrlab.workspace.provenance import now, read_record, readings_record, start_record, write_record
from ocrlab.workspace.repair import Outcome
from ocrlab.workspace.runner import run_notebook


def reproduce(
    profile: str | None = None, model: str | None = None, only: str | None = None, run: str | None = None,
    params: str = "", results: Path | None = None, experiments: Path | None = None, notebooks: Path | None = None,
    engine: str = "local", address: str | None = None,
) -> int:  # fmt: skip
    """Run notebooks and return the exit code: 0 all well, 1 a notebook failed, 2 unusable arguments, 130 Ctrl-C.

    `profile` is smoke, cpu or gpu (default: by what is here), `model` is tiny, a folder or a Hub id, `only` holds
    notebook names with commas between them, `run` names the folder in `results`, `params` has the form of
    `overrides.parse_overrides`. With the engine `ray`, experiments spread their settings over the machines of the
    cluster at `address` (default: RAY_ADDRESS, else one started here). Everything is checked before the first notebook
    starts.
    """
    try:
        if engine == "ray":
            connect(address)
        overrides = parse_overrides(params or "")
        known = load_experiments(experiments or paths.EXPERIMENTS, notebooks or paths.NOTEBOOKS)
        choice = choose_profile(profile or None)
        model_id, from_hub = resolve_model(model)
        tasks = plan_tasks(known, choice.value, model_id, only, overrides)
        folder = run_folder((results or paths.RESULTS).absolute(), run or None, choice.value)
    except (ExperimentsError, ParameterError, PlanError, Refused) as error:
        print(error, file=sys.stderr)
        return 2
    _say(f"profile {choice}, run {folder.name}")
    record = start_record(folder.name, choice.value, choice.reason)
    before = read_record(folder)
    record["notebooks"] = before.get("notebooks", {})
    asked = {"profile": profile, "model": model, "only": only, "run": run, "params": params or None, "engine": engine}
    session = {"started": record["started"], "ended": None, "exit_code": None, "asked": asked}
    record["sessions"] = [*before.get("sessions", []), session]
    return _run_all(tasks, folder, record, _environment(folder, choice.value, from_hub) | engine_variables(engine))


def _environment(folder: Path, profile: str, from_hub: bool) -> dict[str, str]:
    # Bars inside notebooks reach nobody while they run, and stay behind as widgets at 0 %.
    environment = {"OCRLAB_RUN_FOLDER": str(folder), "OCRLAB_PROFILE": profile, "TQDM_DISABLE": "1"}
    # Nothing goes to the network unless MODEL names something there; the user's own HF_HUB_OFFLINE then stands.
    return environment | ({} if from_hub else {"HF_HUB_OFFLINE": "1"})


def _run_all(tasks: list[Task], folder: Path, record: dict[str, Any], environment: dict[str, str]) -> int:
    statuses = {}
    try:
        write_record(folder, record)
        for place, task in enumerate(tasks, start=1):
            entry = _run_one(task, f"[{place}/{len(tasks)}] {task.experiment.name}", folder, environment)
            statuses[task.experiment.name] = entry["status"]
            record["notebooks"][task.experiment.name] = entry | {
                "profile": record["profile"], "commit": record["commit"], "dirty": record["dirty"],
            }  # fmt: skip
            record["ended"] = now()
            write_record(folder, record)
            if entry["status"] == "interrupted":
                break
        pack_records(folder)
        code = 130 if "interrupted" in statuses.values() else int(not set(statuses.values()) <= {"ok", "skipped"})
        record["sessions"][-1] |= {"ended": record["ended"], "exit_code": code}
        write_record(folder, record | readings_record(folder))
        site = build_site(folder)
        build_overview(folder.parent)
    except OSError as error:
        print(f"{folder}: cannot be written to any more ({error}); free some room and run again with "
              f"RUN={folder.name}: what is there is kept", file=sys.stderr)  # fmt: skip
        return 1
    _say(_table({name: record["notebooks"][name] for name in statuses}) + f"\nsite: {site}")
    return code


def _run_one(task: Task, label: str, folder: Path, environment: dict[str, str]) -> dict[str, Any]:
    one = task.experiment
    started, clock = now(), time.monotonic()
    if task.skipped:
        outcome = Outcome("skipped", reason=task.skipped)
    else:
        given = ", ".join(f"{name}={value!r}" for name, value in task.parameters.items())
        _say(f"{label} starts{f' with {given}' if given else ''}")
        output = folder / "notebooks" / f"{one.name}.ipynb"
        outcome = run_notebook(one.notebook, output, task.parameters, environment, one.cell_timeout_s, label)
    seconds = time.monotonic() - clock
    why = f", {outcome.cell}: {outcome.reason}".replace(", : ", ": ") if outcome.reason else ""
    _say(f"{label} {outcome.status} after {seconds:.1f} s{why}")
    defaults = {name: parameter.default for name, parameter in read_parameters(one.notebook).items()}
    return {
        **asdict(outcome), "seconds": round(seconds, 1), "started": started, "parameters": defaults | task.parameters,
    }  # fmt: skip


def _table(entries: dict[str, dict[str, Any]]) -> str:
    rows = [("notebook", "outcome", "seconds", "failing cell")]
    rows += [(name, e["status"], f"{e['seconds']:.1f}", e["cell"]) for name, e in entries.items()]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}  {d}".rstrip() for a, b, c, d in rows]
    return "\n".join(["", *lines, ""])


def _say(text: str) -> None:
    print(text, flush=True)
