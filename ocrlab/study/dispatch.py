"""Which SDPA kernels a reading really called: torch's profiler counts them, whatever the settings say."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ocrlab.machine.kernels import kernel_name, profiler
from ocrlab.machine.worker import Worker
from ocrlab.pages import Page
from ocrlab.reading.isolated import attempt, reader_here
from ocrlab.reading.settings import Settings

if TYPE_CHECKING:
    import pandas as pd

KERNELS = ("math", "flash", "efficient", "cudnn")


def count_kernels(
    runs: Sequence[Settings], page: Page, *, new_tokens: int = 4, timeout_s: float = 600, worker: Worker | None = None
) -> pd.DataFrame:
    """Return one line a setting: its calls of each SDPA kernel in one reading of at most `new_tokens` tokens.

    The columns are every setting, math, flash, efficient, cudnn, `fused` (their sum without math), `took` in words,
    status and reason; counts are empty where the setting cannot run. A vision layer calls once an image, a text layer
    once for the prompt and once a token.
    """
    import pandas as pd

    lines = []
    with nullcontext(worker) if worker else Worker() as process:
        for settings in runs:
            short = replace(settings, max_new_tokens=new_tokens, min_new_tokens=None)
            found, status, reason = attempt(process, kernels_here, short, page, timeout_s=timeout_s)
            blank = dict.fromkeys((*KERNELS, "fused")) | {"took": "", "status": status, "reason": reason}
            lines.append(settings.as_dict() | blank | (found or {}))
    return pd.DataFrame(lines)


def kernels_here(settings: Settings, page: Page) -> dict[str, Any]:
    """Return how often a reading of the page here called each SDPA kernel, or status and reason of its failure."""
    import torch

    reader = reader_here(settings)
    with profiler(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        reading = reader.read(page)
    if not reading.tokens and reading.status != "empty":
        return {"status": reading.status, "reason": reading.reason}
    counts = dict.fromkeys(KERNELS, 0)
    for event in profile.key_averages():
        if name := kernel_name(event.key):
            counts[name] += event.count
    took = ", ".join(f"{name} × {count}" for name, count in counts.items() if count) or "none"
    return counts | {"fused": sum(counts.values()) - counts["math"], "took": took}
