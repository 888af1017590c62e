"""How long a model takes to load, from a cold file cache and from a warm one, and what it holds at each stage."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tqdm.auto import tqdm

from ocrlab.machine.worker import Worker
from ocrlab.pages import Page
from ocrlab.reading.checkpoints import CheckpointError, locate
from ocrlab.reading.isolated import attempt
from ocrlab.reading.reader import open_reader
from ocrlab.reading.settings import Settings

if TYPE_CHECKING:
    import pandas as pd

Cache = Literal["cold", "warm", "none"]
_NUMBERS = (
    "import_s", "load_s", "parameters", "weight_bytes", "prefill_bytes", "decode_bytes", "image_tokens", "tokens",
)  # fmt: skip
_PAGE = 4096


def measure_loads(
    runs: Sequence[Settings], page: Page, *, repeats: int = 2, new_tokens: int = 4, timeout_s: float = 900
) -> pd.DataFrame:
    """Return one line a setting × file cache × repetition, each load in a fresh process.

    `load_s` is from nothing to confirmed settings, `import_s` the libraries before it. `weight_bytes` are the
    parameters; `prefill_bytes` and `decode_bytes` the peak above the model at rest when the page is read for one token
    and for `new_tokens`. The cache is `cold` where the system dropped the weights' files from memory and this could be
    seen, `warm` after they were read, `none` for random weights, which are loaded once. What cannot be has its reason.
    """
    import pandas as pd

    plan = [(s, cache, n) for s in runs for cache in _caches(s) for n in range(1 if cache == "none" else repeats)]
    lines = []
    for settings, cache, repeat in tqdm(plan, desc="loads", unit="load"):
        found, status, reason = None, "unsupported", _prepare(settings, cache)
        if not reason:
            with Worker(fresh=True) as worker:
                found, status, reason = attempt(worker, load_here, settings, page, new_tokens, timeout_s=timeout_s)
        own = settings.as_dict() | {"cache": cache, "repeat": repeat, "page": page.id}
        lines.append(own | dict.fromkeys(_NUMBERS) | {"status": status, "reason": reason} | (found or {}))
    return pd.DataFrame(lines)


def load_here(settings: Settings, page: Page, new_tokens: int) -> dict[str, Any]:
    """Load here and read the page twice; return seconds, sizes in bytes, tokens, and device and dtype in force."""
    started = time.perf_counter()
    import torch  # noqa: F401
    from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer  # noqa: F401

    import_s = time.perf_counter() - started
    with open_reader(settings) as reader:
        found = {
            "import_s": import_s, "load_s": reader.load_s, "weight_bytes": reader.weight_bytes,
            "parameters": sum(p.numel() for p in reader.model.parameters()), "device": reader.device,
            "dtype": reader.dtype,
        }  # fmt: skip
        for name, tokens in (("prefill_bytes", 1), ("decode_bytes", new_tokens)):
            reader.apply(replace(settings, min_new_tokens=tokens, max_new_tokens=tokens))
            reading = reader.read(page)
            if reading.peak_memory_bytes is None:
                return {"status": reading.status, "reason": reading.reason}
            found |= {name: reading.peak_memory_bytes, "image_tokens": reading.image_tokens, "tokens": reading.tokens}
    return found


def _caches(settings: Settings) -> tuple[Cache, ...]:
    return ("none",) if settings.weights == "dummy" else ("cold", "warm")


def _prepare(settings: Settings, cache: Cache) -> str:
    """Bring the weights' files into the wanted state; return why that cannot be, or nothing."""
    if cache == "none":
        return ""
    try:
        files = sorted(locate(settings).folder.glob("*.safetensors"))
    except CheckpointError as error:
        return str(error)
    for file in files:
        if cache == "warm":
            with file.open("rb") as opened:
                while opened.read(1 << 24):
                    pass
        elif reason := drop_from_cache(file):
            return reason
    return ""


def drop_from_cache(file: Path) -> str:
    """Let the system forget a file's bytes, so that the next reading comes from the disk; return why not, or nothing.

    Linux only, and only where the file system can say what it still holds (`preadv2` with RWF_NOWAIT).
    """
    if not hasattr(os, "posix_fadvise") or not hasattr(os, "RWF_NOWAIT"):
        return "this system has no way to drop a file from its cache: a load from disk was not measured"
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        try:
            held = statistics.mean(_held(opened.fileno(), at) for at in range(0, file.stat().st_size, 1 << 20))
        except OSError:
            return f"this file system does not tell what it holds of {file.name}, so 'cold' cannot be known"
    if held > 0.02:
        return f"{held:.0%} of {file.name} stayed in memory, held by another process; end other readers of this model"
    return ""


def _held(descriptor: int, offset: int) -> bool:
    try:
        return os.preadv(descriptor, [bytearray(_PAGE)], offset, os.RWF_NOWAIT) > 0
    except BlockingIOError:
        return False
