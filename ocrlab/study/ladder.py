"""From one preset to another, one change at a time: which of them gained what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ocrlab.reading.settings import GENERATION, Settings, make_settings

if TYPE_CHECKING:
    import pandas as pd

_GENERATION = tuple(n for n in GENERATION if n not in ("cache_implementation", "max_new_tokens", "min_new_tokens"))
RUNGS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("generation settings", _GENERATION), ("dtype", ("dtype",)), ("quantization", ("quantization",)),
    ("attention", ("attn_implementation", "sdpa_kernel")), ("batch", ("batch_size",)),
    ("cache", ("cache_implementation",)), ("compile", ("compile",)),
)  # fmt: skip
"""What is changed together, in an order in which every step is a valid setting."""


def rungs(start: Settings, goal: Settings) -> list[tuple[str, Settings]]:
    """Return (label, settings) from `start` towards `goal`; what RUNGS does not name (model, pixels) stays."""
    found, settings = [("start", start)], start
    for label, names in RUNGS:
        changed = replace(settings, **{name: getattr(goal, name) for name in names})
        if changed != settings:
            values = [f"{n}={getattr(goal, n)}" for n in names if getattr(changed, n) != getattr(settings, n)]
            found.append((values[0] if len(values) == 1 else label, changed))
            settings = changed
    return found


def gains(rows: pd.DataFrame, steps: Sequence[tuple[str, Settings]]) -> pd.DataFrame:
    """Return one line a rung: medians over its rows, and how many times as fast as the first rung.

    `page_s` is the time a page, batch shared out; `pages_per_s` its inverse, `times` their ratio to the first rung,
    with quartiles over pages and repetitions, `step_times` to the last rung that ran. Lines that could not run carry
    status and reason.
    """
    import pandas as pd

    lines: list[dict[str, Any]] = []
    first = before = 0.0
    for label, settings in steps:
        mine = rows[_same(rows, settings)]
        ok = mine[mine["status"] == "ok"]
        line: dict[str, Any] = {"rung": label, "status": "ok", "reason": ""}
        if ok.empty:
            bad = mine.iloc[0] if len(mine) else {"status": "error", "reason": "no rows"}
            lines.append(line | {"status": bad["status"], "reason": bad["reason"]})
            continue
        low, median, high = ok["page_s"].quantile([0.25, 0.5, 0.75])
        first, before = first or median, before or median
        lines.append(line | {
            "page_s": median, "pages_per_s": 1 / median, "times": first / median, "times_low": first / high,
            "times_high": first / low, "step_times": before / median,
            "tpot_s": ok["tpot_s"].median(), "vision_s": ok["vision_s"].median(),
            "peak_memory_bytes": ok["peak_memory_bytes"].max(), "rows": len(ok),
        })  # fmt: skip
        before = median
    return pd.DataFrame(lines)


def _same(rows: pd.DataFrame, settings: Settings) -> pd.Series:
    names = [name for _, group in RUNGS for name in group]
    mask = rows["status"].notna()
    for name in names:
        value = getattr(settings, name)
        mask &= rows[name].isna() if value is None else rows[name] == value
    return mask


def same_texts(readings: pd.DataFrame, labels: Sequence[str], runs: Sequence[Settings]) -> pd.DataFrame:
    """Return one line a rung: pages, and how many read exactly the first rung's text; `runs` are theirs, in order."""
    import pandas as pd

    def texts(settings: Settings) -> dict[str, str]:
        mine = readings[[make_settings(asked) == settings for asked in readings["asked"]]]
        return dict(zip(mine["page"], mine["text"], strict=True))

    first = texts(runs[0])
    lines = []
    for label, settings in zip(labels, runs, strict=True):
        mine = texts(settings)
        same = sum(mine.get(page) == text for page, text in first.items())
        lines.append({"rung": label, "pages": len(first), "same": same})
    return pd.DataFrame(lines)
