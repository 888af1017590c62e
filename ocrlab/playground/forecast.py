"""What a reading will take, told before it: image tokens, memory, and the least time that the machine allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

from ocrlab.machine.cards import Machine
from ocrlab.playground.capabilities import Here, resolved
from ocrlab.playground.html import chips, milliseconds, note, size
from ocrlab.reading.checkpoints import CheckpointError
from ocrlab.reading.limits import predict
from ocrlab.reading.reader import LOAD_SETTINGS
from ocrlab.reading.settings import Settings
from ocrlab.reading.sizes import image_tokens


@dataclass(frozen=True)
class Forecast:
    """HTML to show, why the settings cannot run (empty where they may), and each choice's reason by setting."""

    shown: str
    against: str = ""
    reasons: dict[str, dict[Any, str]] = field(default_factory=dict)


def forecast(
    settings: Settings, page_size: tuple[int, int] | None, here: Here, choices: Mapping[str, tuple[Any, ...]],
    before: Sequence[dict[str, Any]],
) -> Forecast:  # fmt: skip
    """Return what the settings will take for a page of this size in pixels, and which `choices` do not run beside them.

    `before` holds earlier rows: how long a token took is told from those that share the model.
    """
    against = here.reason(settings)
    reasons = {name: here.reasons(settings, name, values) for name, values in choices.items()}
    if page_size is None or against:
        return Forecast("", against, reasons)
    try:
        shown = _costs(settings, page_size, here.machine(settings), before)
    except CheckpointError as error:
        return Forecast(note(f"no forecast: {error}"), "", reasons)
    return Forecast(shown, "", reasons)


def _costs(
    settings: Settings, page_size: tuple[int, int], machine: Machine | None, before: Sequence[dict[str, Any]]
) -> str:
    device, dtype = resolved(settings)
    tokens = image_tokens(settings, *page_size)
    found = predict(replace(settings, device=device), tokens, machine, dtype)
    told = [("image tokens", f"{tokens:,}"), ("predicted peak", size(found.memory.peak_bytes)),
            ("of it weights", size(found.memory.weights_bytes))]  # fmt: skip
    warn = ""
    if machine is not None and found.floors is not None and found.margin_bytes is not None:
        first, each = found.floors.vision_s + found.floors.prefill_s, found.floors.tpot_s
        told += [("to the first token, at best", milliseconds(first)), ("a token, at best", milliseconds(each))]
        if found.margin_bytes < 0:
            warn = f"it needs {size(-found.margin_bytes)} more than {machine.name} has: lower max_pixels, or use sdpa"
    mine = [row for row in before if all(row[name] == getattr(settings, name) for name in LOAD_SETTINGS)]
    if each_s := [row["tpot_s"] for row in mine if row.get("tpot_s")]:
        told.append((f"a token, median of {len(each_s)} here", milliseconds(median(each_s))))
    return chips(told) + note(warn, "bad")
