"""What is wrong with this installation, without a model: lines ok, warning or problem, each with its remedy."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import psutil
import yaml
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from ocrlab import paths
from ocrlab.machine.describe import choose_device, choose_dtype, describe_stack
from ocrlab.machine.hardware import coverage
from ocrlab.machine.quarantine import quarantined

Level = Literal["ok", "warning", "problem"]
_GIB = 2**30
CUDA_13_DRIVER = 580  # the oldest that takes CUDA 13
#: Reasons for low clocks by their bits in NVIDIA's management library, those of an idle card left out.
SLOWED = {0x4: "power limit", 0x8: "hardware slowdown", 0x20: "heat", 0x40: "heat (hardware)", 0x80: "power brake"}
KNOWN_PAIRS = Path(__file__).parent / "known_pairs.yaml"


@dataclass(frozen=True)
class Line:
    """One check: its name, level, what was found, and the remedy where something is to be done."""

    check: str
    level: Level
    found: str
    remedy: str = ""


def _room() -> Iterator[Line]:
    memory, disk = psutil.virtual_memory(), shutil.disk_usage(paths.ROOT)
    said = f"{memory.available / _GIB:.1f} of {memory.total / _GIB:.1f} GiB free"
    for name, free, found, remedy in (
        ("memory", memory.available, said, "close other programs; 2 GiB are enough for the CPU run"),
        ("disk", disk.free, f"{disk.free / _GIB:.1f} GiB free", "free 2 GiB; 6 for a 2B model"),
    ):
        yield Line(name, "ok", found) if free > 2 * _GIB else Line(name, "warning", found, remedy)


def _cache() -> Line:
    from huggingface_hub.constants import HF_HUB_CACHE

    cache = Path(HF_HUB_CACHE)
    models = sorted(p.name.removeprefix("models--").replace("--", "/") for p in cache.glob("models--*Qwen*VL*"))
    nearest = next((p for p in [cache, *cache.parents] if p.exists()), cache)
    if not os.access(nearest, os.W_OK):
        found = "the Hub's cache folder cannot be written"
        return Line("model cache", "warning", found, "set HF_HOME to a folder of yours")
    return Line("model cache", "ok", f"Qwen-VL models in the Hub's cache: {', '.join(models) or 'none'}")


def _quarantine() -> Line:
    try:
        held = quarantined()
    except ValueError as error:
        return Line("quarantine", "problem", str(error), "remove that file")
    if not held:
        return Line("quarantine", "ok", "the canary holds no setting (make reproduce ONLY=01-machine asks it)")
    refused = "; ".join(f"{' '.join(filter(None, h.variant))}: {h.reason}" for h in held)
    remedy = "use another setting; it ends with the next version of torch"
    return Line("quarantine", "warning", f"experiments refuse {refused}", remedy)


def _websocket() -> Line:
    """Jupyter's server drops a message above this size without a word: an image uploaded in a widget, for one."""
    from jupyter_core.application import JupyterApp

    app = JupyterApp(config_file_name="jupyter_server_config")
    app.load_config_file()
    own = app.config.ServerApp.get("tornado_settings", {})
    limit = own.get("websocket_max_message_size", 10 * 2**20)  # tornado's own default
    return Line("websocket", "ok", f"Jupyter takes messages of up to {limit / 2**20:.0f} MiB; larger uploads vanish")


@dataclass(frozen=True)
class Installed:
    """What the checks look at, so that broken environments can be made for tests: versions by package name,
    torch's CUDA version and architecture list, the card's compute capability, the driver's version (empty: unknown;
    None: no driver), the folders in use, the system, and the command that sets up this environment. `facts` are what
    `known_pairs.yaml` asks about beside them, by name; one that is absent is not known."""

    versions: dict[str, str]
    torch_cuda: str | None
    arch_list: tuple[str, ...]
    card: tuple[int, int] | None
    driver: str | None
    root: Path = paths.ROOT
    system: str = "Linux"
    setup: str = "make setup"
    facts: Mapping[str, Any] = field(default_factory=dict)


def examine(measured: Mapping[str, Any] | None = None) -> list[Line]:
    """Return all lines for this machine; `measured` are facts that runs here have found."""
    stack = describe_stack()
    machine = stack["machine"]
    card = tuple(int(n) for n in machine["compute_capability"].split(".")) if machine["gpu"] else None
    installed = Installed(
        versions={canonicalize_name(one.metadata["Name"]): one.version for one in importlib.metadata.distributions()},
        torch_cuda=stack["torch_cuda"],
        arch_list=tuple(stack["arch_list"]),
        card=card,  # type: ignore[arg-type]
        driver=stack["gpu_details"].get("driver") or (None if shutil.which("nvidia-smi") is None else ""),
        system=platform.system(),
        setup=_setup_command(),
        facts=facts_of(stack) | dict(measured or {}),
    )
    return [_hardware(stack), *check(installed), *_room(), _cache(), _websocket(), _quarantine()]


def facts_of(stack: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `known_pairs.yaml` asks about, from `describe_stack`; shares in whole percent."""
    gpu = stack["gpu_details"]
    free, total, slowed = (gpu.get(name) for name in ("memory_free_bytes", "memory_bytes", "clock_reasons"))
    facts = {name: stack[name] for name in ("laptop", "nvidia_on_bus")} | ({"system": "WSL"} if stack["wsl"] else {})
    return facts | {
        "free_percent": round(100 * free / total) if free is not None and total else None,
        "others": gpu.get("others") or "which the driver does not name",
        "slowed": ", ".join(words for bit, words in SLOWED.items() if (slowed or 0) & bit),
        "library_path": "cuda" in os.environ.get("LD_LIBRARY_PATH", "").lower(),
    }


def _setup_command() -> str:
    """Return what sets up the environment in use: `.venv`, or a conda environment."""
    if Path(sys.prefix).resolve() != (paths.ROOT / ".venv").resolve():
        return "python make.py setup HERE=1"
    return r".\make setup" if platform.system() == "Windows" else "make setup"


def check(installed: Installed) -> list[Line]:
    """Return the lines that follow from versions, build, card and system alone."""
    lines = [*_pins(installed), _card(installed), *_pairs(installed), _embedded(installed)]
    return [replace(line, remedy=line.remedy.replace("make setup", installed.setup)) for line in lines]


def _hardware(stack: dict[str, Any]) -> Line:
    machine, gpu = stack["machine"], stack["gpu_details"]
    device = choose_device("auto")
    text = f"{stack['system']}{' (WSL)' if stack['wsl'] else ''}; {stack['cpu']}, {machine['cores']} cores"
    text += f" ({', '.join(stack['cpu_abilities']) or 'no vector extensions'})"
    if machine["gpu"]:
        text += f"; {machine['gpu']}, {machine['multiprocessors']} SMs, {machine['gpu_memory_bytes'] / _GIB:.1f} GiB"
        text += f", driver {gpu.get('driver')}, {gpu.get('power_limit_w')} W"
    return Line("machine", "ok", f"{text}; device {device}; dtype {choose_dtype('auto', device.value)}")


def _pins(installed: Installed) -> Iterator[Line]:
    text = (installed.root / "constraints.txt").read_text(encoding="utf-8")
    pins = {str(canonicalize_name(name)): version for name, version in re.findall(r"^([\w.-]+)==(\S+)", text, re.M)}
    needed = ("torch", "transformers", "accelerate", "papermill", "jupyterlab", "pillow", "rapidfuzz", "pandas")
    if missing := [name for name in needed if name not in installed.versions]:
        yield Line("packages", "problem", f"not installed: {', '.join(missing)}", "make setup")
    here = {name: version for name, version in sorted(installed.versions.items()) if name in pins}
    other = [
        f"{name} {version} (pinned {pins[name]})"
        for name, version in here.items()
        if Version(version).public != Version(pins[name]).public
    ]
    if other:
        rest = f" and {len(other) - 6} more" if len(other) > 6 else ""
        found = f"not what constraints.txt pins: {', '.join(other[:6])}{rest}"
        yield Line("versions", "warning", found, "make setup")
    elif not missing:
        yield Line("versions", "ok", f"all as constraints.txt pins them (torch {installed.versions.get('torch')})")


def _card(installed: Installed) -> Line:
    if installed.card is None:
        if installed.driver is None:
            return Line("card", "ok", "no GPU here: the embedded reader runs on the CPU")
        why, remedy = "torch sees no device", "run nvidia-smi; restart"
        old = installed.driver and int(installed.driver.split(".")[0]) < CUDA_13_DRIVER
        if installed.torch_cuda is None:
            why, remedy = "this torch is a CPU build", "make setup (it takes the CUDA build that driver and card need)"
        elif old and installed.torch_cuda.startswith("13"):
            why = f"driver {installed.driver} is too old for CUDA {installed.torch_cuda}"
            remedy = f"update NVIDIA's driver to {CUDA_13_DRIVER} or newer"
        return Line("card", "warning", f"an NVIDIA driver is here, but {why}", remedy)
    found = coverage(installed.arch_list, installed.card)
    if found.how == "no":
        return Line("card", "problem", found.reason, "make setup (it takes the build that this card needs)")
    return Line("card", "ok" if found.how == "native" else "warning", found.reason)


def _pairs(installed: Installed) -> Iterator[Line]:
    build = "cpu" if installed.torch_cuda is None else "cuda"
    card = installed.card and "{}.{}".format(*installed.card)
    driver = {None: "none", "": "silent"}.get(installed.driver, "works")
    facts = {"system": installed.system, "driver": driver, "torch_cuda": installed.torch_cuda, **installed.facts}
    for pair in yaml.safe_load(KNOWN_PAIRS.read_text(encoding="utf-8")):
        version = installed.versions.get(pair.get("package", ""))
        applies = pair.get("build", build) == build and pair.get("absent") not in installed.versions
        applies &= "package" not in pair or _within(version, pair.get("versions", ""))
        applies &= "beside" not in pair or pair["beside"] in installed.versions
        applies &= "torch" not in pair or _within(installed.versions.get("torch"), pair["torch"])
        applies &= all(_holds(facts.get(name), asked) for name, asked in pair.get("when", {}).items())
        if applies and ("card" not in pair or _within(card, pair["card"])):
            about = f"{pair['package']} {version}: " if version else ""
            found = f"{about}{pair['what'].format(**facts)} ({pair['reference']})"
            remedy = pair.get(f"remedy_{facts['system'].lower()}") or pair["remedy"]
            yield Line(pair["id"], pair["level"], found, remedy)


def _holds(value: Any, asked: Any) -> bool:
    """Return whether a fact is as asked: within a range of whole numbers, one of a list, or there at all."""
    if isinstance(asked, str):
        return value is not None and _within(str(value), asked)
    return value in asked if isinstance(asked, list) else bool(value) is asked


def _within(version: str | None, asked: str) -> bool:
    return version is not None and SpecifierSet(asked).contains(version, prereleases=True)


def _embedded(installed: Installed) -> Line:
    weights = installed.root / "data" / "models" / "tiny" / "model.safetensors"
    if weights.is_file() and weights.stat().st_size > 1_000_000:
        return Line("embedded reader", "ok", f"{weights.stat().st_size / 1e6:.1f} MB in data/models/tiny")
    remedy = "git checkout data/models/tiny, or make train-tiny"
    return Line("embedded reader", "problem", "data/models/tiny/model.safetensors is missing or cut short", remedy)
