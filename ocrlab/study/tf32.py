"""What TF32 changes: logits and time of one pass with it and without, in turns, for a float32 and a bfloat16 model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ocrlab.machine.describe import choose_device
from ocrlab.machine.worker import Worker
from ocrlab.pages import Page
from ocrlab.reading.isolated import attempt, reader_here
from ocrlab.reading.settings import Settings
from ocrlab.scoring import median_spread
from ocrlab.study.forced import answer_tokens, distance, forced_logits, tf32

if TYPE_CHECKING:
    import pandas as pd

_NUMBERS = ("kl_mean", "logit_error", "seconds_off", "seconds_on", "ratio", "ratio_low", "ratio_high")


def tf32_table(
    base: Settings, page: Page, dtypes: Sequence[str] = ("float32", "bfloat16"), *, repeats: int = 9,
    worker: Worker | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Return one line a dtype: KL(off || on) in nats, the largest change of a logit, and the time of a pass on and off.

    `ratio` is the median of time on over time off, pair by pair, with its quartiles; below 1, TF32 is faster. On a
    device without TF32 the line has status unsupported and the reason.
    """
    import pandas as pd

    lines = []
    with nullcontext(worker) if worker else Worker() as process:
        for dtype in dtypes:
            found: dict[str, Any] | None = None
            status, reason = "unsupported", _reason_against(base.device)
            if not reason:
                settings = replace(base, dtype=dtype)  # type: ignore[arg-type]
                found, status, reason = attempt(process, tf32_here, settings, page, repeats, timeout_s=600)
            own = {"model_id": base.model_id, "weights": base.weights, "dtype": dtype}
            blank = own | dict.fromkeys(_NUMBERS) | {"status": status, "reason": reason}
            lines.append(blank | (found or {}))
    return pd.DataFrame(lines)


def _reason_against(asked: str) -> str:
    import torch

    try:
        device = choose_device(asked).value
    except ValueError as error:
        return str(error)
    if not device.startswith("cuda"):
        return f"TF32 is a mode of NVIDIA's tensor cores, and this device is {device}"
    major, minor = torch.cuda.get_device_capability(device)
    return "" if major >= 8 else f"TF32 begins with compute capability 8.0, and this card has {major}.{minor}"


def tf32_here(settings: Settings, page: Page, repeats: int) -> dict[str, Any]:
    """Return what TF32 changes for a page here: passes without and with it in turns, the first pair not timed."""
    reader = reader_here(settings)
    with tf32(False):
        tokens = answer_tokens(reader, page)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    logits = {}
    for _ in range(repeats + 1):
        for on in (False, True):
            with tf32(on):
                started = time.perf_counter()
                logits[on], _ = forced_logits(reader, page, tokens)  # brought to the CPU, so the device is done
                seconds[on].append(time.perf_counter() - started)
    off, on_s = seconds[False][1:], seconds[True][1:]
    ratio = median_spread([b / a for a, b in zip(off, on_s, strict=True)])
    times = {"seconds_off": median_spread(off).median, "seconds_on": median_spread(on_s).median}
    ends = {"ratio": ratio.median, "ratio_low": ratio.low_quartile, "ratio_high": ratio.high_quartile}
    found = distance(logits[True], logits[False])
    return {name: value for name, value in found.items() if name in {*_NUMBERS, "status", "reason"}} | times | ends
