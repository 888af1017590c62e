"""Seconds a page of every setting that was measured, with intervals over what was read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ocrlab.scoring import WITH_TEXT
from ocrlab.study.across import rows_across
from ocrlab.study.rows import setting_label, settings_of
from ocrlab.study.summary import interval_of

if TYPE_CHECKING:
    import pandas as pd

GROUP = ("run", "machine", "model_id", "set", "setting")
"""What one cost is of."""


def timed_rows(folders: Iterable[Path]) -> pd.DataFrame:
    """Return the readings of these runs that have a time and a text; empty where there are none.

    A batch that mixed page sets is of all of them (`labels + lines`).

    Raises:
        RecordError: a damaged file.
    """
    rows = rows_across(folders)
    if rows.empty or "page_s" not in rows:
        return rows.iloc[:0]
    done = rows[rows["status"].isin(WITH_TEXT) & rows["page_s"].notna()].reset_index(drop=True)
    return done.assign(set=_sets(done))


def _sets(rows: pd.DataFrame) -> pd.Series:
    """Return each row's page set; where batches mixed several, all of that experiment's sets by name."""
    sets = rows["set"].astype(str)
    batched = rows[_in_batch(rows)]
    for _, group in batched.groupby(["run", "experiment", "setting"]):
        if group.groupby(["repeat", "page_s"])["set"].nunique().max() > 1:
            sets.loc[group.index] = " + ".join(sorted(set(group["set"])))
    return sets


def _in_batch(rows: pd.DataFrame) -> pd.Series:
    return rows["batch_pages"].fillna(1) > 1 if "batch_pages" in rows else rows["page_s"].isna()


def page_costs(rows: pd.DataFrame, resamples: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Return one line a run × machine × model × page set × setting: seconds a page, the mean with its 95 % interval.

    The mean, not the median, makes the bill. Resampled are pages, or whole batches where pages were read in batches
    (`units` says how many); of fewer than two there is no interval. `forced` tells that the text's length was forced;
    `cer` is there where the texts were scored; `settings` are the asked ones.
    """
    import pandas as pd

    lines = []
    for names, group in rows.groupby(list(GROUP), sort=False) if len(rows) else ():
        seconds, counts = _units(group)
        line: dict[str, Any] = dict(zip(GROUP, names, strict=True)) | {
            "settings": settings_of(group.iloc[0]), "forced": bool(group["min_new_tokens"].notna().any()),
            "pages": group["page"].nunique(), "units": len(counts), "tokens": float(group["tokens"].mean()),
            "batch_size": int(group["batch_size"].iloc[0]), "page_s": float(seconds.sum() / counts.sum()),
        }  # fmt: skip
        line["label"] = setting_label(line["settings"].as_dict())
        if len(counts) > 1:
            drawn = np.random.default_rng(seed).integers(len(counts), size=(resamples, len(counts)))
            means = seconds[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
            line["page_s_low"], line["page_s_high"] = (float(v) for v in np.quantile(means, [0.025, 0.975]))
        error = interval_of(group)
        lines.append(line | ({"cer": error.point, "cer_low": error.low, "cer_high": error.high} if error else {}))
    return pd.DataFrame(lines).reindex(columns=_COLUMNS)


_COLUMNS = [*GROUP, "label", "settings", "forced", "batch_size", "pages", "units", "tokens", "page_s", "page_s_low",
            "page_s_high", "cer", "cer_low", "cer_high"]  # fmt: skip


def _units(group: pd.DataFrame) -> tuple[Any, Any]:
    """Return seconds and pages of what was measured apart: of a batch, all pages share one measurement."""
    batches = _in_batch(group)
    alone = group[~batches].groupby("page")["page_s"].mean()
    together = group[batches].groupby(["experiment", "repeat", "page_s"])["page_s"].agg(["sum", "size"])
    seconds = np.concatenate([alone.to_numpy(float), together["sum"].to_numpy(float)])
    return seconds, np.concatenate([np.ones(len(alone)), together["size"].to_numpy(float)])


def page_times(rows: pd.DataFrame, costs: pd.DataFrame) -> Any:
    """Return the seconds of each page behind the first cost, the mean where it was read several times."""
    if costs.empty:
        return np.array([])
    mine = rows[(rows[list(GROUP)] == costs.iloc[0][list(GROUP)]).all(axis=1)]
    return mine.groupby("page")["page_s"].mean().to_numpy(float)
