"""What many pages cost, from seconds a page: hours, energy and money; and what the rows cannot tell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ocrlab.study.recommend import MIN_PAGES

if TYPE_CHECKING:
    import pandas as pd

_HOUR, _KWH = 3600.0, 3.6e6


def worth_showing(costs: pd.DataFrame, accept_cer: float, most: int, least: int = MIN_PAGES) -> pd.DataFrame:
    """Return the fastest settings of each run, model and page set that misread no more than `accept_cer`, set by set.

    Left out is what was measured on fewer than `least` pages, or batches where pages were read in batches, and what was
    asked with another prompt than most. Readings of forced length stand in only where a model has no others.
    """
    if costs.empty:
        return costs
    prompts = costs["settings"].map(lambda settings: settings.prompt)
    usual = prompts.groupby(costs["model_id"]).transform(lambda mine: mine.mode().iloc[0])
    enough = costs[(costs["units"] >= max(2, least)) & ~(costs["cer"] > accept_cer) & (prompts == usual)]
    natural = enough.groupby(["run", "model_id"])["forced"].transform(lambda forced: (~forced.astype(bool)).any())
    kept = enough[~enough["forced"].astype(bool) | ~natural.astype(bool)].sort_values("page_s", kind="stable")
    some = kept.groupby(["run", "model_id", "set"], sort=False).head(most)
    return some.sort_values(["run", "model_id", "set"], kind="stable").reset_index(drop=True)


def bill(
    costs: pd.DataFrame, pages: int, *, price_per_hour: float, price_per_kwh: float, power: pd.DataFrame
) -> pd.DataFrame:
    """Return the costs with what so many pages take: `hours` and `money` with their ends, `kwh`, `energy_money`.

    `power` is `measure_power`'s table: a line gets energy only where its own machine, set and setting were measured;
    elsewhere it is empty, and `energy` says why. Prices are the caller's, of one machine, in one currency.
    """
    made = costs.copy()
    joules, words = [], []
    for line in made.itertuples():
        found = power
        for name in ("machine", "set", "label"):
            found = found[found[name] == getattr(line, name)] if name in found else found.iloc[:0]
        known = found.dropna(subset=["joules_a_page"]) if len(found) else found
        joules.append(float(known["joules_a_page"].iloc[0]) if len(known) else None)
        words.append("measured" if len(known) else str(found["reason"].iloc[0]) if len(found) else "not measured")
    made["energy"] = words
    made["kwh"] = np.array(joules, float) * pages / _KWH
    made["energy_money"] = made["kwh"] * price_per_kwh
    for end in ("", "_low", "_high"):
        made[f"hours{end}"] = made[f"page_s{end}"].astype(float) * pages / _HOUR
        made[f"money{end}"] = made[f"hours{end}"] * price_per_hour
    made["pages_an_hour"] = _HOUR / made["page_s"]
    return made


def what_is_missing(rows: pd.DataFrame, shown: pd.DataFrame, power: pd.DataFrame) -> list[str]:
    """Return what these rows cannot tell, each with the notebook that makes the rows."""
    told = []
    if rows.empty:
        return ["No row has a time: `make reproduce ONLY=04-pixels,11-costs` makes rows with phases and error rates, "
                "`runs` names another run."]  # fmt: skip
    if shown.empty:
        told.append("No setting was measured on enough pages, or all misread too many letters: 04-pixels reads more "
                    "pages of one setting.")  # fmt: skip
    if not (rows["min_new_tokens"].isna() & (rows["weights"] == "pretrained")).any():
        told.append("No page was read to its own end with trained weights: 04-pixels makes such rows.")
    if not (rows["batch_size"] > 1).any():
        told.append("No batch was read: fast-path makes such rows.")
    if rows["machine"].nunique() < 2:
        told.append("One machine only: `make add RUN=file.zip` adds another's run, `runs` then names both.")
    if power.empty or power["joules_a_page"].isna().all():
        why = f" ({power['reason'].iloc[0]})" if len(power) else ""
        told.append(f"No energy was measured{why}: this notebook does on an NVIDIA GPU.")
    return told
