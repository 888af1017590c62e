"""Speed of runs against the limit of the machine that each was made on, as its own run measured that limit."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ocrlab.machine.hardware import Machine
from ocrlab.reading.checkpoints import CheckpointError
from ocrlab.reading.limits import BYTES, predict
from ocrlab.study.records import load_findings, settings_of
from ocrlab.study.summary import summarise

if TYPE_CHECKING:
    import pandas as pd


def speed_across(rows: pd.DataFrame, folders: Iterable[Path]) -> pd.DataFrame:
    """Return one line a setting × run of forced length: machine, medians and quartiles of times, memory, share.

    `tpot_share` is the least time that a token can take, by the bandwidth that the run measured on its machine
    (findings `ceilings`, of 01-machine), over the time it took: 1 would be the limit. Where it is empty, `why_no_share`
    says why.
    """
    import pandas as pd

    if rows.empty or "tpot_s" not in rows:
        return pd.DataFrame()
    forced = rows[rows["min_new_tokens"].notna() & (rows["status"] == "ok")]
    if forced.empty:
        return pd.DataFrame()
    limits = {folder.name: load_findings("ceilings", folder) for folder in folders}
    table = summarise(forced, ["setting", "run", "machine"])
    shares = []
    for setting, run in zip(table["setting"], table["run"], strict=True):
        mine = forced[(forced["setting"] == setting) & (forced["run"] == run)]
        shares.append(_share(mine, limits.get(run, pd.DataFrame())))
    table["tpot_share"] = [share for share, _ in shares]
    table["why_no_share"] = [why for _, why in shares]
    table["runs"] = table.groupby("setting")["run"].transform("nunique")
    return table.sort_values(["runs", "setting"], ascending=[False, True], kind="stable").reset_index(drop=True)


def _share(rows: pd.DataFrame, limits: pd.DataFrame) -> tuple[float | None, str]:
    first = rows.iloc[0]
    dtype, device = str(first["actual_dtype"]), str(first["actual_device"]).split(":")[0]
    found = {
        name: limits[(limits["ceiling"] == name) & (limits["dtype"] == dtype)]["median"].dropna()
        for name in (("gemv", "matmul") if "median" in limits else ())
    }
    if dtype not in BYTES or not found or any(values.empty for values in found.values()):
        return None, f"its run did not measure this machine's limits in {dtype} (01-machine)"
    gemv, matmul = (float(found[name].iloc[0]) for name in ("gemv", "matmul"))
    machine = Machine(str(first["machine"]), 0, gemv * 1e9, matmul * 1e12, "measured in its run", device)
    settings = replace(settings_of(rows.iloc[0]), device="auto", dtype=dtype)  # type: ignore[arg-type]
    try:
        floors = predict(settings, int(rows["image_tokens"].median()), machine).floors
    except CheckpointError as error:
        return None, f"the model's sizes are not known here: {error}"
    assert floors is not None
    return floors.tpot_s / float(rows["tpot_s"].median()), ""
