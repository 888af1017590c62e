"""Predicted against measured: memory by image tokens, and time against the floor of this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ocrlab.machine.describe import choose_device, choose_dtype
from ocrlab.machine.hardware import Machine
from ocrlab.reading.limits import predict
from ocrlab.reading.settings import Settings
from ocrlab.study.growth import measure_growth
from ocrlab.study.records import settings_of

if TYPE_CHECKING:
    import pandas as pd


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
