"""Rows → one line a group: error with its interval, median cost with its spread, how many failed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ocrlab.scoring import Edits, Interval, Verdict, bootstrap_interval, median_spread, verdict

if TYPE_CHECKING:
    import pandas as pd

COSTS = (
    "page_s",
    "ttft_s",
    "tpot_s",
    "vision_s",
    "prefill_s",
    "decode_s",
    "image_tokens",
    "tokens",
)


def edits_of(rows: pd.DataFrame) -> list[Edits]:
    """Return the scored rows' character edits, in the rows' order."""
    if "cer_edits" not in rows:
        return []
    scored = rows.dropna(subset=["cer_edits"])
    return [Edits(int(e), int(n)) for e, n in zip(scored["cer_edits"], scored["cer_length"], strict=True)]


def interval_of(rows: pd.DataFrame) -> Interval | None:
    """Return the corpus CER of the scored rows with its 95 % interval, or None for fewer than two scored pages."""
    edits = edits_of(rows)
    return bootstrap_interval(edits) if len(edits) > 1 and any(e.length for e in edits) else None


def summarise(rows: pd.DataFrame, by: str | Sequence[str]) -> pd.DataFrame:
    """Return one line a group: pages, cer with cer_low and cer_high, ok (share), each cost's median and quartiles.

    `peak_memory_bytes` is the highest over the pages: what must fit. Costs are over rows that were read to their end; a
    group that could not run keeps its line, with the reason.
    """
    import pandas as pd

    lines: list[dict[str, Any]] = []
    keys = [by] if isinstance(by, str) else list(by)
    for names, group in rows.groupby(keys, sort=False, dropna=False):
        line: dict[str, Any] = dict(zip(keys, names, strict=True)) | {"pages": group["page"].nunique()}
        error = interval_of(group)
        if error is not None:
            line |= {"cer": error.point, "cer_low": error.low, "cer_high": error.high}
        line["ok"] = float((group["status"] == "ok").mean())
        done = group[group["status"].isin(["ok", "truncated", "loop", "empty"])]
        for cost in COSTS:
            if cost in done and done[cost].notna().any():
                spread = median_spread(done[cost].dropna().tolist())
                line |= {cost: spread.median, f"{cost}_low": spread.low_quartile, f"{cost}_high": spread.high_quartile}
        if "peak_memory_bytes" in done and done["peak_memory_bytes"].notna().any():
            line["peak_memory_bytes"] = int(done["peak_memory_bytes"].max())
        bad = group[group["status"] != "ok"]
        line["reason"] = "" if bad.empty else f"{bad['status'].iloc[0]}: {bad['reason'].iloc[0]}"
        lines.append(line)
    return pd.DataFrame(lines)


def compare(rows: pd.DataFrame, column: str, value: Any, against: Any, margin: float = 0.005) -> Verdict:
    """Return the verdict on the rows where `column` is `value` against those where it is `against`, page by page.

    Raises:
        ValueError: the two have no scored page in common.
    """
    keys = ["page", "repeat"] if "repeat" in rows else ["page"]
    scored = rows.dropna(subset=["cer_edits"])
    one, other = (scored[scored[column] == v].set_index(keys) for v in (value, against))
    common = one.index.intersection(other.index)
    return verdict(edits_of(one.loc[common].reset_index()), edits_of(other.loc[common].reset_index()), margin)
