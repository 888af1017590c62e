"""Will it fit: a table over cards, pixel budgets and attentions; predicted against measured as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from ocrlab.machine.hardware import Machine, card
from ocrlab.reading.limits import predict, shapes_of
from ocrlab.reading.settings import Settings
from ocrlab.study.plots import COLOURS, blank_figure

if TYPE_CHECKING:
    import pandas as pd

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
