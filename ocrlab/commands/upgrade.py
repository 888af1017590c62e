"""`make upgrade`: newer versions in a second environment, tried there, shown beside the old, and only then offered.

`.venv` is in use, `.venv-STAMP` a candidate, `.venv-previous` the one before. Each keeps the `constraints.txt` that it
was made from, so that going back brings the pins back, too.
"""

from __future__ import annotations

import os
import re
import shutil
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from ocrlab import paths
from ocrlab.commands.parameters import CommandFailed
from ocrlab.study.records import readings_in

# What is run in each environment, as modules of its Python. {run} is replaced by the smoke run's name.
STEPS: dict[str, list[str]] = {
    "doctor": ["ocrlab", "doctor"],
    "smoke": ["ocrlab", "reproduce", "--profile", "smoke", "--run", "{run}"],
    "tests": ["pytest", "tests", "-q", "-p", "no:cacheprovider"],
}
# The tests show whether the new one works; that the old one does is known.
OLD_STEPS = ("doctor", "smoke")
_PINS = "constraints.txt"


@dataclass
class Trial:
    """What came of an environment's trial: how each step ended (`ok: …` or `failed: …`), and its smoke run's folder."""

    versions: dict[str, str]
    steps: dict[str, str] = field(default_factory=dict)
    run: Path | None = None


def upgrade(names: Sequence[str] | None, yes: bool = False, take: str = "", root: Path = paths.ROOT) -> int:
    """Make, try and offer an environment with newer versions of `names` (all for none); return 0.

    `yes` swaps without asking, `take` swaps a candidate that an earlier call left.

    Raises:
        CommandFailed: a step failed, and nothing was changed; the message says what to look at.
    """
    if not take:
        take = _make_and_try(root, names or [])
        if not take or not (yes or _agreed(take)):
            return 0
    swap(root, take)
    _say("in use from now on, with its constraints.txt; `make rollback` goes back")
    return 0


def rollback(root: Path = paths.ROOT) -> int:
    """Exchange the environment in use and the one before the last upgrade, each with its pins; return 0.

    Raises:
        CommandFailed: no upgrade was made here.
    """
    current, previous, aside = root / ".venv", root / ".venv-previous", root / ".venv-aside"
    if not (previous / _PINS).is_file():
        raise CommandFailed(f"{previous}: there is no environment to go back to")
    shutil.copy(root / _PINS, current / _PINS)
    current.rename(aside)
    previous.rename(current)
    aside.rename(previous)
    _take_pins(root)
    _say("in use: the environment from before the upgrade, with its constraints.txt; `make rollback` again undoes this")
    return 0


def swap(root: Path, stamp: str) -> None:
    """Put a candidate in use with its pins; what was in use stays as the previous one until the next upgrade.

    Raises:
        CommandFailed: no such candidate, or the system does not let go of the one in use; nothing is changed then.
    """
    current, previous, candidate = root / ".venv", root / ".venv-previous", root / f".venv-{stamp}"
    if not (candidate / _PINS).is_file():
        raise CommandFailed(f"{candidate}: no finished candidate there; run the upgrade again")
    shutil.copy(root / _PINS, current / _PINS)
    _remove(previous)
    try:
        current.rename(previous)
        if os.name == "nt":
            candidate.rename(current)
        else:  # a link, because an environment's scripts hold the path at which it was made
            current.symlink_to(candidate.name, target_is_directory=True)
    except OSError as error:
        if not current.exists() and previous.exists():
            previous.rename(current)
        raise CommandFailed(
            f"{current} cannot be exchanged ({error.strerror}); close what uses it, rename it to {previous.name} and "
            f"{candidate.name} to .venv, and copy .venv/{_PINS} over {_PINS}"
        ) from error
    _take_pins(root)


def _make_and_try(root: Path, names: Sequence[str]) -> str:
    """Return the stamp of a candidate that passed every step, or an empty text where nothing is newer."""
    stamp = f"{datetime.now():%Y%m%d-%H%M%S}"
    work, candidate = root / "build" / "upgrade" / stamp, root / f".venv-{stamp}"
    tree = _copy_tree(root, work / "tree")
    try:
        old = Trial(_installed(root / ".venv"))
        _install(candidate, tree, names, work)
        new = Trial(_installed(candidate))
        if old.versions == new.versions:
            _say("nothing newer that the ranges in pyproject.toml allow: nothing changed")
            return ""
        lines = [line for line in (root / _PINS).read_text(encoding="utf-8").splitlines() if line.startswith("#")]
        pinned = _versions((root / _PINS).read_text(encoding="utf-8"))
        new_pins = {name: v for name, v in pinned.items() if name not in old.versions} | new.versions  # other systems'
        lines += [f"{name}=={version.split('+')[0]}" for name, version in sorted(new_pins.items())]
        (tree / _PINS).write_text("\n".join(lines) + "\n", encoding="utf-8")
        _try(root / ".venv", tree, old, OLD_STEPS, work / "old")
        _try(candidate, tree, new, tuple(STEPS), work / "new")
        (work / "report.md").write_text(text := report(old, new), encoding="utf-8")
        _say(text)
        if step := next((step for step, end in new.steps.items() if end.startswith("failed")), None):
            raise CommandFailed(
                f"{step} failed in the new environment: {work / f'new-{step}.log'}; nothing was changed"
            )
        _pip(candidate, ["--no-deps", "--editable", str(root)], work, "installing this checkout")
        shutil.copy(tree / _PINS, candidate / _PINS)
    finally:
        shutil.rmtree(tree, ignore_errors=True)
        if not (candidate / _PINS).is_file():
            _remove(candidate)
    return stamp


def _copy_tree(root: Path, tree: Path) -> Path:
    """Copy what git tracks or would track, so that nothing of a trial touches the checkout."""
    command = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True, encoding="utf-8", check=False)
    if listed.returncode:
        raise CommandFailed(f"{root}: not a git checkout ({listed.stderr.strip()}); clone it with git")
    for name in filter(None, listed.stdout.split("\0")):
        if (root / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, tree / name)
    return tree


def _install(candidate: Path, tree: Path, names: Sequence[str], work: Path) -> None:
    """Make an environment with newer versions of `names` and what they need, all else as pinned (no names: all newer).

    uv resolves and installs where it is found; pip installs the pins first, then what is newer.
    """
    pins, log, doing = tree / _PINS, work / "install.log", "installing the newer versions"
    pinned = _versions(pins.read_text(encoding="utf-8"))
    if missing := [name for name in names if canonicalize_name(name) not in pinned]:
        raise CommandFailed(f"{missing[0]} is not pinned in {_PINS}; nothing to upgrade")
    extras = tomllib.loads((tree / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    wanted = ["--editable", f"{tree}[{','.join(extras)}]"]
    uv = _uv()
    _say(f"making {candidate.name} with {'uv' if uv else 'pip'}; what is in use is not touched")
    index = _torch_index(tree)
    # Not `uv venv`: `make` installs with the pip that an environment holds.
    _run([getattr(sys, "_base_executable", sys.executable), "-m", "venv", str(candidate)], log, "making an environment")
    if uv:
        newer = [f"--upgrade-package={name}" for name in names] or ["--upgrade"]
        resolved = str(shutil.copy(pins, work / "resolved.txt"))
        flags = ["--quiet", "--python", _python(candidate)]
        flags += ["--extra-index-url", index, "--index-strategy", "unsafe-best-match"] if index else []
        source = [str(tree / "pyproject.toml"), "--all-extras", "--output-file", resolved]
        _run([uv, "pip", "compile", *source, *newer, *flags], log, doing)
        _run([uv, "pip", "install", "--constraint", resolved, *wanted, *flags], log, doing)
        return
    wanted += ["--extra-index-url", index] if index else []
    if names:
        _pip(candidate, ["--constraint", str(pins), *wanted], work, "installing the pinned versions")
    _pip(candidate, ["--upgrade", *wanted, *names], work, doing)


def _torch_index(tree: Path) -> str:
    """Return the index with this machine's build of torch; empty where pip's own settings serve.

    A build is `2.14.1+cu130`, which is newer than a plain `2.14.1`, so one more index is enough to be given it.
    """
    command = [sys.executable, str(tree / "make.py"), "torch-index"]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def _pip(candidate: Path, arguments: Sequence[str], work: Path, doing: str) -> None:
    _run([_python(candidate), "-m", "pip", "install", "--quiet", *arguments], work / "install.log", doing)


def _uv() -> str | None:
    """Return uv's path; None where there is none, or where pip's settings name indexes or proxies: uv has its own."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    settings = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return None if re.search(r"\.(\S*index\S*|find-links|cert|proxy)=", settings) else shutil.which("uv")


def _installed(environment: Path) -> dict[str, str]:
    """Return the versions in an environment by name, but for the project and the tools that every environment has."""
    command = [_python(environment), "-m", "pip", "list", "--format=freeze", "--exclude-editable"]
    command += ["--exclude=pip", "--exclude=setuptools"]
    return _versions(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _versions(lines: str) -> dict[str, str]:
    pairs = (line.split("==") for line in lines.splitlines() if "==" in line)
    return {canonicalize_name(name): version for name, version in pairs}


def _try(environment: Path, tree: Path, trial: Trial, steps: Sequence[str], kept: Path) -> None:
    """Run the steps with one environment in the copied tree, note how each ended, and keep the smoke run."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("OCRLAB_")}
    own |= {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    for step in steps:
        _say(f"{kept.name}: {step}")
        log = kept.with_name(f"{kept.name}-{step}.log")
        words = [word.format(run=kept.name) for word in STEPS[step]]
        ended = "failed" if _logged([_python(environment), "-m", *words], log, tree, own) else "ok"
        trial.steps[step] = f"{ended}: {_last_line(log)}".replace("|", "/")
    if (tree / "results" / kept.name / "readings").is_dir():
        trial.run = shutil.copytree(tree / "results" / kept.name, kept)


def report(old: Trial, new: Trial) -> str:
    """Return both trials side by side, as Markdown: versions, steps, texts that changed, speed."""
    lines = ["# Upgrade: old and new", "", "| package | old | new |", "|---|---|---|"]
    for name in sorted(old.versions.keys() | new.versions.keys()):
        before, after = (trial.versions.get(name, "–") for trial in (old, new))
        lines += [f"| {name} | {before} | {after} |"] if before != after else []
    lines += ["", "| step | old | new |", "|---|---|---|"]
    lines += [f"| {step} | {old.steps.get(step, 'not run')} | {end} |" for step, end in new.steps.items()]
    if old.run and new.run:
        changed, common, ratio = compare_runs(old.run, new.run)
        lines += ["", f"{len(changed)} of {common} texts changed in the smoke run.", *changed[:20]]
        lines += [f"- and {len(changed) - 20} more"] if len(changed) > 20 else []
        speed = "not measured" if ratio is None else f"{ratio:.2f} (one run after the other: noise is not excluded)"
        lines += ["", f"Seconds per page, new over old, median: {speed}."]
    return "\n".join(lines) + "\n"


def compare_runs(old: Path, new: Path) -> tuple[list[str], int, float | None]:
    """Return a line for each reading whose text or status differs, how many readings two runs have in common, and the
    median of new seconds per page over old (None where there are none)."""
    one, other = _readings(old), _readings(new)
    common = [(key, one[key], other[key]) for key in one if key in other]
    changed = [
        f"- {key[0]}, {key[1]}: {_outcome(before)!r} → {_outcome(after)!r}"
        for key, before, after in common
        if _outcome(before) != _outcome(after)
    ]
    times = [(before["measured"]["page_s"], after["measured"]["page_s"]) for _, before, after in common]
    ratios = [after / before for before, after in times if before and after]
    return changed, len(common), statistics.median(ratios) if ratios else None


def _readings(run: Path) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Return a run's readings by experiment, page, settings and repetition: what two runs have in common."""
    return {(r["experiment"], r["page"], str(sorted(r["asked"].items())), r["repeat"]): r for r in readings_in(run)}


def _outcome(record: dict[str, Any]) -> str:
    return record["text"] if record["status"] == "ok" else f"{record['status']}: {record['text'] or record['reason']}"


def _agreed(stamp: str) -> bool:
    question = "Use the new environment from now on? The old one stays for `make rollback`. [y/N] "
    if sys.stdin.isatty() and input(question).lower() == "y":
        return True
    _say(f"left as it is; `make upgrade TAKE={stamp}` swaps later, and removing .venv-{stamp} drops it")
    return False


def _take_pins(root: Path) -> None:
    shutil.copy(root / ".venv" / _PINS, root / _PINS)
    (root / ".venv" / ".ready").touch()  # newer than the pins: `make` has nothing to install


def _remove(environment: Path) -> None:
    """Remove an environment, and what it links to."""
    shutil.rmtree(environment.resolve(), ignore_errors=True)
    if environment.is_symlink():
        environment.unlink()


def _logged(command: Sequence[str], log: Path, folder: Path, environment: dict[str, str] | None = None) -> int:
    with log.open("ab") as file:
        return subprocess.run(command, cwd=folder, env=environment, stdout=file, stderr=file, check=False).returncode


def _run(command: Sequence[str], log: Path, doing: str) -> None:
    if _logged(command, log, log.parent):
        raise CommandFailed(f"{doing} failed: {_last_line(log)} (all of it: {log}); nothing was changed")


def _last_line(log: Path) -> str:
    lines = [line.strip(" =") for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "")[:200]


def _python(environment: Path) -> str:
    return str(environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))


def _say(text: str) -> None:
    print(text, flush=True)
