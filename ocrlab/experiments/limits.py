"""What fits, and how near it is to the limit: memory by image size, time and bytes of a load, prediction and floor."""

from __future__ import annotations

import contextlib
import ctypes
import math
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
from PIL import Image
from tqdm.auto import tqdm

from ocrlab.machine.describe import choose_device, choose_dtype, describe_machine, machine_name
from ocrlab.machine.hardware import CONTEXT_BYTES, Machine, card_here
from ocrlab.machine.worker import Worker
from ocrlab.pages import Page
from ocrlab.reading.checkpoints import CheckpointError
from ocrlab.reading.isolated import attempt, reader_here
from ocrlab.reading.limits import PeakNotModelled, predict, shapes_of, weights_of
from ocrlab.reading.reader import in_this_process
from ocrlab.reading.settings import Settings
from ocrlab.study.records import load_findings, settings_of

if TYPE_CHECKING:
    import pandas as pd


# How peak memory grows with the image: blank pages of chosen image tokens, one fresh process per setting.


_GROWTH = ("image_tokens", "patches", "vision_heads", "peak_memory_bytes", "vision_s", "prefill_s")
_TOKENS = 2  # enough for the prompt's pass and one step
_PATCHES_PER_TOKEN = 4
_TIMEOUT_S = 900
#: A step's share of what the bandwidth allows from which on it is not called low.
LOW_SHARE = 0.1
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def measure_growth(
    runs: Sequence[Settings], image_tokens: Sequence[int], memory_limit_bytes: int | None = None, exact: bool = False
) -> pd.DataFrame:
    """Return one line per setting and size: peak memory in bytes above the model at rest, seconds, status and reason.

    A blank page of nearly `image_tokens` tokens is read for two tokens; pixel limits are set to let it through. Sizes
    run upwards in one process per setting, so that an allocator's habits stay with the setting they belong to. On a CPU
    a process may hold `memory_limit_bytes` beyond its start, by default half of what is free; more is status oom.
    `exact` gives every larger piece of memory back to the system at once (glibc; others ignore it): the allocator
    otherwise keeps up to twice of what a small model really holds. It costs time, so speed is measured without it.
    """
    import pandas as pd

    # A card refuses by itself; on a CPU a quadratic attention must not take the machine down.
    on_card = any(settings.device.startswith("cuda") for settings in runs) or choose_device("auto").value != "cpu"
    limit = None if on_card else memory_limit_bytes or psutil.virtual_memory().available // 2
    lines: list[dict[str, Any]] = []
    for settings in tqdm(runs, desc="growth", unit="setting"):
        with Worker(limit) as worker:
            for count in sorted(image_tokens):
                found, status, reason = attempt(worker, peak_here, settings, count, exact, timeout_s=_TIMEOUT_S)
                line = settings.as_dict() | dict.fromkeys(_GROWTH) | {"asked_tokens": count}
                lines.append(line | {"status": status, "reason": reason} | (found or {}))
    return pd.DataFrame(lines)


def peak_here(settings: Settings, count: int, exact: bool) -> dict[str, Any]:
    """Read a blank page of about so many image tokens here; return its numbers, or status and reason of its failure."""
    if exact:
        _give_memory_back_at_once()
    reader = in_this_process(reader_here(replace(settings, max_new_tokens=_TOKENS, min_new_tokens=None)))
    rows = math.isqrt(count)
    side = math.isqrt(reader.builder.cell_pixels)
    size = (count // rows * side, rows * side)
    reader.apply(replace(reader.settings, min_pixels=1, max_pixels=size[0] * size[1]))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "blank.png"
        Image.new("RGB", size, "white").save(file)
        reading = reader.read(Page(f"blank-{count}", file, "", "growth"))
    if reading.peak_memory_bytes is None:
        return {"status": reading.status, "reason": reading.reason}
    patches, heads = reading.image_tokens * _PATCHES_PER_TOKEN, int(reader.model.config.vision_config.num_heads)
    found = {name: getattr(reading, name) for name in _GROWTH if hasattr(reading, name)}
    return found | {"patches": patches, "vision_heads": heads}


def _give_memory_back_at_once() -> None:
    """Fix glibc's thresholds for mapping and trimming, which otherwise rise with what was freed (`man mallopt`)."""
    with contextlib.suppress(OSError, AttributeError):
        allocator = ctypes.CDLL(None).mallopt
        for threshold, size in ((_M_MMAP_THRESHOLD, 65_536), (_M_TRIM_THRESHOLD, 131_072)):
            allocator(threshold, size)


def growth_exponents(growth: pd.DataFrame, largest: int = 3) -> pd.DataFrame:
    """Return for each `variant` the exponent of memory over image tokens, fitted in log-log over its largest sizes.

    `low` and `high` are the slopes between neighbouring sizes there; `factor` makes bytes = factor × tokens ^ exponent.
    A variant with fewer than two sizes has none, and keeps its reason.
    """
    import pandas as pd

    lines = []
    for variant, mine in growth.groupby("variant", sort=False):
        done = mine.dropna(subset=["peak_memory_bytes"]).sort_values("image_tokens").tail(largest)
        bad = mine.loc[mine["peak_memory_bytes"].isna(), "reason"]
        line = {"variant": variant, "sizes": len(done), "reason": "" if bad.empty else bad.iloc[0]}
        if len(done) > 1:
            x, y = (np.log(done[name].astype(float)) for name in ("image_tokens", "peak_memory_bytes"))
            exponent, constant = np.polyfit(x, y, 1)
            slopes = np.diff(y) / np.diff(x)
            line |= {"exponent": exponent, "factor": np.exp(constant), "low": slopes.min(), "high": slopes.max()}
        lines.append(line)
    return pd.DataFrame(lines)


# Predicted against measured: memory by image tokens, and time against the floor of this machine.


def compare_memory(runs: Sequence[Settings], image_tokens: Sequence[int]) -> pd.DataFrame:
    """Return one line per setting and size: peak bytes predicted and measured, weights included, and their ratio.

    What cannot run has status and reason, and a prediction all the same.
    """
    measured = measure_growth([on_this(s) for s in runs], image_tokens, exact=True)
    sizes = measured["image_tokens"].fillna(measured["asked_tokens"]).astype(int)
    lines = zip(measured.to_dict("records"), sizes, strict=True)
    try:
        predicted = [predict(replace(settings_of(line), max_new_tokens=_TOKENS), size).memory for line, size in lines]
    except CheckpointError as error:  # nothing of the model is on this computer
        blank = dict.fromkeys(("weights_bytes", "predicted_bytes", "measured_bytes", "ratio"), math.nan)
        return measured.assign(**blank, status="unsupported", reason=str(error))
    measured["weights_bytes"] = [memory.weights_bytes for memory in predicted]
    measured["predicted_bytes"] = [memory.peak_bytes for memory in predicted]
    measured["measured_bytes"] = measured["weights_bytes"] + measured["peak_memory_bytes"]
    return measured.assign(ratio=measured["predicted_bytes"] / measured["measured_bytes"])


def against_floor(rows: pd.DataFrame, machine: Machine) -> pd.DataFrame:
    """Return one line per setting of speed rows: median seconds of vision, prefill and a token, and the floors' shares.

    A share of 1 would be as fast as the machine's measured bandwidth (token) or matmul rate (vision, prefill) allows.
    """
    import pandas as pd

    lines = []
    done = rows[rows["status"] == "ok"]
    for _, group in done.groupby(list(Settings().as_dict()), dropna=False, sort=False):
        settings, tokens = settings_of(group.iloc[0]), int(group["image_tokens"].median())
        floors = predict(on_this(settings), tokens, machine).floors
        line = settings.as_dict() | {"image_tokens": tokens, "rows": len(group)}
        for name in ("vision_s", "prefill_s", "tpot_s"):
            low, middle, high = group[name].quantile([0.25, 0.5, 0.75])
            line |= {name: middle, f"{name}_low": low, f"{name}_high": high}
            line[f"{name.removesuffix('_s')}_share"] = getattr(floors, name) / middle
        line |= {"of_floor": floor_words(line["tpot_share"]), "held_bytes": group["reserved_memory_bytes"].max()}
        lines.append(line)
    return pd.DataFrame(lines)


def floor_words(share: float) -> str:
    """Return a step's share of what the bandwidth allows, in words, with what to look at where it is low."""
    low = ", low: see fast-path and the doctor" * (share < LOW_SHARE)
    return f"{share:.0%}{low}" if share == share else ""


def measured_facts(run: Path) -> dict[str, int]:
    """Return what a run found of this card, for the doctor: whole percent, ms per token.

    From 07-limits the setting nearest to the floor and the most memory held (the embedded reader lives in a card's
    cache, so that its steps say nothing); from 01-machine the share of the datasheet's bandwidth.
    """
    total, listed = describe_machine().get("gpu_memory_bytes"), card_here()
    facts: dict[str, float] = {}
    if total and "held_bytes" in (speed := _of_here("speed", run)):
        speed = speed[speed["model_id"] != "tiny"].sort_values("tpot_share")
        best = speed.tail(1)
        facts = {"floor_percent": 100 * best["tpot_share"].max(), "step_ms": 1000 * best["tpot_s"].max()}
        facts["held_percent"] = 100 * speed["held_bytes"].max() / total
    if listed and "ceiling" in (ceilings := _of_here("ceilings", run)):
        copied = ceilings.loc[ceilings["ceiling"] == "copy", "median"].max()
        facts["bandwidth_percent"] = 1e11 * copied / listed.bandwidth_bytes_s
    return {name: round(value) for name, value in facts.items() if value == value}


def _of_here(name: str, run: Path) -> pd.DataFrame:
    found = load_findings(name, run)
    return found[found["machine"] == machine_name()] if len(found) else found


def on_this(settings: Settings) -> Settings:
    """Return the settings with `auto` resolved as a reader here would resolve it."""
    device = choose_device(settings.device).value
    return replace(settings, device=device, dtype=choose_dtype(settings.dtype, device).value)  # type: ignore[arg-type]


# Will it fit: a table over cards, pixel budgets and attentions.


#: Pixels: 256, 1280, 2560, 4096 and 16384 image tokens of 28 × 28; the last is the checkpoint's own limit.
BUDGETS = (200_704, 1_003_520, 2_007_040, 3_211_264, 12_845_056)


def fit_table(settings: Settings, machines: Sequence[Machine], budgets: Sequence[int] = BUDGETS) -> pd.DataFrame:
    """Return one line per machine, attention and pixel budget: weights and predicted peak in GiB, whether it fits.

    And the least seconds where the machine's rates are known.

    For a family whose peaks are not modelled, one line per machine: `fits` is False where the weights alone do not, and
    empty where they do. Raises CheckpointError where the model's sizes are not at hand.
    """
    import pandas as pd

    weights = weights_of(settings).bytes_in(settings.dtype, settings.quantization)
    try:
        points = list(product(("sdpa", "eager"), [(n, n // shapes_of(settings).cell_pixels) for n in budgets]))
    except PeakNotModelled:
        points = []
    lines: list[dict[str, Any]] = []
    for machine in machines:
        line = {"card": machine.name, "memory_gib": machine.memory_bytes / 2**30, "weights_gib": weights / 2**30}
        for attention, (budget, tokens) in points:
            asked = replace(settings, attn_implementation=attention, sdpa_kernel=None)  # type: ignore[arg-type]
            found = predict(asked, tokens, machine)
            assert found.floors is not None and found.margin_bytes is not None
            point = {"attention": attention, "max_pixels": budget, "image_tokens": tokens, "fits": bool(found.fits)}
            point |= {"peak_gib": found.memory.peak_bytes / 2**30, "left_gib": found.margin_bytes / 2**30}
            lines.append(line | point | asdict(found.floors))
        if not points:
            left = (machine.memory_bytes - CONTEXT_BYTES - weights) / 2**30
            lines.append(line | {"fits": False if left < 0 else None, "left_gib": left})
    return pd.DataFrame(lines)


def fit_matrix(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table as people read it: a row per size of card and attention, a column per budget.

    `tight` leaves less than half a GiB: a desktop on the same card may hold that. Where peaks are not modelled, the one
    column says what the weights leave.
    """
    import pandas as pd

    names = table.groupby("memory_gib")["card"].agg(lambda one: ", ".join(one.unique())).to_dict()
    cards = {memory: f"{memory:g} GiB: {shorten(named, 44, placeholder=' …')}" for memory, named in names.items()}
    shown = table.assign(cards=table["memory_gib"].map(cards)).sort_values("memory_gib", kind="stable")
    if "peak_gib" not in table:
        left = ["weights do not fit" if n < 0 else f"weights fit and leave {n:.1f} GiB" for n in shown["left_gib"]]
        return pd.DataFrame({"peak not modelled": left}, index=shown["cards"]).groupby(level=0, sort=False).first()
    says = np.select([shown["left_gib"] < 0, shown["left_gib"] < 0.5], ["no", "tight"], "yes")
    shown = shown.assign(
        says=[f"{word}, {peak:.1f}" for word, peak in zip(says, shown["peak_gib"], strict=True)],
        budget=[f"{tokens:,} tokens" for tokens in shown["image_tokens"]],
    )
    wide = shown.pivot_table(index=["cards", "attention"], columns="budget", values="says", aggfunc="first", sort=False)
    return wide.rename_axis(columns="peak GiB at")
