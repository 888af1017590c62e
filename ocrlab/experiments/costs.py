"""What many pages cost, from rows: the seconds of a mean page of each setting, with their interval."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ocrlab.experiments.compare_runs import rows_across
from ocrlab.scoring.outcomes import WITH_TEXT
from ocrlab.study.compare import values_of
from ocrlab.study.records import setting_label, settings_of

if TYPE_CHECKING:
    import pandas as pd


#: What one cost is of.
GROUP = ("run", "machine", "model_id", "set", "setting")


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
    sets = done["set"].astype(str)
    for _, group in done[_in_batch(done)].groupby(["run", "experiment", "setting"]):
        if group.groupby(["repeat", "page_s"])["set"].nunique().max() > 1:
            sets.loc[group.index] = " + ".join(sorted(set(group["set"])))
    return done.assign(set=sets)


def page_costs(rows: pd.DataFrame, resamples: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Return one line per run × machine × model × page set × setting: mean seconds per page with its 95 % interval.

    The mean, not the median, makes the bill. Resampled are pages, or whole batches where pages were read in batches
    (`units` says how many); of fewer than two there is no interval. `fixed_length` says that the text's length was set;
    `cer` is there where the texts were scored; `settings` are the asked ones.
    """
    import pandas as pd

    lines = []
    for names, group in rows.groupby(list(GROUP), sort=False) if len(rows) else ():
        settings = settings_of(group.iloc[0])
        line = dict(zip(GROUP, names, strict=True)) | {"label": setting_label(settings.as_dict()), "settings": settings}
        line |= {"fixed_length": settings.min_new_tokens is not None, "batch_size": settings.batch_size}
        line |= {"pages": group["page"].nunique(), **_mean_page(group, resamples, seed)}
        lines.append(line | values_of(group, "cer"))
    return pd.DataFrame(lines, columns=_COLUMNS)


_COLUMNS = [*GROUP, "label", "settings", "fixed_length", "batch_size", "pages"]
_COLUMNS += ["units", "page_s", "page_s_low", "page_s_high", "cer", "cer_low", "cer_high"]


def _mean_page(group: pd.DataFrame, resamples: int, seed: int) -> dict[str, Any]:
    """Return the mean seconds per page and its interval over what was measured apart: all pages of a batch are one."""
    batches = _in_batch(group)
    alone = group[~batches].groupby("page")["page_s"].mean()
    together = group[batches].groupby(["experiment", "repeat", "page_s"])["page_s"].agg(["sum", "size"])
    seconds = np.concatenate([alone.to_numpy(float), together["sum"].to_numpy(float)])
    counts = np.concatenate([np.ones(len(alone)), together["size"].to_numpy(float)])
    found: dict[str, Any] = {"units": len(counts), "page_s": float(seconds.sum() / counts.sum())}
    if len(counts) > 1:
        drawn = np.random.default_rng(seed).integers(len(counts), size=(resamples, len(counts)))
        ends = np.quantile(seconds[drawn].sum(axis=1) / counts[drawn].sum(axis=1), [0.025, 0.975])
        found |= dict(zip(("page_s_low", "page_s_high"), ends.tolist(), strict=True))
    return found


def _in_batch(rows: pd.DataFrame) -> pd.Series:
    return rows["batch_pages"].fillna(1) > 1 if "batch_pages" in rows else rows["page_s"].isna()
