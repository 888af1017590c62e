"""How long a model takes to load, from a cold file cache and from a warm one, and what it holds at each stage."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from matplotlib.figure import Figure
from tqdm.auto import tqdm

from ocrlab.experiments.attention import measure_growth
from ocrlab.machine.describe import choose_device, choose_dtype
from ocrlab.machine.hardware import Machine, card
from ocrlab.machine.worker import Worker
from ocrlab.pages import Page
from ocrlab.reading.checkpoints import CheckpointError, locate
from ocrlab.reading.isolated import attempt
from ocrlab.reading.limits import predict, shapes_of
from ocrlab.reading.reader import Reader
from ocrlab.reading.settings import Settings
from ocrlab.study.plots import COLOURS, blank_figure
from ocrlab.study.records import settings_of

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
    with Reader(settings) as reader:
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


# Predicted against measured: memory by image tokens, and time against the floor of this machine.


def compare_memory(runs: Sequence[Settings], image_tokens: Sequence[int], timeout_s: float = 900) -> pd.DataFrame:
    """Return one line a setting × size: peak bytes predicted and measured, weights included, and their ratio.

    What cannot run has status and reason, and a prediction all the same.
    """
    measured = measure_growth([on_this(s) for s in runs], image_tokens, exact=True, timeout_s=timeout_s)
    predicted = []
    for line in measured.to_dict("records"):
        settings = replace(settings_of(line), max_new_tokens=2, min_new_tokens=None)
        found = line["image_tokens"]
        memory = predict(settings, int(found if found == found and found else line["asked_tokens"])).memory
        predicted.append({"weights_bytes": memory.weights_bytes, "predicted_bytes": memory.peak_bytes})
    for name in ("weights_bytes", "predicted_bytes"):
        measured[name] = [line[name] for line in predicted]
    measured["measured_bytes"] = measured["weights_bytes"] + measured["peak_memory_bytes"]
    return measured.assign(ratio=measured["predicted_bytes"] / measured["measured_bytes"])


def against_floor(rows: pd.DataFrame, machine: Machine) -> pd.DataFrame:
    """Return one line a setting of speed rows: median seconds of vision, prefill and a token, and the floors' shares.

    A share of 1 would be as fast as the machine's measured bandwidth (token) or matmul rate (vision, prefill) allows.
    """
    import pandas as pd

    lines = []
    done = rows[rows["status"] == "ok"]
    names = ["model_id", "weights", "dtype", "attn_implementation", "sdpa_kernel", "cache_implementation", "compile",
             "batch_size"]  # fmt: skip
    for values, group in done.groupby(names, dropna=False, sort=False):
        tokens = int(group["image_tokens"].median())
        floors = predict(on_this(settings_of(group.iloc[0])), tokens, machine).floors
        assert floors is not None
        line: dict[str, Any] = dict(zip(names, values, strict=True)) | {"image_tokens": tokens, "rows": len(group)}
        for name in ("vision_s", "prefill_s", "tpot_s"):
            line |= {name: group[name].median(), f"{name}_low": group[name].quantile(0.25),
                     f"{name}_high": group[name].quantile(0.75)}  # fmt: skip
            line[f"{name.removesuffix('_s')}_share"] = getattr(floors, name) / line[name]
        lines.append(line)
    return pd.DataFrame(lines)


def on_this(settings: Settings) -> Settings:
    """Return the settings with `auto` resolved as a reader here would resolve it."""
    device = choose_device(settings.device).value
    return replace(settings, device=device, dtype=choose_dtype(settings.dtype, device).value)  # type: ignore[arg-type]


# Will it fit: a table over cards, pixel budgets and attentions; predicted against measured as a figure.


BUDGETS = (200_704, 1_003_520, 2_007_040, 3_211_264, 12_845_056)
"""Pixels: 256, 1280, 2560, 4096 and 16384 image tokens of 28 × 28; the last is the checkpoint's own limit."""
_GIB = 2**30


def fit_table(
    settings: Settings, machines: Sequence[Machine], budgets: Sequence[int] = BUDGETS,
    attentions: Sequence[str] = ("sdpa", "eager"),
) -> pd.DataFrame:  # fmt: skip
    """Return one line a machine × attention × pixel budget: predicted peak in GiB, whether it fits, floors in seconds.

    Raises CheckpointError where the model's sizes are not at hand.
    """
    import pandas as pd

    cell = shapes_of(settings).cell_pixels
    lines = []
    for machine in machines:
        for attention in attentions:
            asked = replace(settings, attn_implementation=attention, sdpa_kernel=None)  # type: ignore[arg-type]
            for budget in budgets:
                found = predict(asked, budget // cell, machine)
                assert found.floors is not None and found.margin_bytes is not None
                lines.append({
                    "card": machine.name, "memory_gib": machine.memory_bytes / _GIB, "attention": attention,
                    "max_pixels": budget, "image_tokens": budget // cell, "peak_gib": found.memory.peak_bytes / _GIB,
                    "left_gib": found.margin_bytes / _GIB, "fits": bool(found.fits),
                    "vision_s": found.floors.vision_s, "prefill_s": found.floors.prefill_s,
                    "tpot_s": found.floors.tpot_s,
                })  # fmt: skip
    return pd.DataFrame(lines)


def fit_matrix(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table as people read it: a row a card and attention, a column a budget.

    `tight` leaves less than half a GiB: a desktop on the same card may hold that.
    """
    told = table.assign(
        says=[f"{_says(left)}, {peak:.1f}" for left, peak in zip(table["left_gib"], table["peak_gib"], strict=True)],
        budget=[f"{tokens:,} tokens" for tokens in table["image_tokens"]],
        row=[f"{name}, {memory:.0f} GiB" for name, memory in zip(table["card"], table["memory_gib"], strict=True)],
    )  # fmt: skip
    wide = told.pivot_table(index=["row", "attention"], columns="budget", values="says", aggfunc="first", sort=False)
    return wide.rename_axis(index=["card", "attention"], columns="peak GiB at")


def _says(left_gib: float) -> str:
    return "no" if left_gib < 0 else "tight" if left_gib < 0.5 else "yes"


def published_table() -> pd.DataFrame:
    """Return Qwen's own published speed of the 2B beside the floor of its card: their figures, our arithmetic.

    Source: the Qwen2-VL README (A100 80 GB, flash-attention 2.6.1, batch 1, 2048 new tokens, bfloat16).
    """
    import pandas as pd

    machine, asked = card("A100 80 GB"), Settings(model_id="Qwen/Qwen2-VL-2B-Instruct", weights="dummy")
    lines = []
    for tokens, speed, memory in ((1, 35.29, 4.68), (6144, 36.58, 10.01), (14336, 36.31, 17.20), (30720, 32.53, 31.64)):
        floors = predict(replace(asked, max_new_tokens=2048), tokens, machine).floors
        assert floors is not None
        lines.append({
            "input tokens": tokens, "tokens/s (theirs)": speed, "GB (theirs)": memory,
            "tokens/s at the floor": 1 / floors.tpot_s, "share of the floor": speed * floors.tpot_s,
        })  # fmt: skip
    return pd.DataFrame(lines)


def predicted_against_measured(compared: pd.DataFrame) -> Figure:
    """Return predicted over measured peak bytes against image tokens, a line a setting, with bands of 10 and 15 %."""
    figure, axes = blank_figure(7.0, 3.6)
    axes.axhspan(0.85, 1.15, color="#EEEEEE")
    axes.axhspan(0.90, 1.10, color="#DDDDDD")
    axes.axhline(1, color="#777777", lw=1)
    done = compared.dropna(subset=["ratio"])
    ways = done["attn_implementation"] + done["sdpa_kernel"].map(lambda k: f" {k}" if isinstance(k, str) else "")
    for i, (way, mine) in enumerate(done.groupby([ways, "dtype"], sort=False)):
        axes.plot(mine["image_tokens"], mine["ratio"], marker="o", color=COLOURS[i % len(COLOURS)],
                  ls="-" if way[1] == "float32" else "--", label=f"{way[0]}, {way[1]}")  # fmt: skip
    axes.set(xscale="log", xlabel="image tokens", ylabel="predicted / measured peak", ylim=(0.8, 1.25))
    sizes = sorted(set(done["image_tokens"].astype(int)))
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.legend(fontsize=8, ncols=2)
    return figure
