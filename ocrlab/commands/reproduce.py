"""`make reproduce`: run every notebook afresh, tell what happened to each, and build the site."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ocrlab import paths
from ocrlab.commands.for_model import CPU_MINUTES, MINUTES, PROFILE_MINUTES, check_model, fit_profile, fit_tasks
from ocrlab.commands.parameters import CommandError, CommandFailed, parse_overrides, read_parameters
from ocrlab.commands.plan import Task, choose_profile, load_experiments, plan_tasks, resolve_model, run_folder
from ocrlab.commands.run_notebook import STOPPED, Outcome, run_notebook
from ocrlab.pages.hub import fetch_sets
from ocrlab.reading.cluster import connect, engine_variables
from ocrlab.report.site import answer_of, build_overview, build_site
from ocrlab.study.provenance import now, read_record, readings_record, start_record, write_record
from ocrlab.study.records import pack_records


def reproduce(
    profile: str | None = None,
    model: str | None = None,
    only: str | None = None,
    run: str | None = None,
    params: str = "",
    engine: str = "local",
    address: str | None = None,
    minutes: float | None = None,
    *,
    results: Path | None = None,
    experiments: Path = paths.EXPERIMENTS,
    notebooks: Path = paths.NOTEBOOKS,
) -> int:
    """Run notebooks and return the exit code: 0 all well, 1 a notebook failed, 130 Ctrl-C.

    `profile` is smoke, cpu or gpu (default: by what is here), `model` is tiny, a folder or a Hub id, `only` holds
    notebook names with commas between them, `run` names the folder in `results`, `params` has the form of
    `parameters.parse_overrides`. Where `model` is another than the embedded reader, it is looked for first, and its
    pages and settings are chosen to fit about `minutes` (30 on a card or a server, 60 on a CPU). The embedded
    reader's `cpu` profile reads fewer pages where it would take longer than `minutes` (10). With the engine
    `ray`, experiments spread their settings over the machines of the cluster at `address` (default: RAY_ADDRESS, else
    one started here).

    Raises:
        CommandError, SettingError: an unusable argument; PageError: a set of the Hub that cannot be had; Refused: no
            such cluster. Nothing has run then.
        CommandFailed: the run's folder cannot be written to any more.
    """
    asked = {
        "profile": profile,
        "model": model,
        "only": only,
        "run": run,
        "params": params or None,
        "engine": engine,
        "minutes": minutes,
    }
    if engine == "ray":
        connect(address)
    overrides = parse_overrides(params)
    known = load_experiments(experiments, notebooks)
    choice = choose_profile(profile)
    model_id, from_hub = resolve_model(model)
    tasks = plan_tasks(known, choice.value, model_id, only, overrides)
    if model_id and model_id != "tiny" and choice.value != "smoke":
        tasks = _fitted(tasks, model_id, overrides, minutes, bool(only))
    elif choice.value == "cpu":
        tasks, words = fit_profile(tasks, overrides, minutes or PROFILE_MINUTES)
        _say("\n".join(words))
    elif minutes:
        raise CommandError(f"MINUTES={minutes:g} goes with MODEL= or PROFILE=cpu; {choice.value} has its own sizes")
    fetch_sets(value for task in tasks if not task.skipped for value in task.parameters.values())
    folder = run_folder((results or paths.RESULTS).absolute(), run, choice.value)
    _say(f"profile {choice}, run {folder.name}")
    before = read_record(folder)
    record = start_record(folder.name, choice.value, choice.reason)
    session = {"started": record["started"], "ended": None, "exit_code": None, "asked": asked}
    record["notebooks"] = before.get("notebooks", {})
    record["sessions"] = [*before.get("sessions", []), session]
    # Bars inside notebooks reach nobody while they run, and stay behind as widgets at 0 %.
    environment = {"OCRLAB_RUN_FOLDER": str(folder), "OCRLAB_PROFILE": choice.value, "TQDM_DISABLE": "1"}
    if not from_hub or choice.value != "smoke":  # what MODEL names on the Hub was fetched before the first notebook
        environment["HF_HUB_OFFLINE"] = "1"
    try:
        return _run_all(tasks, folder, record, environment | engine_variables(engine))
    except OSError as error:
        raise CommandFailed(
            f"{folder}: cannot be written to any more ({error}); free some room and run again with RUN={folder.name}: "
            "what is there is kept"
        ) from error


def _fitted(
    tasks: list[Task], model_id: str, overrides: dict[str, Any], minutes: float | None, named: bool
) -> list[Task]:
    """Return the tasks that suit the model and the minutes, after saying what will be read and what is left out."""
    found = check_model(model_id)
    minutes = minutes or (CPU_MINUTES if found.on_cpu else MINUTES)
    tasks, words = fit_tasks(tasks, found, overrides, minutes, named)
    _say(f"{model_id}: dtype {found.dtype}; about {found.page_s.value} s per whole page ({found.page_s.reason})")
    _say(f"for about {minutes:g} minutes:\n" + "\n".join(f"  {line}" for line in words))
    return tasks


def _run_all(tasks: list[Task], folder: Path, record: dict[str, Any], environment: dict[str, str]) -> int:
    entries = {}
    write_record(folder, record)
    for place, task in enumerate(tasks, start=1):
        name = task.experiment.name
        entry = _run_one(task, f"[{place}/{len(tasks)}] {name}", folder, environment)
        entries[name] = entry | {key: record[key] for key in ("profile", "commit", "dirty")}
        record["notebooks"][name] = entries[name]
        record["ended"] = now()
        write_record(folder, record)
        if entry["status"] == "interrupted":
            break
    pack_records(folder)
    statuses = {entry["status"] for entry in entries.values()}
    code = 130 if "interrupted" in statuses else int(not statuses <= {"ok", "skipped"})
    record["sessions"][-1] |= {"ended": record["ended"], "exit_code": code}
    write_record(folder, record | readings_record(folder))
    site = build_site(folder)
    build_overview(folder.parent)
    _say("\n".join([_table(entries), *answer_of(folder), f"\nsite: {site}"]))
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
        try:
            outcome = run_notebook(one.notebook, output, task.parameters, environment, one.cell_timeout_s, label)
        except KeyboardInterrupt:  # while no cell ran: the notebook was being opened or saved
            outcome = Outcome("interrupted", reason=STOPPED)
    seconds = time.monotonic() - clock
    why = f", {outcome.cell}: {outcome.reason}".replace(", : ", ": ") if outcome.reason else ""
    _say(f"{label} {outcome.status} after {seconds:.1f} s{why}")
    defaults = {name: parameter.default for name, parameter in read_parameters(one.notebook).items()}
    took = {"seconds": round(seconds, 1), "started": started, "parameters": defaults | task.parameters}
    return asdict(outcome) | took


def _table(entries: dict[str, dict[str, Any]]) -> str:
    rows = [("notebook", "outcome", "seconds", "failing cell")]
    rows += [(name, e["status"], f"{e['seconds']:.1f}", e["cell"]) for name, e in entries.items()]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}  {d}".rstrip() for a, b, c, d in rows]
    return "\n".join(["", *lines, ""])


def _say(text: str) -> None:
    print(text, flush=True)
