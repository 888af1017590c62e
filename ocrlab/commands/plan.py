"""What `make reproduce` will run: profile, folder, notebooks and parameters, all settled before anything runs."""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, PositiveInt, TypeAdapter, ValidationError

from ocrlab import paths
from ocrlab.commands.parameters import CommandError, Yaml, check, read_parameters, suggest
from ocrlab.machine.describe import Choice, machine_name
from ocrlab.reading.settings import is_endpoint, parse_address
from ocrlab.study.provenance import known_runs, read_record, runs_here

# What a run may write before its first figure; a disk with less room is as good as full.
_PROBE_BYTES = 4 * 2**20


class ForModel(BaseModel, extra="forbid", frozen=True, strict=True):
    """What a notebook reads where MODEL= names another model than the embedded reader.

    About `readings` of each page, of `least_pages` to `most_pages` pages, and `minutes` beside the pages; what has the
    lowest `rank` is left out last. A parameter `max_image_tokens…` stands for `max_pixels…` by the model's own cells.
    """

    parameters: dict[str, Any] = {}
    readings: int = 0
    least_pages: int = 0
    most_pages: int = 0
    minutes: float = 0.0
    rank: int


class Experiment(BaseModel, extra="forbid", frozen=True, strict=True):
    """A notebook's full run, as its entry in `experiments.yaml` has it."""

    parameters: dict[Literal["smoke", "cpu", "gpu"], dict[str, Any]] = {}
    emulated: dict[str, Any] = {}
    cpu_s: float = 0
    model: dict[Literal["cpu", "gpu"], ForModel] = {}
    needs: list[Literal["gpu", "model", "tiny"]] = []
    cell_timeout_s: PositiveInt
    notebook: Path = Path()

    @property
    def name(self) -> str:
        """The notebook's name, without `.ipynb`."""
        return self.notebook.stem


@dataclass(frozen=True)
class Task:
    """One notebook to run with these parameters, or the reason not to run it."""

    experiment: Experiment
    parameters: dict[str, Any]
    skipped: str = ""


def choose_profile(asked: str | None) -> Choice:
    """Return the profile to run and why: the one asked for, else `gpu` where torch sees a CUDA device, else `cpu`."""
    missing = gpu_missing() if asked in (None, "gpu") else ""
    if asked and missing:
        raise CommandError(f"PROFILE={asked}: {missing}; use PROFILE=cpu, or `make setup` on a machine with a driver")
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
        CommandError: an unknown notebook, one asked for by name whose needs are not met here, a parameter that no
            chosen notebook has, or a value of another type.
    """
    chosen = _choose(experiments, only)
    given = overrides | ({"model_id": model} if model else {})
    known = {task.name: read_parameters(task.notebook) for task in chosen}
    for name in given:
        if not any(name in parameters for parameters in known.values()):
            every = dict.fromkeys(p for parameters in known.values() for p in parameters)
            raise CommandError(f"no parameter {name!r} in {', '.join(known)}{suggest(name, every)}")
    tasks = []
    for one in chosen:
        own = {"dtype": "auto"} if model and is_endpoint(model) else {}  # a server decides it when it is started
        mine = {name: value for name, value in (own | given).items() if name in known[one.name]}
        missing = gpu_missing() if "gpu" in one.needs else ""
        skipped = f"needs a GPU: {missing}" if missing else ""
        if "model" in one.needs and is_endpoint(str(mine.get("model_id", ""))):
            skipped = "needs a model in this process: it looks inside, which nobody can on a server"
        if "tiny" in one.needs and model:
            skipped = "it is about the embedded reader; it runs without MODEL="
        if skipped and only:
            raise CommandError(f"ONLY={only}: {one.name} {skipped}")
        full: dict[str, Any] = one.parameters.get(profile, {})  # type: ignore[call-overload]  # by any text
        tasks.append(Task(one, check(one.notebook, full | mine), skipped))
    return tasks


def _choose(experiments: dict[str, Experiment], only: str | None) -> list[Experiment]:
    names = [name.strip().removesuffix(".ipynb") for name in (only or "").split(",") if name.strip()]
    for name in names:
        if name not in experiments:
            raise CommandError(f"ONLY={only}: no notebook {name!r}{suggest(name, experiments)}")
    return [one for name, one in experiments.items() if not names or name in names]


def resolve_model(model: str | None) -> tuple[str | None, bool]:
    """Return the model as a notebook gets it, and whether it names something on the Hub, which may be downloaded.

    A folder is made absolute. `tiny` is the embedded reader. A server's model (`endpoint:…`) stays as it is.

    Raises:
        CommandError: neither a folder nor a Hub id; SettingError: no address of a server.
    """
    if not model or model == "tiny":
        return model or None, False
    if is_endpoint(model):
        parse_address(model)  # which refuses what is none
        return model, False
    folder = Path(model).expanduser()
    if folder.is_dir():
        return str(folder.resolve()), False
    if not re.fullmatch(r"[\w][\w.-]*(/[\w][\w.-]*)?", model):
        raise CommandError(f"MODEL={model}: no such folder, and no Hub id (which looks like Qwen/Qwen2-VL-2B-Instruct)")
    return model, True


def checked_name(option: str, name: str) -> str:
    """Return a run's name if a folder can have it; raise CommandError, which names the option, if not."""
    if not re.fullmatch(r"\w[\w.+-]{0,99}", name) or name.endswith("."):
        raise CommandError(f"{option}{name}: not a folder name; use letters, digits, '-', '_' and '.', such as my-card")
    return name


def run_folder(results: Path, run: str | None, profile: str) -> Path:
    """Return the run's folder, made and proved writable; an existing one named by `run` goes on.

    Raises:
        CommandError: a name that is no folder name, or a folder that cannot be written to or has no room.
    """
    name = checked_name("RUN=", run or f"{datetime.now():%Y-%m-%d-%H%M}-{profile}")
    folder, count = results / name, 1
    while not run and folder.exists():
        count += 1
        folder = results / f"{name}-{count}"
    try:
        (folder / "notebooks").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(_PROBE_BYTES))
            os.fsync(probe.fileno())
    except OSError as error:
        raise CommandError(
            f"{folder}: cannot be written to ({error.strerror}); free at least {_PROBE_BYTES >> 20} MiB there, or make "
            "it writable, or move the checkout to another disk"
        ) from error
    return folder


def load_experiments(file: Path = paths.EXPERIMENTS, notebooks: Path = paths.NOTEBOOKS) -> dict[str, Experiment]:
    """Return the experiments by name, in the file's order, which is the running order.

    Raises:
        CommandError: the file is absent or not YAML, has an unknown key or profile, or a value of another kind.
    """
    try:
        entries = yaml.load(file.read_text(encoding="utf-8"), Loader=Yaml)  # a SafeLoader
        known = TypeAdapter(dict[str, Experiment]).validate_python(entries)
    except OSError as error:
        raise CommandError(f"{file}: cannot be read ({error.strerror})") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ": ".join([str(file), *(str(part) for part in first["loc"])])
        raise CommandError(f"{place}: {first['msg']} (given: {first['input']!r})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CommandError(f"{file}: not YAML: {error}") from error
    return {name: one.model_copy(update={"notebook": notebooks / f"{name}.ipynb"}) for name, one in known.items()}


def find_run(name: str | None, results: Path | None = None) -> Path:
    """Return the folder of a run by name or path, by default of the newest.

    Raises:
        CommandError: there is no such run, or its run.json is damaged; the message names those that are here.
    """
    results = results or paths.RESULTS
    runs = known_runs(results)
    if name is None:
        if not runs:
            raise CommandError(f"{results}: no run there yet; `make reproduce` makes one")
        return next(iter(runs))
    folder = Path(name) if Path(name).is_dir() else results / name
    if not read_record(folder):
        here = ", ".join(run.name for run in runs) or "none yet"
        raise CommandError(f"{folder}: no run there, or its run.json is damaged; the runs here are: {here}")
    return folder


def find_run_here(name: str | None) -> Path:
    """Return the folder of the run named, by default of the newest that was made on this machine.

    Raises:
        CommandError: there is no such run; the message says what makes one and names those that are in `results/`.
    """
    if name is not None:
        return find_run(name)
    results = paths.RESULTS
    if mine := runs_here(results):
        return mine[0]
    others = ", ".join(run.name for run in known_runs(results))
    ask = f"; RUN=name asks about another machine's: {others}" if others else ""
    raise CommandError(f"no run of this machine ({machine_name()}) in {results} yet: `make reproduce` makes one{ask}")
