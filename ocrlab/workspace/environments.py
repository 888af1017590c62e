"""Environments side by side: `.venv` in use, a candidate, and the one before; and the pins that belong to each.

Each environment keeps the `constraints.txt` that it was made from, so that going back brings the pins back, too.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

_PINS = "constraints.txt"


class UpgradeError(RuntimeError):
    """A step that failed; nothing in use was changed, and the message says what to look at."""


@dataclass(frozen=True)
class Places:
    """Where the environments of a checkout are."""

    root: Path

    @property
    def current(self) -> Path:
        """The one in use."""
        return self.root / ".venv"

    @property
    def previous(self) -> Path:
        """The one before the last upgrade."""
        return self.root / ".venv-previous"

    def candidate(self, stamp: str) -> Path:
        """The one that an upgrade makes."""
        return self.root / f".venv-{stamp}"


def python_of(environment: Path) -> Path:
    """Return an environment's interpreter."""
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def plain(name: str) -> str:
    """Return a package's name as the index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def loosened(pins: str, names: Iterable[str]) -> str:
    """Return constraints without the pins of `names` and of all that these need; without any pin for no names.

    Raises:
        UpgradeError: a name that is not pinned.
    """
    lines = [line for line in pins.splitlines() if "==" in line and not line.startswith("#")]
    known = {plain(line.split("==")[0]): line for line in lines}
    free: set[str] = set()
    queue = [plain(name) for name in names]
    for name in queue:
        if name not in known:
            raise UpgradeError(f"{name} is not pinned in constraints.txt; nothing to upgrade")
    while queue:
        name = queue.pop()
        if name not in free:
            free.add(name)
            queue += _needs(name)
    kept = [line for name, line in known.items() if free and name not in free]
    return "".join(f"{line}\n" for line in kept)


def _needs(name: str) -> list[str]:
    try:
        wanted = [Requirement(text) for text in importlib.metadata.requires(name) or []]
    except importlib.metadata.PackageNotFoundError:
        return []
    return [plain(r.name) for r in wanted if r.marker is None or r.marker.evaluate({"extra": ""})]


def installed(environment: Path) -> dict[str, str]:
    """Return the versions in an environment by name, the project itself left out."""
    command = [str(python_of(environment)), "-m", "pip", "list", "--format=freeze", "--exclude-editable"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {plain(line.split("==")[0]): line.split("==")[1] for line in done.stdout.splitlines() if "==" in line}


def pins_of(environment: Path, header: str) -> str:
    """Return an environment's versions as the text of a constraints file, under the comment lines of `header`."""
    comments = [line for line in header.splitlines() if line.startswith("#")]
    pins = [f"{name}=={version.split('+')[0]}" for name, version in sorted(installed(environment).items())]
    return "\n".join([*comments, *pins]) + "\n"


def swap(places: Places, stamp: str) -> None:
    """Put a candidate in use with its pins; what was in use stays as the previous one until the next upgrade.

    Raises:
        UpgradeError: no such candidate, or the system does not let go of the one in use; nothing is changed then.
    """
    candidate = places.candidate(stamp)
    if not (candidate / _PINS).is_file():
        raise UpgradeError(f"{candidate}: no finished candidate there; run the upgrade again")
    shutil.copy(places.root / _PINS, places.current / _PINS)
    _remove(places.previous)
    try:
        places.current.rename(places.previous)
        _link(places.current, candidate)
    except OSError as error:
        if not places.current.exists() and places.previous.exists():
            places.previous.rename(places.current)
        raise UpgradeError(
            f"{places.current} cannot be exchanged ({error.strerror}); close what uses it, rename it to "
            f"{places.previous.name} and {candidate.name} to .venv, and copy .venv/{_PINS} over {_PINS}"
        ) from error
    _take_pins(places)


def roll_back(places: Places) -> None:
    """Exchange the environment in use and the previous one, each with its pins.

    Raises:
        UpgradeError: there is no previous one.
    """
    if not (places.previous / _PINS).is_file():
        raise UpgradeError(f"{places.previous}: there is no environment to go back to")
    shutil.copy(places.root / _PINS, places.current / _PINS)
    aside = places.root / ".venv-aside"
    places.current.rename(aside)
    places.previous.rename(places.current)
    aside.rename(places.previous)
    _take_pins(places)


def discard(places: Places, stamp: str) -> None:
    """Remove a candidate."""
    _remove(places.candidate(stamp))


def _link(link: Path, target: Path) -> None:
    # A link, because an environment's scripts hold the path at which it was made.
    if os.name == "nt":
        target.rename(link)
    else:
        link.symlink_to(target.name, target_is_directory=True)


def _take_pins(places: Places) -> None:
    part = places.root / f"{_PINS}.part"
    shutil.copy(places.current / _PINS, part)
    part.replace(places.root / _PINS)
    (places.current / ".ready").touch()  # newer than the pins: `make` has nothing to install


def _remove(environment: Path) -> None:
    """Remove an environment, and what it links to."""
    if environment.is_symlink():
        target = environment.resolve()
        environment.unlink()
        shutil.rmtree(target, ignore_errors=True)
    elif environment.exists():
        shutil.rmtree(environment)
