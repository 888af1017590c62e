"""What a setting costs beyond its error rate: digit strings and lines that were lost, loops, cut-off pages, tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ocrlab.reading.settings import Settings, make_settings
from ocrlab.scoring.metrics import digit_strings
from ocrlab.study.summary import summarise

if TYPE_CHECKING:
    import pandas as pd

_MEASURES = ("digits", "lines")


def with_damage(rows: pd.DataFrame, readings: pd.DataFrame, names: Mapping[Settings, str]) -> pd.DataFrame:
    """Return the rows with each one's setting by name, its text and truth, and how many digit strings were read.

    `rows` are `run_experiment`'s, `readings` its `readings_of`. `digits_read` is empty where the row has no score.
    Settings that share a name are taken together.
    """
    mine = readings.drop_duplicates("key").set_index("key").loc[rows["key"]]
    more = rows.assign(
        setting=[names[make_settings(asked)] for asked in mine["asked"]],
        text=mine["text"].to_numpy(),
        truth=mine["truth"].to_numpy(),
    )
    scored = rows["cer"].notna() if "cer" in rows else rows["page"].isna()
    read = [len(digit_strings(text)) if has else float("nan") for text, has in zip(mine["text"], scored, strict=True)]
    return more.assign(digits_read=read)


def damage_table(rows: pd.DataFrame, by: str = "setting") -> pd.DataFrame:
    """Return `summarise`'s line for each setting and, over all its readings, what it lost and what it spent.

    `digits` and `lines` are the shares that came back, with 95 % intervals over pages (`_low`, `_high`), empty where
    the truth has none; `loops` and `truncated` count readings of `readings`, `tokens_total` and `tokens_mean` new
    tokens, `decoded_mean` those of every beam, `digits_read` digit strings in all. `rows` are those of `with_damage`.
    """
    groups = rows.groupby(by, sort=False)
    table = summarise(rows, by, _MEASURES).set_index(by)
    table["readings"] = groups.size()
    for status, column in (("loop", "loops"), ("truncated", "truncated")):
        table[column] = (rows["status"] == status).groupby(rows[by], sort=False).sum()
    table["tokens_total"], table["tokens_mean"] = groups["tokens"].sum(), groups["tokens"].mean()
    beams = rows["actual_num_beams"].astype(float).fillna(1) if "actual_num_beams" in rows else 1
    table["decoded_mean"] = rows.assign(decoded=rows["tokens"] * beams).groupby(by, sort=False)["decoded"].mean()
    table["digits_read"] = groups["digits_read"].sum(min_count=1)
    ends = [name + end for name in _MEASURES for end in ("", "_low", "_high")]
    return table.assign(**{name: float("nan") for name in ends if name not in table}).reset_index()
