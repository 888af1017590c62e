"""What lies around an installation: memory, disk, the model cache, Jupyter's limits, the canary's quarantine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from ocrlab import paths
from ocrlab.machine.quarantine import quarantined

Level = Literal["ok", "warning", "problem"]
_GIB = 2**30


@dataclass(frozen=True)
class Line:
    """One check: its name, level, what was found, and the remedy where something is to be done."""

    check: str
    level: Level
    found: str
    remedy: str = ""


def surroundings() -> list[Line]:
    """Return the lines about what lies around."""
    return [*_room(), _cache(), _websocket(), _quarantine()]


def _room() -> Iterator[Line]:
    memory = psutil.virtual_memory()
    level: Level = "ok" if memory.available > 2 * _GIB else "warning"
    found = f"{memory.available / _GIB:.1f} of {memory.total / _GIB:.1f} GiB free"
    yield Line(
        "memory", level, found, "" if level == "ok" else "close other programs; 2 GiB are enough for the CPU run"
    )
    disk = shutil.disk_usage(paths.ROOT)
    level = "ok" if disk.free > 2 * _GIB else "warning"
    yield Line(
        "disk", level, f"{disk.free / _GIB:.1f} GiB free", "" if level == "ok" else "free 2 GiB; 6 for a 2B model"
    )


def _cache() -> Line:
    from huggingface_hub.constants import HF_HUB_CACHE

    cache = Path(HF_HUB_CACHE)
    models = sorted(p.name.removeprefix("models--").replace("--", "/") for p in cache.glob("models--*Qwen*VL*"))
    nearest = next((p for p in [cache, *cache.parents] if p.exists()), cache)
    if not os.access(nearest, os.W_OK):
        return Line(
            "model cache", "warning", "the Hub's cache folder cannot be written", "set HF_HOME to a folder of yours"
        )
    return Line("model cache", "ok", f"Qwen-VL models in the Hub's cache: {', '.join(models) or 'none'}")


def _quarantine() -> Line:
    try:
        held = quarantined()
    except ValueError as error:
        return Line("quarantine", "problem", str(error), "remove that file")
    if not held:
        return Line("quarantine", "ok", "the canary holds no setting (make reproduce ONLY=01-machine asks it)")
    told = "; ".join(f"{' '.join(filter(None, h.way))}: {h.reason}" for h in held)
    return Line("quarantine", "warning", f"experiments refuse {told}", "use another setting; newer versions lift it")


def _websocket() -> Line:
    """Jupyter's server drops a message above this size without a word: an image uploaded in a widget, for one."""
    from jupyter_core.paths import jupyter_config_path
    from traitlets.config.loader import JSONFileConfigLoader

    limit = 10 * 2**20  # tornado's own default
    for folder in reversed(jupyter_config_path()):
        file = Path(folder) / "jupyter_server_config.json"
        if file.is_file():
            settings = JSONFileConfigLoader(file.name, str(file.parent)).load_config()
            limit = settings.get("ServerApp", {}).get("tornado_settings", {}).get("websocket_max_message_size", limit)
    return Line("websocket", "ok", f"Jupyter takes messages of up to {limit / 2**20:.0f} MiB; larger uploads vanish")
