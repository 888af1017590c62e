"""`make upgrade`: newer versions in a second environment, tried there, shown beside the old, and only then offered."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from ocrlab import paths
from ocrlab.workspace.environments import (
    Places,
    UpgradeError,
    discard,
    installed,
    loosened,
    pins_of,
    python_of,
    roll_back,
    swap,
)
from ocrlab.workspace.side_by_side import Trial, report

# What is run in each environment, as modules of its Python. A word that begins with {run} names the smoke run's folder.
STEPS: dict[str, list[str]] = {
    "doctor": ["ocrlab", "doctor"],
    "smoke": ["ocrlab", "reproduce", "--profile", "smoke", "--run", "{run}"],
    "tests": ["pytest", "tests", "-q", "-p", "no:cacheprovider"],
}
# The tests tell whether the new one is sound; that the old one was is known.
OLD_STEPS = ("doctor", "smoke")
EXTRAS = "dev,quantized,serve,train"


def upgrade(names: Sequence[str], yes: bool = False, take: str = "", root: Path = paths.ROOT) -> int:
    """Make, try and offer an environment with newer versions of `names` (all for none); return the exit code.

    0: swapped, or nothing newer, or left for later; 1: a step failed and nothing was changed. `yes` swaps without
    asking, `take` swaps a candidate that an earlier call left.
    """
    places = Places(root)
    try:
        if take:
            swap(places, take)
            _say(f"in use: {places.candidate(take).name}; `make rollback` goes back")
            return 0
        return _upgrade(places, names, yes)
    except UpgradeError as error:
        print(error, file=sys.stderr)
        return 1


def rollback(root: Path = paths.ROOT) -> int:
    """Go back to the environment before the last upgrade, with its pins; return the exit code."""
    try:
        roll_back(Places(root))
    except UpgradeError as error:
        print(error, file=sys.stderr)
        return 1
    _say("in use: the environment from before the upgrade, with its constraints.txt; `make rollback` again undoes this")
    return 0


def _upgrade(places: Places, names: Sequence[str], yes: bool) -> int:
    stamp = f"{datetime.now():%Y%m%d-%H%M%S}"
    work = places.root / "build" / "upgrade" / stamp
    tree = _copy_tree(places.root, work / "tree")
    candidate = places.candidate(stamp)
    finished = False
    try:
        pins = (places.root / "constraints.txt").read_text(encoding="utf-8")
        old = Trial(versions=installed(places.current))
        tools: list[str] = [name for name in ("pip", "setuptools") if name in old.versions]
        _create(candidate, tree, loosened(pins, names), tools, work)
        new_pins = pins_of(candidate, pins)
        (tree / "constraints.txt").write_text(new_pins, encoding="utf-8")
        new = Trial(versions=installed(candidate))
        if old.versions == new.versions:
            _say("nothing newer that the ranges in pyproject.toml allow: nothing changed")
            return 0
        _try(places.current, tree, old, OLD_STEPS, work, "old")
        _try(candidate, tree, new, tuple(STEPS), work, "new")
        text = report(old, new)
        (work / "report.md").write_text(text, encoding="utf-8")
        _say(text)
        if step := new.failed():
            raise UpgradeError(f"{step} failed in the new environment: {work / f'new-{step}.log'}; nothing was changed")
        _run([python_of(candidate), "-m", "pip", "install", "--quiet", "--no-deps", "--editable", str(places.root)],
             places.root, work / "install.log", "installing this checkout into the new environment")  # fmt: skip
        (candidate / "constraints.txt").write_text(new_pins, encoding="utf-8")
        finished = True
    finally:
        shutil.rmtree(tree, ignore_errors=True)
        if not finished:
            discard(places, stamp)
    return _offer(places, stamp, yes)


def _offer(places: Places, stamp: str, yes: bool) -> int:
    if not yes and sys.stdin.isatty():
        yes = input("Use the new environment from now on? The old one stays for `make rollback`. [y/N] ").lower() == "y"
    if not yes:
        _say(f"left as it is; `make upgrade TAKE={stamp}` swaps later, and removing .venv-{stamp} drops it")
        return 0
    swap(places, stamp)
    _say("in use from now on, with constraints.txt; `make rollback` goes back")
    return 0


def _copy_tree(root: Path, tree: Path) -> Path:
    """Copy what git tracks or would track, so that nothing of a trial touches the checkout."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=root, capture_output=True, check=False
    )
    if listed.returncode:
        raise UpgradeError(f"{root}: not a git checkout ({listed.stderr.decode().strip()}); clone it with git")
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (root / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, tree / name)
    return tree


def _create(candidate: Path, tree: Path, constraints: str, tools: list[str], work: Path) -> None:
    loose = work / "loosened.txt"
    loose.write_text(constraints, encoding="utf-8")
    _say(f"making {candidate.name}; what is in use is not touched")
    base = getattr(sys, "_base_executable", sys.executable)
    _run([base, "-m", "venv", str(candidate)], work, work / "venv.log", "making an environment")
    for wanted in (["--upgrade", *tools], ["--editable", f"{tree}[{EXTRAS}]"]):
        _run([python_of(candidate), "-m", "pip", "install", "--quiet", "--constraint", str(loose), *wanted],
             tree, work / "install.log", "installing the newer versions")  # fmt: skip


def _run(command: list[str | Path], folder: Path, log: Path, doing: str) -> None:
    with log.open("ab") as file:
        done = subprocess.run(command, cwd=folder, stdout=file, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise UpgradeError(f"{doing} failed: {_last_line(log)} (all of it: {log}); nothing was changed")


def _try(environment: Path, tree: Path, trial: Trial, steps: Sequence[str], work: Path, label: str) -> None:
    """Run the steps with one environment in the copied tree, and note how each ended."""
    run = tree / "results" / label
    for step in steps:
        _say(f"{label}: {step}")
        log = work / f"{label}-{step}.log"
        words = [label if word == "{run}" else word for word in STEPS[step]]
        own = {k: v for k, v in os.environ.items() if not k.startswith("OCRLAB_")}
        with log.open("wb") as file:
            done = subprocess.run(
                [python_of(environment), "-m", *words], cwd=tree, stdout=file, stderr=subprocess.STDOUT, check=False,
                env=own | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            )  # fmt: skip
        trial.exit_codes[step], trial.last_lines[step] = done.returncode, _last_line(log)
    if (run / "readings").is_dir():
        kept = work / label
        shutil.copytree(run, kept)
        trial.run = kept


def _last_line(log: Path) -> str:
    lines = [line.strip(" =") for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "")[:200]


def _say(text: str) -> None:
    print(text, flush=True)
