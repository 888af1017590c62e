"""Which generation settings to compare, how each stands against greedy, and the preset that follows from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import yaml
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ocrlab import paths
from ocrlab.reading.settings import GENERATION, Settings, make_settings
from ocrlab.scoring.metrics import METRICS, digit_strings
from ocrlab.study.compare import compare, summarise
from ocrlab.study.plots import COLOURS, GREY, nothing

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


# Generation settings side by side: error with intervals, digit strings against error, how readings ended.


_BETTER, _WORSE, _OPEN = COLOURS[2], COLOURS[1], COLOURS[0]


def forest(judged: pd.DataFrame, margin: float, title: str = "") -> Figure:
    """Return CER of each setting with its interval, and beside it the paired difference from greedy, names down.

    The line and the zero are greedy's, the shade ends at the margin. A difference is coloured where its interval leaves
    zero out; a setting without a score is a grey line with its reason.
    """
    height = 1.3 + 0.3 * len(judged)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, height), dpi=110, sharey=True, layout="constrained")
    for y, (_, line) in enumerate(judged.iterrows()):
        if np.isnan(line["cer"]):
            left.axhspan(y - 0.4, y + 0.4, color=GREY, alpha=0.25, lw=0)
            left.text(0.02, y, line["out"][:60], transform=left.get_yaxis_transform(), va="center", fontsize=7)
            continue
        _whisker(left, y, line, "cer", COLOURS[6] if line["setting"] == GREEDY else _OPEN)
        if line["setting"] != GREEDY and not np.isnan(line["difference"]):
            seen = _BETTER if line["difference_high"] < 0 else _WORSE if line["difference_low"] > 0 else _OPEN
            _whisker(right, y, line, "difference", seen)
    greedy = judged[judged["setting"] == GREEDY]
    if greedy["cer"].notna().any():
        left.axvline(greedy["cer"].iloc[0], color=COLOURS[6], lw=1, ls="--")
    right.axvline(0, color=COLOURS[6], lw=1, ls="--")
    right.axvspan(0, margin, color=GREY, alpha=0.3, lw=0)
    left.set_yticks(range(len(judged)), judged["setting"])
    left.set_ylim(len(judged) - 0.4, -0.6)
    left.set_xlabel("CER, white space collapsed")
    right.set_xlabel("CER minus greedy's, page by page, in points")
    left.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    right.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=1, symbol=""))
    _calm(left, right)
    figure.suptitle(f"{title}{': ' if title else ''}95 % intervals over pages", fontsize=9)
    plt.close(figure)
    return figure


def digits_against_error(judged: pd.DataFrame, title: str = "") -> Figure:
    """Return the share of digit strings that came back against CER, both with intervals: a sign a kind of setting."""
    shown = judged.dropna(subset=["cer", "digits"])
    if shown.empty:
        return nothing("no setting has both a CER and digit strings in the truth")
    figure, axes = plt.subplots(figsize=(7.5, 4.2), dpi=110, layout="constrained")
    kinds = list(dict.fromkeys(name.split("=")[0] for name in shown["setting"]))
    for _, line in shown.iterrows():
        kind, _, value = line["setting"].partition("=")
        i = kinds.index(kind)
        y, x = ([[abs(line[n] - line[f"{n}_low"])], [abs(line[f"{n}_high"] - line[n])]] for n in ("digits", "cer"))
        axes.errorbar(line["cer"], line["digits"], yerr=y, xerr=x, color=COLOURS[(i - 1) % 7], alpha=0.3, lw=0.8)
        axes.annotate(value, (line["cer"], line["digits"]), (5, 4), textcoords="offset points", fontsize=7)
    for i, kind in enumerate(kinds):
        mine = shown[shown["setting"].str.split("=").str[0] == kind]
        # The checkpoint's own may well be greedy: a hollow sign around the other.
        style = {"mfc": "none", "ms": 13} if kind == OWN else {"ms": 7}
        axes.plot(mine["cer"], mine["digits"], "*os^DvPX"[i % 8], color=COLOURS[(i - 1) % 7], label=kind, **style)
    figure.legend(loc="outside right upper", fontsize=7)
    axes.set(xlabel="CER, white space collapsed", ylabel="digit strings that came back, share")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_title(f"{title}{': ' if title else ''}95 % intervals over pages", fontsize=9)
    _calm(axes)
    plt.close(figure)
    return figure


def endings(judged: pd.DataFrame, title: str = "") -> Figure:
    """Return how many readings of each setting ended in a loop or at the cap, and how many were made, names down."""
    figure, axes = plt.subplots(figsize=(7.5, 1.2 + 0.26 * len(judged)), dpi=110, layout="constrained")
    names = judged["setting"]
    axes.barh(names, judged["readings"], color=GREY, alpha=0.2, label="readings")
    axes.barh(names, judged["loops"], color=COLOURS[1], label="loop")
    axes.barh(
        names, judged["truncated"], left=judged["loops"], color=COLOURS[4], hatch="//", label="cut off by the cap"
    )
    for y, (_, line) in enumerate(judged.iterrows()):
        told = f"{line['loops']} + {line['truncated']} of {line['readings']}"
        axes.text(line["readings"], y, f" {told}", va="center", fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("readings: loop + cut off of all")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.16)
    axes.set_title(title, fontsize=9)
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    _calm(axes)
    plt.close(figure)
    return figure


def generation_table(judged: pd.DataFrame) -> pd.DataFrame:
    """Return the settings rounded for reading: CER, digit strings, lines, ends, tokens, time, what speaks against."""
    shown = judged[["setting"]].copy()
    for name in ("cer", "digits", "lines"):
        if judged[name].notna().any():
            metric = METRICS[name]
            shown[metric.label] = [metric.interval_words(line, name) or "–" for line in judged.to_dict("records")]
    shown["loops"], shown["cut off"] = judged["loops"], judged["truncated"]
    shown["tokens a page"] = judged["tokens_mean"].round(0)
    shown["ms a page"] = (1000 * judged["page_s"]).round(0)
    shown["greedy's text"] = [f"{share:.0%}" for share in judged["same_text"]]
    shown["speaks against it"] = judged["out"]
    return shown.set_index("setting")


def _whisker(axes: Any, y: float, line: pd.Series, name: str, colour: str) -> None:
    spread = [[max(0.0, line[name] - line[f"{name}_low"])], [max(0.0, line[f"{name}_high"] - line[name])]]
    axes.errorbar(line[name], y, xerr=spread, fmt="o", capsize=3, color=colour, ms=5)


def _calm(*panels: Any) -> None:
    for axes in panels:
        axes.grid(True, alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)


# What a setting costs beyond its error rate: digit strings and lines that were lost, loops, cut-off pages, tokens.


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
