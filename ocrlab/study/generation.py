"""Which generation settings to compare, how each stands against greedy, and the preset that follows from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import yaml

from ocrlab import paths
from ocrlab.reading.settings import GENERATION, Settings
from ocrlab.study.damage import damage_table
from ocrlab.study.summary import compare

if TYPE_CHECKING:
    import pandas as pd

GREEDY, OWN = "greedy", "checkpoint's own"
_SAME_COST = 0.25


def generation_grid(base: Settings, seeds: Sequence[int] = (0,), **values: Sequence[Any]) -> dict[Settings, str]:
    """Return settings to compare, each with its name, greedy first: `base`, the checkpoint's own, one change at a time.

    `values` holds lists by setting: `temperature=[0.3, 1.0]` samples, once a seed; `repetition_penalty`,
    `no_repeat_ngram_size`, `num_beams` and `max_new_tokens` change `base` alone. What equals an earlier one is left
    out.
    """
    greedy = replace(base, do_sample=False, temperature=None, top_p=None, top_k=None)
    own = replace(greedy, do_sample=None, num_beams=None, repetition_penalty=None, no_repeat_ngram_size=None)
    grid = {greedy: GREEDY, own: OWN}
    for name, choices in values.items():
        for value in choices:
            changes: list[dict[str, Any]] = [{name: value}]
            if name in {"temperature", "top_p", "top_k"}:
                changes = [{name: value, "do_sample": True, "seed": seed} for seed in seeds]
            for change in changes:
                grid.setdefault(replace(greedy, **change), f"{name}={value}")
    return grid


def judge_settings(rows: pd.DataFrame, margin: float = 0.005) -> pd.DataFrame:
    """Return `damage_table` with each setting's stand against greedy, and `out`: why the preset is not to be this one.

    `difference`, `_low`, `_high` and `words` are the verdict on CER, page by page; `same_text` is the share of readings
    with greedy's text; `best` is `best_setting`. `out` is "" where a setting read every page, is not worse than the
    best by `margin` in CER, made no loop, was not cut off, and lost no larger share of digit strings than greedy did.
    """
    table = damage_table(rows).set_index("setting")
    greedy = rows[rows["setting"] == GREEDY].drop_duplicates("page").set_index("page")
    same = rows["text"].to_numpy() == greedy["text"].reindex(rows["page"]).to_numpy()
    table["same_text"] = rows.assign(same=same).groupby("setting")["same"].mean()
    table["best"] = best = best_setting(rows, table, margin)
    table[["difference", "difference_low", "difference_high"]] = float("nan")
    for name in table.index.astype(str):
        table.loc[name, "words"] = "what the others are held against"
        if name != GREEDY:
            verdict = compare(rows, "setting", name, GREEDY, margin)
            low, high, point = verdict.difference[:3]
            table.loc[name, ["difference", "difference_low", "difference_high"]] = [point, low, high]
            table.loc[name, "words"] = verdict.words
        table.loc[name, "out"] = _why_not(rows, table, name, best, margin)
    return table.reset_index()


def best_setting(rows: pd.DataFrame, table: pd.DataFrame, margin: float) -> str:
    """Return the setting with the lowest CER of those seen to read better than greedy, or greedy where none was.

    The lowest of many is low by luck as well: each must be seen to be better at 95 % shared out over all of them
    (Bonferroni). `table` holds their CER, one line a setting.
    """
    others = [name for name in table.index.astype(str) if name != GREEDY and _scored(table, name, GREEDY)]
    share = 1 - 0.05 / max(1, len(others))
    seen = [n for n in others if compare(rows, "setting", n, GREEDY, margin, confidence=share).kind == "better"]
    return min(seen, key=lambda name: float(table["cer"][name]), default=GREEDY)


def tuned_preset(judged: pd.DataFrame, grid: Mapping[Settings, str]) -> tuple[Settings, str]:
    """Return the cheapest setting that nothing speaks against, and the reason in words; greedy where none is left.

    Cheapest is by the tokens decoded a page, a beam's counted each: where others use the machine too, times part by
    more than settings do. Where none decodes a quarter fewer, the first in the grid's order is taken.
    """
    settings = {name: next(s for s, n in grid.items() if n == name) for name in judged["setting"]}
    left = judged[judged["out"] == ""]
    if left.empty:
        why = str(judged.set_index("setting")["out"].loc[GREEDY])
        return settings[GREEDY], f"greedy for want of a better one: every setting has something against it ({why})"
    cheap = left["decoded_mean"] * (1 - _SAME_COST) <= left["decoded_mean"].min()
    chosen = left[cheap].iloc[0]
    name, best = chosen["setting"], chosen["best"]
    stand = f"not worse than {best} by more than the margin"
    if name == best:
        stand = "no setting was seen to read better" if best == GREEDY else "seen to read better than greedy"
    return settings[name], (
        f"{name}: {stand}; CER {chosen['cer']:.2%} over {chosen['pages']} pages, no loop, no page cut off, no more "
        f"digit strings lost than by greedy; of {len(left)} such settings none decoded a quarter fewer tokens, "
        f"{chosen['decoded_mean']:.0f} and {1000 * chosen['page_s']:.0f} ms a page"
    )


def write_preset(settings: Settings, reason: str, folder: Path | None = None) -> Path:
    """Write `generation-<model>.yaml`, which `load_preset` loads, with the reason as comment lines; return its path."""
    model = settings.model_id.replace("\\", "/").rstrip("/").split("/")[-1]
    file = (folder or paths.run_folder()) / f"generation-{model}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    comment = fill(reason, 100, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)
    changed = settings.changed()
    # Generation settings are all written, so that a later default cannot change what was found.
    told = {k: v for k, v in settings.as_dict().items() if k in changed or (k in GENERATION and v is not None)}
    file.write_text(f"{comment}\n{yaml.safe_dump(told, sort_keys=False, allow_unicode=True)}", encoding="utf-8")
    return file


def _scored(table: pd.DataFrame, *names: str) -> bool:
    return bool(table.loc[list(names), "cer"].notna().all())


def _why_not(rows: pd.DataFrame, table: pd.DataFrame, name: str, best: str, margin: float) -> str:
    line, greedy = table.loc[name], table.loc[GREEDY]
    mine = rows[rows["setting"] == name]
    if not _scored(table, name):
        return f"has no score: {line['reason'] or 'the pages have no truth'}"
    if mine["cer"].isna().any():
        return f"{mine['cer'].isna().sum()} of {len(mine)} readings failed: {line['reason']}"
    for status, words in (("loops", "ended in a loop"), ("truncated", "were cut off by the cap")):
        if line[status]:
            return f"{line[status]} of {line['readings']} readings {words}"
    if line["digits"] < greedy["digits"]:
        return f"loses {1 - line['digits']:.1%} of the digit strings, greedy {1 - greedy['digits']:.1%}"
    if name != best and compare(rows, "setting", name, best, margin).kind not in {"better", "not worse"}:
        return f"not shown to be within {100 * margin:g} CER points of {best}"
    return ""
