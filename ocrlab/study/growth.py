"""How peak memory grows with the image: blank pages of chosen image tokens, one fresh process an attention."""

from __future__ import annotations

import contextlib
import ctypes
import math
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
from PIL import Image
from tqdm.auto import tqdm

from ocrlab.machine.describe import choose_device
from ocrlab.machine.worker import Worker
from ocrlab.pages import Page
from ocrlab.reading.isolated import attempt, reader_here
from ocrlab.reading.limits import score_bytes
from ocrlab.reading.settings import Settings

if TYPE_CHECKING:
    import pandas as pd

_NUMBERS = ("image_tokens", "patches", "vision_heads", "peak_memory_bytes", "vision_s", "prefill_s")
_TOKENS = 2  # enough for the prompt's pass and one step
PATCHES_PER_TOKEN = 4
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def measure_growth(
    runs: Sequence[Settings], image_tokens: Sequence[int], *, memory_limit_bytes: int | None = None,
    exact: bool = False, timeout_s: float = 600,
) -> pd.DataFrame:  # fmt: skip
    """Return one line a setting × size: peak memory in bytes above the model at rest, seconds, status and reason.

    A blank page of nearly `image_tokens` tokens is read for two tokens; pixel limits are set to let it through. Sizes
    run upwards in one process a setting, so that an allocator's habits stay with the setting they belong to. On a CPU
    a process may hold `memory_limit_bytes` beyond its start, by default half of what is free; more is status oom.
    `exact` gives every larger piece of memory back to the system at once (glibc; others ignore it): the allocator
    otherwise keeps up to twice of what a small model really holds. It costs time, so speed is measured without it.
    """
    import pandas as pd

    lines: list[dict[str, Any]] = []
    with (
        tqdm(total=len(runs) * len(image_tokens), desc="growth", unit="page") as bar,
        Worker(_limit(runs, memory_limit_bytes)) as worker,
    ):
        for settings in runs:
            measured = False
            for count in sorted(image_tokens):
                found, status, reason = attempt(worker, peak_here, settings, count, exact, timeout_s=timeout_s)
                blank = dict.fromkeys(_NUMBERS) | {"asked_tokens": count, "status": status, "reason": reason}
                lines.append(settings.as_dict() | blank | (found or {}))
                measured = measured or found is not None
                bar.update()
            if measured:
                worker.close()  # the next setting starts in a fresh process
    return pd.DataFrame(lines)


def _limit(runs: Sequence[Settings], asked: int | None) -> int | None:
    """A quadratic attention must not take the machine down; a card refuses by itself."""
    if any(settings.device.startswith("cuda") for settings in runs) or choose_device("auto").value != "cpu":
        return None
    return asked or psutil.virtual_memory().available // 2


def peak_here(settings: Settings, count: int, exact: bool) -> dict[str, Any]:
    """Read a blank page of about so many image tokens here; return its numbers, or status and reason of its failure."""
    if exact:
        _give_memory_back_at_once()
    reader = reader_here(replace(settings, max_new_tokens=_TOKENS, min_new_tokens=None))
    rows = math.isqrt(count)
    side = math.isqrt(reader.builder.cell_pixels)
    size = (count // rows * side, rows * side)
    reader = reader_here(replace(reader.settings, min_pixels=1, max_pixels=size[0] * size[1]))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "blank.png"
        Image.new("RGB", size, "white").save(file)
        reading = reader.read(Page(f"blank-{count}", file, "", "growth"))
    if reading.peak_memory_bytes is None:
        return {"status": reading.status, "reason": reading.reason}
    return {
        "image_tokens": reading.image_tokens, "patches": reading.image_tokens * PATCHES_PER_TOKEN,
        "vision_heads": int(reader.model.config.vision_config.num_heads),
        "peak_memory_bytes": reading.peak_memory_bytes, "vision_s": reading.vision_s, "prefill_s": reading.prefill_s,
    }  # fmt: skip


def _give_memory_back_at_once() -> None:
    """Fix glibc's thresholds for mapping and trimming, which otherwise rise with what was freed (`man mallopt`)."""
    with contextlib.suppress(OSError, AttributeError):
        allocator = ctypes.CDLL(None).mallopt
        for threshold, size in ((_M_MMAP_THRESHOLD, 65_536), (_M_TRIM_THRESHOLD, 131_072)):
            allocator(threshold, size)


def growth_exponents(growth: pd.DataFrame, largest: int = 3) -> pd.DataFrame:
    """Return for each `way` the exponent of memory over image tokens, fitted in log-log over its largest sizes.

    `low` and `high` are the slopes between neighbouring sizes there; `factor` makes bytes = factor × tokens ^ exponent.
    A way with fewer than two sizes has none, and keeps its reason.
    """
    import pandas as pd

    lines = []
    for way, mine in growth.groupby("way", sort=False):
        done = mine.dropna(subset=["peak_memory_bytes"]).sort_values("image_tokens").tail(largest)
        bad = mine[mine["peak_memory_bytes"].isna()]
        line: dict[str, Any] = {"way": way, "sizes": len(done)}
        if len(done) > 1:
            line |= fit_exponent(done["image_tokens"].tolist(), done["peak_memory_bytes"].tolist())
        lines.append(line | {"reason": "" if bad.empty else bad["reason"].iloc[0]})
    return pd.DataFrame(lines)


def fit_exponent(sizes: Sequence[float], values: Sequence[float]) -> dict[str, float]:
    """Return exponent and factor of values = factor × sizes ^ exponent, and the slopes' range between neighbours."""
    x, y = np.log(np.asarray(sizes, float)), np.log(np.asarray(values, float))
    exponent, constant = np.polyfit(x, y, 1)
    slopes = np.diff(y) / np.diff(x)
    return {
        "exponent": float(exponent), "low": float(slopes.min()), "high": float(slopes.max()),
        "factor": float(np.exp(constant)),
    }  # fmt: skip


def eager_limits(memory_gib: Sequence[float], heads: int = 16, cell_pixels: int = 784) -> pd.DataFrame:
    """Return at how many image tokens eager vision attention alone exceeds each memory: derived, not measured.

    heads × P² × 8 bytes with P = 4 × image tokens; the defaults are Qwen2-VL-2B's heads and its 28 × 28 pixels a token.
    """
    import pandas as pd

    score = score_bytes(Settings(attn_implementation="eager"), size=2, on_cpu=False)
    lines = []
    for memory in memory_gib:
        patches = math.isqrt(int(memory * 2**30) // (heads * score))
        tokens = patches // PATCHES_PER_TOKEN
        lines.append({"memory_gib": memory, "image_tokens": tokens, "megapixels": tokens * cell_pixels / 1e6})
    return pd.DataFrame(lines)
