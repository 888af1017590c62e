"""Which generation settings to compare, how each compares with greedy, and the preset that follows from it."""

from __future__ import annotations

import pandas as pd

from ocrlab.study.compare import compare, endings, summarise

GREEDY, OWN = "greedy", "checkpoint's own"


def summarise_settings(rows: pd.DataFrame) -> pd.DataFrame:
    """Return `summarise`'s line for each setting and, over all its readings, the harm to digits and lines and its cost.

    `digits` and `lines` are the shares that came back, with 95 % intervals over pages (`_low`, `_high`), empty where
    the truth has none; `loops` and `truncated` count readings of `readings`; `tokens_mean` are new tokens per reading,
    `decoded_mean` those of every beam. `rows` have `setting` by name, `text` and `truth` beside
    the columns of `run_experiment`; the index is the setting.
    """
    beams = rows["actual_num_beams"].astype(float).fillna(1) if "actual_num_beams" in rows else 1
    counted = rows.assign(
        decoded=rows["tokens"] * beams, loop=rows["status"] == "loop", cut=rows["status"] == "truncated"
    ).groupby("setting", sort=False)
    return (
        summarise(rows, "setting", ("digits", "lines"))
        .set_index("setting")
        .assign(
            readings=counted.size(),
            loops=counted["loop"].sum(),
            truncated=counted["cut"].sum(),
            tokens_mean=counted["tokens"].mean(),
            decoded_mean=counted["decoded"].mean(),
        )
    )


def judge_settings(rows: pd.DataFrame, margin: float = 0.005) -> pd.DataFrame:
    """Return `summarise_settings` with each setting's verdict against greedy, and `out`: why it is not the preset.

    `difference`, `_low`, `_high` and `words` are the verdict on CER, page by page; `same_text` is the share of readings
    with greedy's text; `best` is `best_setting`. `out` is "" where a setting gave no NaN, is not worse than the best by
    `margin` in CER, and is not seen to lose more digit strings than greedy. Loops, cut-off and lost pages count as what
    they cost: their errors are in CER, their tokens in the cost, and `ends` says how many they are.
    """
    table = summarise_settings(rows)
    greedy = rows[rows["setting"] == GREEDY].drop_duplicates("page").set_index("page")
    same = rows["text"].to_numpy() == greedy["text"].reindex(rows["page"]).to_numpy()
    table["same_text"] = rows.assign(same=same).groupby("setting")["same"].mean()
    table["best"] = best = best_setting(rows, table, margin)
    table[["difference", "difference_low", "difference_high"]] = float("nan")
    for name in table.index.astype(str):
        table.loc[name, "words"] = "what the others are compared with"
        if name != GREEDY:
            verdict = compare(rows, "setting", name, GREEDY, margin)
            low, high, point = verdict.difference[:3]
            table.loc[name, ["difference", "difference_low", "difference_high"]] = [point, low, high]
            table.loc[name, "words"] = verdict.words
        table.loc[name, "ends"] = endings(rows[rows["setting"] == name])
        table.loc[name, "out"] = _why_not(rows, table, name, best, margin)
    return table.reset_index()


def best_setting(rows: pd.DataFrame, table: pd.DataFrame, margin: float) -> str:
    """Return the setting with the lowest CER of those seen to read better than greedy, or greedy where none was.

    The lowest of many is low by luck as well: each must be seen to be better at 95 % shared out over all of them
    (Bonferroni). `table` holds their CER by setting.
    """
    scored = table["cer"].dropna().index.astype(str)
    others = [name for name in scored if name != GREEDY] if GREEDY in scored else []
    share = 1 - 0.05 / max(1, len(others))
    seen = [n for n in others if compare(rows, "setting", n, GREEDY, margin, confidence=share).kind == "better"]
    return min(seen, key=lambda name: float(table["cer"][name]), default=GREEDY)


def _why_not(rows: pd.DataFrame, table: pd.DataFrame, name: str, best: str, margin: float) -> str:
    mine = rows[rows["setting"] == name]
    if table["cer"].isna()[name]:
        return f"has no score: {table['reason'][name] or 'the pages have no truth'}"
    if (broken := mine["status"] == "invalid").any():
        return f"{broken.sum()} of {len(mine)} readings: {table['reason'][name]}"
    if name != best and compare(rows, "setting", name, best, margin).kind not in {"better", "not worse"}:
        return f"not shown to be within {100 * margin:g} CER points of {best}"
    digits = compare(rows, "setting", name, GREEDY, margin, "digits")
    return digits.words if name != GREEDY and digits.kind == "worse" else ""
