"""What a reading will take, before it begins: image tokens, memory, and the least time that the machine allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

from ocrlab.playground.capabilities import Capabilities, resolve
from ocrlab.playground.html import chips, duration, note, size
from ocrlab.reading.checkpoints import CheckpointError
from ocrlab.reading.limits import predict
from ocrlab.reading.loading import token_counter
from ocrlab.reading.settings import LOAD_SETTINGS, Settings


@dataclass(frozen=True)
class Forecast:
    """HTML to show, why the settings cannot run (empty where they may), and each choice's reason by setting."""

    html: str
    against: str = ""
    reasons: dict[str, dict[Any, str]] = field(default_factory=dict)


def forecast(
    settings: Settings,
    page_size: tuple[int, int] | None,
    known: Capabilities,
    choices: Mapping[str, tuple[Any, ...]],
    before: Sequence[dict[str, Any]],
) -> Forecast:
    """Return what the settings will take for a page of this size in pixels, and which `choices` do not run beside them.

    `before` holds earlier rows: those of the same model say how long a token took.
    """
    against = known.reason(settings)
    reasons = {name: known.reasons(settings, name, values) for name, values in choices.items()}
    if page_size is None or against:
        return Forecast("", against, reasons)
    try:
        return Forecast(_costs(settings, token_counter(settings)(*page_size), known, before), "", reasons)
    except CheckpointError as error:
        return Forecast(note(f"no forecast: {error}"), "", reasons)


def _costs(settings: Settings, tokens: int, known: Capabilities, before: Sequence[dict[str, Any]]) -> str:
    device, dtype = resolve(settings)
    machine = known.machine(device, dtype)
    found = predict(replace(settings, device=device), tokens, machine, dtype)
    memory, floors, warning = found.memory, found.floors, ""
    values = {
        "image tokens": f"{tokens:,}",
        "predicted peak": size(memory.peak_bytes),
        "of that for weights": size(memory.weights_bytes),
    }
    if machine is not None and floors is not None and found.margin_bytes is not None:
        values["to the first token, at best"] = duration(floors.vision_s + floors.prefill_s)
        values["per token, at best"] = duration(floors.tpot_s)
        if found.margin_bytes < 0:
            missing = size(-found.margin_bytes)
            warning = f"it needs {missing} more than {machine.name} has: lower max_pixels, or use sdpa"
    same_model = [row for row in before if all(row[name] == getattr(settings, name) for name in LOAD_SETTINGS)]
    if times := [row["tpot_s"] for row in same_model if row.get("tpot_s")]:
        values[f"per token, median of {len(times)} here"] = duration(median(times))
    return chips(values) + note(warning, "bad")
