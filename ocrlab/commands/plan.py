"""What `make reproduce` will run: profile, folder, notebooks and parameters, all settled before anything runs."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from ocrlab import paths
from ocrlab.commands.parameters import ParameterError, Yaml, check, read_parameters, suggest
from ocrlab.machine.describe import Choice, machine_name
from ocrlab.reading.settings import is_endpoint, parse_address
from ocrlab.study.provenance import known_runs, read_record, runs_here

PROFILES = ("smoke", "cpu", "gpu")
NEEDS = ("gpu", "model")
_KEYS = ("parameters", "needs", "cell_timeout_s")
# What a run may write before its first figure; a disk with less room is as good as full.
_PROBE_BYTES = 4 * 2**20


class PlanError(ValueError):
    """An argument of `make reproduce` that cannot be used; the message says what can."""


class ExperimentsError(ValueError):
    """A mistake in `experiments.yaml`; the message names the file and the entry."""


@dataclass(frozen=True)
class Experiment:
    """A notebook's full run."""

    name: str
    notebook: Path
    parameters: dict[str, dict[str, Any]]
    needs: tuple[str, ...]
    cell_timeout_s: int


@dataclass(frozen=True)
class Task:
    """One notebook to run with these parameters, or the reason not to run it."""

    experiment: Experiment
    parameters: dict[str, Any]
    skipped: str = ""


def choose_profile(asked: str | None) -> Choice:
    """Return the profile to run and why: the one asked for, else `gpu` where torch sees a CUDA device, else `cpu`."""
    if asked and asked not in PROFILES:
        raise PlanError(f"PROFILE={asked}{suggest(asked, PROFILES)}")
    if asked in ("smoke", "cpu"):
        return Choice(asked, "asked for")
    missing = gpu_missing()
    if asked and missing:
        raise PlanError(f"PROFILE={asked}: {missing}; use PROFILE=cpu, or `make setup` on a machine with a driver")
    if asked:
        return Choice(asked, "asked for")
    return Choice("cpu", missing) if missing else Choice("gpu", "torch sees a CUDA GPU")


def gpu_missing() -> str:
    """Return why no CUDA GPU can be used here, or an empty text where one can."""
    import torch

    if torch.cuda.is_available():
        return ""
    return "this torch is a CPU build" if torch.version.cuda is None else "torch sees no CUDA GPU"


def plan_tasks(
    experiments: dict[str, Experiment], profile: str, model: str | None, only: str | None, overrides: dict[str, Any]
) -> list[Task]:
    """Return the tasks in running order, every parameter of every notebook checked.

    `model` becomes `model_id`, and each override goes to every chosen notebook that has a parameter of its name.

    Raises:
        PlanError: an unknown notebook, or one asked for by name whose needs are not met here.
        ParameterError: a parameter that no chosen notebook has, or a value of another type.
    """
    chosen = _choose(experiments, only)
    given = overrides | ({"model_id": model} if model else {})
    known = {task.name: read_parameters(task.notebook) for task in chosen}
    for name in given:
        if not any(name in parameters for parameters in known.values()):
            every = dict.fromkeys(p for parameters in known.values() for p in parameters)
            raise ParameterError(f"no parameter {name!r} in {', '.join(known)}{suggest(name, every)}")
    tasks = []
    for one in chosen:
        mine = {name: value for name, value in given.items() if name in known[one.name]}
        missing = gpu_missing() if "gpu" in one.needs else ""
        skipped = f"needs a GPU: {missing}" if missing else ""
        if "model" in one.needs and is_endpoint(str(mine.get("model_id", ""))):
            skipped = "needs a model in this process: it looks inside, which nobody can on a server"
        if skipped and only:
            raise PlanError(f"ONLY={only}: {one.name} {skipped}")
        tasks.append(Task(one, check(one.notebook, one.parameters[profile] | mine), skipped))
    return tasks


def _choose(experiments: dict[str, Experiment], only: str | None) -> list[Experiment]:
    names = [name.strip().removesuffix(".ipynb") for name in (only or "").split(",") if name.strip()]
    for name in names:
        if name not in experiments:
            raise PlanError(f"ONLY={only}: no notebook {name!r}{suggest(name, experiments)}")
    return [one for name, one in experiments.items() if not names or name in names]


def resolve_model(model: str | None) -> tuple[str | None, bool]:
    """Return the model as a notebook gets it, and whether it names something on the Hub, which may be downloaded.

    A folder is made absolute. `tiny` is the embedded reader. A server's model (`endpoint:…`) stays as it is.
    """
    if not model or model == "tiny":
        return model or None, False
    if is_endpoint(model):
        try:
            parse_address(model)
        except ValueError as error:
            raise PlanError(f"MODEL: {error}") from error
        return model, False
    folder = Path(model).expanduser()
    if folder.is_dir():
        return str(folder.resolve()), False
    if not re.fullmatch(r"[\w][\w.-]*(/[\w][\w.-]*)?", model):
        raise PlanError(f"MODEL={model}: no such folder, and no Hub id (which looks like Qwen/Qwen2-VL-2B-Instruct)")
    return model, True


def run_folder(results: Path, run: str | None, profile: str) -> Path:
    """Return the run's folder, made and proved writable; an existing one named by `run` goes on.

    Raises:
        PlanError: a name that is no folder name, or a folder that cannot be written to or has no room.
    """
    name = run or f"{datetime.now():%Y-%m-%d-%H%M}-{profile}"
    if not re.fullmatch(r"\w[\w.+-]{0,99}", name) or name.endswith("."):
        raise PlanError(f"RUN={name}: not a folder name; use letters, digits, '-', '_' and '.', such as RUN=my-card")
    folder, count = results / name, 1
    while not run and folder.exists():
        count += 1
        folder = results / f"{name}-{count}"
    probe = folder / ".probe"
    try:
        (folder / "notebooks").mkdir(parents=True, exist_ok=True)
        with probe.open("wb") as file:
            file.write(bytes(_PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise PlanError(f"{folder}: cannot be written to ({error.strerror}); free at least {_PROBE_BYTES >> 20} MiB "
                        "there, or make it writable, or move the checkout to another disk") from error  # fmt: skip
    finally:
        if probe.is_file():
            probe.unlink(missing_ok=True)
    return folder


def load_experiments(file: Path = paths.EXPERIMENTS, notebooks: Path = paths.NOTEBOOKS) -> dict[str, Experiment]:
    """Return the experiments by name, in the file's order, which is the running order.

    Raises:
        ExperimentsError: the file is absent or not YAML, has an unknown key or profile, or a value of
            another kind.
    """
    try:
        entries = yaml.load(file.read_text(encoding="utf-8"), Loader=Yaml)  # a SafeLoader
    except OSError as error:
        raise ExperimentsError(f"{file}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ExperimentsError(f"{file}: not YAML: {error}") from error
    if not isinstance(entries, dict) or not entries:
        raise ExperimentsError(f"{file}: must map notebook names to their runs")
    return {str(name): _experiment(f"{file}: {name}", str(name), entry, notebooks) for name, entry in entries.items()}


def _experiment(where: str, name: str, entry: Any, notebooks: Path) -> Experiment:
    entry = _mapping(where, entry)
    _known(where, "key", entry, _KEYS)
    parameters = _mapping(f"{where}: parameters", entry.get("parameters"))
    _known(f"{where}: parameters", "profile", parameters, PROFILES)
    needs = entry.get("needs") or []
    if not isinstance(needs, list):
        raise ExperimentsError(f"{where}: needs is {needs!r}; wanted a list such as [gpu]")
    _known(where, "need", needs, NEEDS)
    limit = entry.get("cell_timeout_s")
    if type(limit) is not int or limit <= 0:
        raise ExperimentsError(f"{where}: cell_timeout_s is {limit!r}; wanted whole seconds above 0")
    each = {profile: _mapping(f"{where}: {profile}", parameters.get(profile)) for profile in PROFILES}
    return Experiment(name, notebooks / f"{name}.ipynb", each, tuple(needs), limit)


def _mapping(where: str, value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ExperimentsError(f"{where} is {value!r}; wanted a mapping of names")
    return value


def _known(where: str, what: str, given: Any, known: tuple[str, ...]) -> None:
    for name in given:
        if name not in known:
            raise ExperimentsError(f"{where} has an unknown {what} {name!r}{suggest(str(name), known)}")


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
