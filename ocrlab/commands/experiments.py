"""`experiments.yaml`: every full run, with its parameters per profile, its needs and its time limit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ocrlab import paths
from ocrlab.commands.parameters import Yaml, suggest

PROFILES = ("smoke", "cpu", "gpu")
NEEDS = ("gpu", "model")
_KEYS = ("parameters", "needs", "cell_timeout_s")


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
