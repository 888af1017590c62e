"""Where a page's seconds go, and what a faster phase would bring (Amdahl's law), from rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

PHASES = ("prepare", "vision", "prefill", "decode", "rest")
"""Opening the page and building inputs (what the model waited for it), the vision tower, the prompt, the text, rest."""


class Bottleneck(NamedTuple):
    """The longest phase, its share, the one that follows it, and how many times faster the first must be for that."""

    phase: str
    share: float
    next: str
    times: float


def phase_seconds(rows: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Return one line a group: seconds a page of each phase (means), their sum `page_s`, pages, and `batch_pages`.

    A batch's phases are divided by its pages. Where work was prepared ahead, `prepare` is the wait alone. `rest` is
    what the meter gives to no phase; readings without phases (of a server) are left out.
    """
    import pandas as pd

    needed = ["page_s", "vision_s", "prefill_s", "decode_s"]
    known = rows.dropna(subset=needed) if set(needed) <= set(rows) else rows.iloc[:0]
    lines = []
    for names, group in known.groupby(list(by), sort=False, dropna=False) if len(known) else ():
        batch = _column(group, "batch_pages", 1.0)
        waited = _column(group, "wait_s", np.nan).fillna(_column(group, "prepare_s", 0.0)).fillna(0.0)
        parts = {"prepare": waited, "vision": group["vision_s"], "prefill": group["prefill_s"],
                 "decode": group["decode_s"]}  # fmt: skip
        line: dict[str, Any] = {name: float((part / batch).mean()) for name, part in parts.items()}
        line["rest"] = max(0.0, float(group["page_s"].mean()) - sum(line.values()))
        line |= {"page_s": sum(line.values()), "pages": group["page"].nunique(), "batch_pages": int(batch.max())}
        lines.append(dict(zip(by, names, strict=True)) | line)
    return pd.DataFrame(lines, columns=[*by, *PHASES, "page_s", "pages", "batch_pages"])


def sped_up(line: pd.Series, phase: str, times: float) -> float:
    """Return how many times as many pages are read where one phase takes a `times`-th of its seconds (Amdahl, 1967)."""
    share = float(line[phase] / line["page_s"])
    return 1 / (1 - share + share / times)


def bottleneck(line: pd.Series) -> Bottleneck:
    """Return the longest phase of a line of `phase_seconds`, and when another takes its place."""
    first, second = sorted(PHASES, key=lambda phase: -line[phase])[:2]
    times = float(line[first] / line[second]) if line[second] > 0 else float("inf")
    return Bottleneck(first, float(line[first] / line["page_s"]), second, times)


def _column(rows: pd.DataFrame, name: str, default: float) -> pd.Series:
    import pandas as pd

    return rows[name].astype(float).fillna(default) if name in rows else pd.Series(default, index=rows.index)
