"""Set-up, for the Makefile and make.bat alike, and the Makefile's targets for systems without make.

    python make.py setup           makes .venv, decides which build of torch, installs the pinned versions
    python make.py setup HERE=1    the same into the Python that runs this (a conda environment)

It runs before anything is installed, so it needs the standard library only. It looks for NVIDIA's driver, reads pip's
settings, and asks PyTorch's index for one page; nothing outside this folder (with HERE=1: that Python) is changed.
"""

from __future__ import annotations

import ast
import http.client
import json
import os
import platform
import re
import shutil
import signal
import ssl
import subprocess
import sys
import urllib.parse
import urllib.request
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
PYTORCH = "https://download.pytorch.org/whl"
# The oldest driver that each CUDA generation takes (NVIDIA's CUDA Compatibility guide, minor version compatibility).
CUDA_13_DRIVER, CUDA_12_DRIVER = 580, 525
# The cards that the builds have kernels for: cu126 ends before Blackwell (10.0 and 12.0), cu130 begins with Turing.
BLACKWELL, TURING = (10, 0), (7, 5)
CHECK_S = 5


@dataclass(frozen=True)
class Facts:
    """What the choice of torch depends on.

    `driver` is the version that nvidia-smi gives, empty where it does not answer, None where there is none; `card` is
    the newest card's compute capability; `own_index` says that pip's settings name an index or forbid one; `asked` is
    TORCH_BUILD.
    """

    system: str
    wsl: bool = False
    driver: str | None = None
    card: tuple[int, int] | None = None
    own_index: bool = False
    asked: str = ""


@dataclass(frozen=True)
class Plan:
    """Which build of torch (`cpu`, `cu126`, `cu130`; empty: what pip's own settings give), its index, and why."""

    build: str
    why: str
    index: str = ""
    extras: tuple[str, ...] = ("quantized", "serve")
    asked: bool = False


def choose(facts: Facts) -> Plan:
    """Return the plan for a system, without a look at anything but the facts.

    Raises:
        ValueError: TORCH_BUILD is no build.
    """
    build, why = _asked(facts.asked) if facts.asked else _build(facts)
    compiles = facts.system == "Windows" and facts.driver  # torch for Windows comes without Triton
    extras = ("quantized", "serve", *(["compile"] if compiles else []))
    index = facts.asked if "://" in facts.asked else f"{PYTORCH}/{build}"
    if build and facts.own_index and not facts.asked:
        why += f"; pip's settings name their own index, so torch comes from there ({_holds(facts)})"
        why += f"; for PyTorch's own: make setup TORCH_BUILD={build}"
        return Plan("", why, extras=extras)
    return Plan(build, why, index if build else "", extras, asked=bool(facts.asked))


def _asked(asked: str) -> tuple[str, str]:
    build = asked.rstrip("/").rpartition("/")[2]
    if asked != "default" and not re.fullmatch(r"cpu|cu\d{3}", build):
        raise ValueError(f"TORCH_BUILD={asked}: use cpu, cu126, cu130, default, or an index's URL that ends so")
    return ("" if asked == "default" else build), f"TORCH_BUILD={asked} was asked for"


def _build(facts: Facts) -> tuple[str, str]:
    """Return the build for a system, driver and card, and why."""
    if facts.system == "Darwin":
        return "", "macOS: torch comes from pip's own index, with Metal on Apple's processors"
    if facts.driver is None:
        return "cpu", "no NVIDIA driver here"
    if not facts.driver:
        return "cpu", "nvidia-smi is here but does not answer: run it to see why, then `make setup` again"
    version = int(facts.driver.split(".")[0])
    found = f"NVIDIA driver {facts.driver}{' under WSL' if facts.wsl else ''}"
    if facts.card:
        found += ", compute capability {}.{}".format(*facts.card)
    old_card = facts.card is not None and facts.card < TURING
    if version >= CUDA_13_DRIVER and not old_card:
        return "cu130", found
    if facts.card is not None and facts.card >= BLACKWELL:
        need = f"this card needs CUDA 13.0, and that needs driver {CUDA_13_DRIVER} or newer: update the driver"
        return "cu130", f"{found}; {need} (until then torch uses the CPU)"
    if version < CUDA_12_DRIVER:
        return "cpu", f"{found} is too old for CUDA 12 and 13: update it, then `make setup` again"
    why = "CUDA 13 has no code for this card" if old_card else f"CUDA 13.0 needs driver {CUDA_13_DRIVER} or newer"
    return "cu126", f"{found}; {why}"


def fall_back(plan: Plan, facts: Facts, problem: str) -> Plan:
    """Return the plan that takes torch by pip's own settings, because the chosen index cannot give it."""
    why = f"{plan.why}; but {problem}, so torch comes by pip's own settings ({_holds(facts)})"
    return replace(plan, build="", index="", why=why)


def _holds(facts: Facts) -> str:
    cuda = "a CUDA 13.0 build of some gigabytes, which runs on a CPU, too"
    held = "a CPU build" if facts.system == "Windows" else cuda
    return f"the usual index has {held}"


def suits(plan: Plan, version: str, torch: str, cuda: str) -> bool:
    """Return whether an installed torch (empty: none) of a CUDA version (empty: a CPU build) can stay.

    A CUDA build stays where nobody asked for another, for it runs on a CPU, too.
    """
    if torch.split("+")[0] != version:
        return False
    if not plan.build or (plan.build == "cpu" and not plan.asked):
        return True
    return cuda.split(".")[0] == ("" if plan.build == "cpu" else plan.build[2:4])


def setup(given: dict[str, str], only_if_stale: bool = False) -> None:
    """Make the environment what the pins and this machine ask for; print what was chosen and why."""
    home = Path(sys.prefix) if given.get("HERE") else ROOT / ".venv"
    ready, ready_test = home / ".ready", home / ".ready-test"
    python = sys.executable if given.get("HERE") else _environment(home)
    fresh = _newer(ready, ROOT / "pyproject.toml", ROOT / "constraints.txt")
    if not (fresh and (only_if_stale or given.get("TEST"))):
        _setup(python, ready, fresh, given.get("TORCH_BUILD", ""))
    if given.get("TEST") and not _newer(ready_test, ready):
        _pip(python, "--quiet", "--editable", ".[cluster,dev,hub,train]")
        _compile(python)
        ready_test.touch()


def _setup(python: str, ready: Path, fresh: bool, asked: str) -> None:
    here = _look(python)
    plan, version, fits = _decide(python, here, asked)
    fresh = fresh and json.loads(ready.read_text() or "{}").items() <= here["versions"].items()
    what = f"the {plan.build} build of torch" if plan.build else "torch"
    print(f"setup: {what}: {plan.why}", flush=True)
    if not (fresh and fits):
        print("setup: installing the versions of constraints.txt (some minutes, once)", flush=True)
        _pip(python, "--quiet", "pip", "setuptools")
        if plan.build and not fits:
            # Alone, because PyTorch's index lacks our pins of what torch needs; those come with all the rest.
            _pip(python, "--no-deps", "--index-url", plan.index, f"torch=={version}+{plan.build}")
        _pip(python, "--quiet", "--editable", f".[{','.join(plan.extras)}]")
        _compile(python)
        # With what is installed now: whatever goes missing or changes later is mended by the next set-up.
        ready.write_text(json.dumps(_look(python)["versions"]))
    _run(python, "-m", "ocrlab.machine.describe")


def torch_index(asked: str) -> str:
    """Return the index that this machine's torch comes from; empty where pip's own settings serve."""
    return _decide(sys.executable, {**_look(sys.executable), "torch": ""}, asked)[0].index


def _decide(python: str, here: dict[str, Any], asked: str) -> tuple[Plan, str, bool]:
    """Return the plan for this machine, the pinned version of torch, and whether the installed one stays."""
    settings = _pip_settings(python)
    facts = _facts(settings, asked)
    plan = choose(facts)
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    version = dict(re.findall(r"^([\w-]+)==(\S+)", pins, re.M))["torch"]
    fits = suits(plan, version, here["torch"], here["cuda"])
    if plan.build and not fits and not plan.asked and (problem := unreachable(plan, version, here, settings)):
        plan = fall_back(plan, facts, problem)
        fits = suits(plan, version, here["torch"], here["cuda"])
    return plan, version, fits


def _look(python: str) -> dict[str, Any]:
    """Return what an environment's Python says of itself: its tags, torch, CUDA, and all versions by name."""
    found: dict[str, Any] = json.loads(_output(python, "-c", _LOOK))
    return found


_LOOK = """
import importlib.metadata, importlib.util, json, pathlib, re, sys, sysconfig
found = importlib.util.find_spec("torch")
text = pathlib.Path(found.origin).with_name("version.py").read_text() if found and found.origin else ""
said = {name: re.search(name + r"\\b[^=\\n]*= '(.*)'", text) for name in ("__version__", "cuda")}
print(json.dumps({
    "torch": said["__version__"][1] if said["__version__"] else "", "cuda": said["cuda"][1] if said["cuda"] else "",
    "python": "cp%d%d" % sys.version_info[:2], "platform": sysconfig.get_platform(),
    "versions": {one.metadata["Name"]: one.version for one in importlib.metadata.distributions()},
}))
"""


def unreachable(plan: Plan, version: str, here: dict[str, Any], settings: dict[str, str]) -> str:
    """Return why the plan's index cannot give this Python its torch; empty where it can. It takes seconds at most.

    Proxies are the environment's or pip's, certificates the system's or pip's.
    """
    try:
        tls = ssl.create_default_context(cafile=settings.get("cert"))
        handlers: list[urllib.request.BaseHandler] = [urllib.request.HTTPSHandler(context=tls)]
        if proxy := settings.get("proxy"):
            handlers.append(urllib.request.ProxyHandler({"http": proxy, "https": proxy}))
        # Named, because content networks refuse urllib's own name.
        request = urllib.request.Request(f"{plan.index}/torch/", headers={"User-Agent": "ocrlab-setup"})
        with urllib.request.build_opener(*handlers).open(request, timeout=CHECK_S) as page:
            listed = urllib.parse.unquote(page.read().decode("utf-8", "replace"))
    except (OSError, http.client.HTTPException) as error:
        return f"{plan.index} cannot be reached ({getattr(error, 'reason', error)})"
    system, _, machine = here["platform"].replace("-", "_").partition("_")
    wheel = rf"torch-{re.escape(version)}\+{plan.build}-{here['python']}-\w*-\S*{system}\S*{machine}\.whl"
    missing = f"{plan.index} has no torch {version} for {here['python']} on {here['platform']}"
    return "" if re.search(wheel, listed) else missing


def _facts(settings: dict[str, str], asked: str) -> Facts:
    driver, card = _driver()
    wsl = "microsoft" in platform.release().lower()
    no_index = settings.get("no-index", "").lower() not in {"", "0", "false", "no", "off"}
    return Facts(platform.system(), wsl, driver, card, no_index or "index-url" in settings, asked)


def _driver() -> tuple[str | None, tuple[int, int] | None]:
    """Return the driver's version (empty where nvidia-smi does not answer) and the newest card's capability."""
    windows = Path(os.environ.get("SYSTEMROOT", r"C:\Windows"), "System32", "nvidia-smi.exe")
    places = [shutil.which("nvidia-smi"), str(windows), "/usr/lib/wsl/lib/nvidia-smi"]
    program = next((place for place in places if place and Path(place).is_file()), None)
    if not program:
        return None, None
    try:
        said = _output(program, "--query-gpu=driver_version,compute_cap", "--format=csv,noheader", timeout=30)
    except (OSError, subprocess.SubprocessError):
        return "", None
    found = re.findall(r"^(\d+[\d.]*), *(?:(\d+)\.(\d+))?", said, re.M)
    cards = [(int(major), int(minor)) for _, major, minor in found if major]
    return (found[0][0] if found else ""), max(cards, default=None)


def _pip_settings(python: str) -> dict[str, str]:
    """Return pip's settings for `pip install` by name, from its files and the environment."""
    sections: dict[str, dict[str, str]] = {"global": {}, "install": {}, ":env:": {}}
    for line in _output(python, "-m", "pip", "config", "list").splitlines():
        if found := re.match(r"(global|install|:env:)\.([\w-]+)=(.*)", line):
            sections[found[1]][found[2]] = ast.literal_eval(found[3])
    return {name: value for section in sections.values() for name, value in section.items()}


def _environment(home: Path) -> str:
    """Return the Python of `.venv`, which is made anew where it does not run."""
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if python.is_file() and not subprocess.call([str(python), "-c", ""], stderr=subprocess.DEVNULL):
        return str(python)
    if sys.version_info < (3, 11):  # noqa: UP036 (whoever has an older one shall read this sentence)
        said = "{}.{}".format(*sys.version_info[:2])
        sys.exit(f"{sys.executable} is Python {said}; ocrlab needs 3.11 or newer: make PYTHON=/path/to/python3.11 ...")
    print(f"setup: making .venv with {sys.executable}", flush=True)
    shutil.rmtree(home, ignore_errors=True)
    _run(sys.executable, "-m", "venv", str(home))
    return str(python)


def _newer(stamp: Path, *files: Path) -> bool:
    return stamp.is_file() and all(stamp.stat().st_mtime >= file.stat().st_mtime for file in files)


def _pip(python: str, *words: str) -> None:
    """Install within the pins, not compiled by pip, which takes one core and every file."""
    _run(python, "-m", "pip", "install", "--no-compile", "--constraint", "constraints.txt", *words)


def _compile(python: str) -> None:
    """Compile on all cores, without tests and other models; what does not compile is never imported."""
    left_out = r"[/\\]tests[/\\]|[/\\]transformers[/\\]models[/\\](?!auto|qwen2)"
    folder = _output(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    command = [python, "-m", "compileall", "-qq", "--workers", "0", "-x", left_out, folder]
    subprocess.call(command, cwd=str(ROOT), env=_variables())


def _run(*command: str) -> None:
    if code := subprocess.call(command, cwd=str(ROOT), env=_variables()):
        sys.exit(code)


def _output(*command: str, timeout: float | None = None) -> str:
    done = subprocess.run(command, env=_variables(), stdout=subprocess.PIPE, check=True, timeout=timeout)
    return done.stdout.decode("utf-8", "replace")


def _variables() -> dict[str, str]:
    """Return the environment for other programs, without what would bring packages from elsewhere into `.venv`."""
    kept = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTHONHOME"}}
    return {**kept, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_USER": "0", "PYTHONUTF8": "1"}  # paths of any letters


# The targets that are no command of ocrlab, as modules of the environment's Python.
_SOURCES, _NBVAL = "ocrlab data/recipes tests make.py", "--nbval-lax --nbval-cell-timeout=120"
_MODULES = {
    "notebooks": ["ocrlab refresh"],
    "test": [f"pytest --numprocesses {{JOBS}} --dist loadfile --no-loadscope-reorder {_NBVAL} tests notebooks"],
    "check": [f"ruff check {_SOURCES} notebooks", f"ruff format --check {_SOURCES}", "mypy"],
    "pages": ["data.recipes.pages --check"],
    "train-tiny": ["data.recipes.train"],
}
_NEED_TEST = {"test", "check", "pages", "train-tiny"}
# Variables that ocrlab's commands take as arguments without a flag; every other NAME=value is `--name value`.
_ARGUMENTS = {"report": "RUN", "share": "RUN", "add": "RUN", "verify": "RUN", "upgrade": "NAMES"}


def targets() -> dict[str, str]:
    """Return the Makefile's targets with what each does."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return dict(re.findall(r"^([a-z-]+):.*?## (.*)$", makefile, re.M))


def commands(target: str, given: dict[str, str]) -> list[list[str]]:
    """Return what the Makefile's target runs, each as the words after `python -m`."""
    if target in _MODULES:
        return [line.format(JOBS=given.get("JOBS", "2")).split() for line in _MODULES[target]]
    words, argument = ["ocrlab", target], _ARGUMENTS.get(target)
    if argument and given.get(argument):
        words += given[argument].split() if argument == "NAMES" else [given[argument]]
    for name, value in given.items():
        if name == "YES":
            words.append("--yes")
        elif name != argument and value:
            words += ["--as" if name == "AS_NAME" else f"--{name.lower().replace('_', '-')}", value]
    return [words]


def _target(target: str, given: dict[str, str]) -> int:
    """Run a target's commands up to the first that fails; return its exit code. Ctrl-C is left to the command."""
    signal.signal(signal.SIGINT, lambda *_: None)
    variables = _variables()
    if target == "test":
        variables.setdefault("OMP_NUM_THREADS", "1")
    for words in commands(target, given):
        if code := subprocess.call([_environment(ROOT / ".venv"), "-m", *words], cwd=str(ROOT), env=variables):
            return code
    return 0


def main(arguments: list[str]) -> int:
    """Run one target, `NAME=value` behind it as behind make; return its exit code."""
    for stream in (sys.stdout, sys.stderr):  # Windows writes into a file in a code page of a few letters
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    given = dict(word.split("=", 1) for word in arguments if "=" in word)
    target = next((word for word in arguments if "=" not in word), "help")
    if python := given.pop("PYTHON", None):
        return subprocess.call([python, str(ROOT / "make.py"), target, *(f"{k}={v}" for k, v in given.items())])
    if target == "help":
        print("\n".join(f"  make {name:11} {text}" for name, text in targets().items()))
    elif target == "clean":
        for name in ("build", ".pytest_cache", ".mypy_cache", ".ruff_cache"):
            shutil.rmtree(ROOT / name, ignore_errors=True)
    elif target in {"setup", "torch-index"}:
        given.setdefault("TORCH_BUILD", os.environ.get("TORCH_BUILD", ""))
        try:
            setup(given) if target == "setup" else print(torch_index(given["TORCH_BUILD"]))
        except ValueError as error:
            sys.exit(str(error))
    elif target in targets():
        setup({"TEST": "1"} if target in _NEED_TEST else {}, only_if_stale=True)
        return _target(target, given)
    else:
        sys.exit(f"no target {target}; there are {', '.join(targets())}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
