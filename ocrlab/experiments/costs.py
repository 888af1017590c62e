"""What many pages cost, from rows: seconds per page of each setting, hours, money and energy."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ocrlab.experiments.compare_runs import rows_across
from ocrlab.machine.describe import choose_device, machine_name
from ocrlab.machine.energy import PowerMeter
from ocrlab.pages import load_pages, set_names
from ocrlab.reading.isolated import Refused
from ocrlab.reading.pool import ReaderPool
from ocrlab.scoring.outcomes import WITH_TEXT
from ocrlab.study.compare import values_of
from ocrlab.study.records import keep_findings, setting_label, settings_of

if TYPE_CHECKING:
    import pandas as pd


#: What one cost is of.
GROUP = ("run", "machine", "model_id", "set", "setting")
_POWER = ["machine", "set", "label"]
_HOUR, _KWH = 3600.0, 3.6e6


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


def bill(
    costs: pd.DataFrame, pages: int, *, price_per_hour: float, price_per_kwh: float, power: pd.DataFrame
) -> pd.DataFrame:
    """Return the costs with what so many pages take: `hours` and `money` with their ends, `kwh`, `energy_money`.

    `power` is `measure_power`'s table: a line gets energy only where its own machine, set and setting were measured;
    elsewhere it is empty, and `energy` says why. Prices are the caller's, of one machine, in one currency.
    """
    texts = dict.fromkeys([*_POWER, "reason"], object)  # an empty table's columns are numbers, which do not merge
    known = power[[*_POWER, "joules_per_page", "reason"]].drop_duplicates(_POWER).astype(texts)
    made = costs.merge(known, on=_POWER, how="left")
    joules, reason = made.pop("joules_per_page").astype(float), made.pop("reason")
    made["energy"] = reason.fillna("not measured").mask(joules.notna(), "measured")
    made["kwh"] = joules * pages / _KWH
    made["energy_money"] = made["kwh"] * price_per_kwh
    for end in ("", "_low", "_high"):
        made[f"hours{end}"] = made[f"page_s{end}"].astype(float) * pages / _HOUR
        made[f"money{end}"] = made[f"hours{end}"] * price_per_hour
    made["pages_per_hour"] = _HOUR / made["page_s"]
    return made


def _in_batch(rows: pd.DataFrame) -> pd.Series:
    return rows["batch_pages"].fillna(1) > 1 if "batch_pages" in rows else rows["page_s"].isna()


# Joules per page of settings that are read here, where a GPU reports its power.


_POWER_COLUMNS = ("machine", "set", "label", "pages", "seconds", "joules_per_page", "watts", "how", "reason")


def measure_power(costs: pd.DataFrame, pages: int) -> pd.DataFrame:
    """Return joules per page and watts of this machine's costs (`page_costs`), each setting read again: a line each.

    So many pages of the cost's own set are read, after a first batch that is not counted; joules are the whole card's.
    Where nothing reports the power nothing is read, and the line has the reason. Kept as findings `power`.
    """
    import pandas as pd

    mine = costs[costs["machine"] == machine_name()]
    lines = [_power_of(cost, pages) for _, cost in mine.drop_duplicates(["set", "label"]).iterrows()]
    return pd.DataFrame(keep_findings("power", lines), columns=list(_POWER_COLUMNS))


def _power_of(cost: pd.Series, pages: int) -> dict[str, Any]:
    settings = cost["settings"]
    line = dict.fromkeys(_POWER_COLUMNS[3:]) | {"set": cost["set"], "label": cost["label"]}
    try:
        device = choose_device(settings.device).value
    except ValueError as error:
        return line | {"reason": f"not measured: {error}"}
    with PowerMeter(device) as there:
        pass
    if not device.startswith("cuda") or there.energy.reason.startswith("not measured"):
        return line | {"reason": there.energy.reason}
    names = str(cost["set"]).split(" + ")  # as `timed_rows` joins them
    if not set(names) <= set(set_names()):
        return line | {"reason": f"not measured: its pages ({cost['set']}) are no set of this checkout"}
    some = [page for name in names for page in load_pages(name, spread=-(-pages // len(names)))]
    try:
        with ReaderPool(settings) as pool:
            list(pool.read(some[: settings.batch_size]))
            with PowerMeter(device) as meter:
                results = list(pool.read(some))
    except Refused as error:
        return line | {"reason": f"not measured: {error}"}
    spent, read = meter.energy, sum(result.reading.page_s is not None for result in results)
    each = spent.joules / read if spent.joules is not None and read else None
    line |= {"pages": read, "seconds": spent.seconds, "joules_per_page": each, "watts": spent.watts}
    return line | {"how": spent.how, "reason": spent.reason}
