"""What many pages cost, from rows: seconds per page of each setting, hours and money, and where the time goes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ocrlab.experiments.compare_runs import rows_across, short_settings
from ocrlab.experiments.recommend import MIN_PAGES
from ocrlab.machine.describe import choose_device, machine_name
from ocrlab.machine.energy import PowerMeter
from ocrlab.pages import load_pages, set_names
from ocrlab.reading.isolated import Refused
from ocrlab.reading.pool import ReaderPool
from ocrlab.scoring.outcomes import WITH_TEXT
from ocrlab.study.compare import values_of
from ocrlab.study.plots import COLOURS, GREY, blank_figure, nothing
from ocrlab.study.records import keep_findings, setting_label, settings_of

if TYPE_CHECKING:
    import pandas as pd


GROUP = ("run", "machine", "model_id", "set", "setting")
"""What one cost is of."""
PHASES = ("prepare", "vision", "prefill", "decode", "rest")
"""Opening the page and building inputs (what the model waited for it), the vision tower, the prompt, the text, rest."""
_POWER = ["machine", "set", "label"]
_HOUR, _KWH = 3600.0, 3.6e6


class Bottleneck(NamedTuple):
    """The longest phase, its share, the one that follows it, and how many times faster the first must be for that."""

    phase: str
    share: float
    next: str
    times: float


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
    (`units` says how many); of fewer than two there is no interval. `forced` says that the text's length was forced;
    `cer` is there where the texts were scored; `settings` are the asked ones.
    """
    import pandas as pd

    lines = []
    for names, group in rows.groupby(list(GROUP), sort=False) if len(rows) else ():
        settings = settings_of(group.iloc[0])
        line = dict(zip(GROUP, names, strict=True)) | {"label": setting_label(settings.as_dict()), "settings": settings}
        line |= {"forced": bool(group["min_new_tokens"].notna().any()), "batch_size": int(group["batch_size"].iloc[0])}
        line |= {"pages": group["page"].nunique(), **_mean_page(group, resamples, seed)}
        lines.append(line | values_of(group, "cer"))
    return pd.DataFrame(lines, columns=_COLUMNS)


_COLUMNS = [*GROUP, "label", "settings", "forced", "batch_size", "pages"]
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
    forced = enough["forced"].astype(bool)
    only_forced = forced.groupby([enough["run"], enough["model_id"]]).transform("all")
    kept = enough[~forced | only_forced].sort_values("page_s", kind="stable")
    some = kept.groupby(["run", "model_id", "set"], sort=False).head(most)
    return some.sort_values(["run", "model_id", "set"], kind="stable").reset_index(drop=True)


def bill(
    costs: pd.DataFrame, pages: int, *, price_per_hour: float, price_per_kwh: float, power: pd.DataFrame
) -> pd.DataFrame:
    """Return the costs with what so many pages take: `hours` and `money` with their ends, `kwh`, `energy_money`.

    `power` is `measure_power`'s table: a line gets energy only where its own machine, set and setting were measured;
    elsewhere it is empty, and `energy` says why. Prices are the caller's, of one machine, in one currency.
    """
    words = dict.fromkeys([*_POWER, "reason"], object)  # an empty table's columns are numbers, which do not merge
    known = power[[*_POWER, "joules_a_page", "reason"]].drop_duplicates(_POWER).astype(words)
    made = costs.merge(known, on=_POWER, how="left")
    joules, reason = made.pop("joules_a_page").astype(float), made.pop("reason")
    made["energy"] = reason.fillna("not measured").mask(joules.notna(), "measured")
    made["kwh"] = joules * pages / _KWH
    made["energy_money"] = made["kwh"] * price_per_kwh
    for end in ("", "_low", "_high"):
        made[f"hours{end}"] = made[f"page_s{end}"].astype(float) * pages / _HOUR
        made[f"money{end}"] = made[f"hours{end}"] * price_per_hour
    made["pages_an_hour"] = _HOUR / made["page_s"]
    return made


def what_is_missing(rows: pd.DataFrame, shown: pd.DataFrame, power: pd.DataFrame) -> list[str]:
    """Return what these rows cannot tell, each with the notebook that makes the rows."""
    if rows.empty:
        return [
            "No row has a time: `make reproduce ONLY=04-pixels,11-costs` makes rows with phases and error rates, "
            "`runs` names another run."
        ]
    told = {
        "No setting was measured on enough pages, or all misread too many letters: 04-pixels reads more pages of one "
        "setting.": shown.empty,
        "No page was read to its own end with trained weights: 04-pixels makes such rows.":
            not (rows["min_new_tokens"].isna() & (rows["weights"] == "pretrained")).any(),
        "No page has a truth, so a setting that misreads is not left out: `NAME.gt.txt` beside `NAME.png` holds it.":
            len(shown) > 0 and shown["cer"].isna().all(),
        "No batch was read: fast-path makes such rows.": not (rows["batch_size"] > 1).any(),
        "One machine only: `make add RUN=file.zip` adds another's run, `runs` then names both.":
            rows["machine"].nunique() < 2,
    }  # fmt: skip
    if power.empty or power["joules_a_page"].isna().all():
        why = f" ({power['reason'].iloc[0]})" if len(power) else ""
        told[f"No energy was measured{why}: this notebook does on an NVIDIA GPU."] = True
    return [words for words, lacks in told.items() if lacks]


def phase_seconds(rows: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Return one line per group: seconds per page of each phase (means), their sum `page_s`, pages, and `batch_pages`.

    A batch's phases are divided by its pages. Where work was prepared ahead, `prepare` is the wait alone. `rest` is
    what the meter gives to no phase; readings without phases (of a server) are left out.
    """
    import pandas as pd

    needed = ["page_s", "vision_s", "prefill_s", "decode_s"]
    known = rows.dropna(subset=needed) if set(needed) <= set(rows) else rows.iloc[:0]
    lines = []
    for names, group in known.groupby(list(by), sort=False, dropna=False) if len(known) else ():
        seconds = group.reindex(columns=[*needed, "prepare_s", "wait_s", "batch_pages"]).astype(float)
        seconds["prepare_s"] = seconds.pop("wait_s").fillna(seconds["prepare_s"]).fillna(0.0)
        batch = seconds.pop("batch_pages").fillna(1.0)
        line: dict[str, Any] = {name: float((seconds[f"{name}_s"] / batch).mean()) for name in PHASES[:-1]}
        line["rest"] = max(0.0, float(seconds["page_s"].mean()) - sum(line.values()))
        line |= {"page_s": sum(line.values()), "pages": group["page"].nunique(), "batch_pages": int(batch.max())}
        lines.append(dict(zip(by, names, strict=True)) | line)
    return pd.DataFrame(lines, columns=[*by, *PHASES, "page_s", "pages", "batch_pages"])


def sped_up(line: pd.Series, phase: str, times: float) -> float:
    """Return how many times as many pages are read where one phase takes a `times`-th of its seconds (Amdahl, 1967)."""
    share = float(line[phase] / line["page_s"])
    return 1 / (1 - share + share / times)


def bottleneck(line: pd.Series) -> Bottleneck:
    """Return the longest phase of a line of `phase_seconds`, and when another takes its place."""
    first, second = sorted(PHASES, key=lambda phase: -line[phase])[:2]
    times = float(line[first] / line[second]) if line[second] > 0 else float("inf")
    return Bottleneck(first, float(line[first] / line["page_s"]), second, times)


def _in_batch(rows: pd.DataFrame) -> pd.Series:
    return rows["batch_pages"].fillna(1) > 1 if "batch_pages" in rows else rows["page_s"].isna()


# Joules a page of settings that are read here, where a GPU tells its power.


_POWER_COLUMNS = ("machine", "set", "label", "pages", "seconds", "joules_a_page", "watts", "how", "reason")


def measure_power(costs: pd.DataFrame, pages: int) -> pd.DataFrame:
    """Return one line for each of this machine's costs (`page_costs`), its setting read again: joules a page and watts.

    So many pages of the cost's own set are read, after a first batch that is not counted; joules are the whole card's.
    Where nothing tells the power nothing is read, and the line has the reason. Kept as findings `power`.
    """
    import pandas as pd

    mine = costs[costs["machine"] == machine_name()]
    keys = ["set", "label"]
    lines = [_line(cost, pages) for _, cost in mine.drop_duplicates(keys).iterrows()]
    return pd.DataFrame(keep_findings("power", lines), columns=list(_POWER_COLUMNS))


def _line(cost: pd.Series, pages: int) -> dict[str, Any]:
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
    names = str(cost["set"]).split(" + ")  # as `rows_here` joins them
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
    return line | {"pages": read, "seconds": spent.seconds, "joules_a_page": each, "watts": spent.watts,
                   "how": spent.how, "reason": spent.reason}  # fmt: skip


# What many pages cost and where the time goes, in figures and tables.


_COLOUR = dict(zip(PHASES, (COLOURS[4], COLOURS[0], COLOURS[5], COLOURS[1], GREY), strict=True))
_NO_TIME = "no row has a time; 04-pixels makes such rows"
_NO_PHASES = "no row has phases; 04-pixels and fast-path make such rows"


def cost_plot(billed: pd.DataFrame, pages: int) -> Figure:
    """Return hours for so many pages on one machine by setting, with the 95 % interval, one colour per run."""
    if billed.empty:
        return nothing(_NO_TIME)
    figure, axes = _by_setting(billed, _names_of(billed))
    for number, (run, mine) in enumerate(billed.groupby("run", sort=False)):
        spread = [mine["hours"] - mine["hours_low"], mine["hours_high"] - mine["hours"]]
        style: dict[str, Any] = {"fmt": "os^Dv"[number % 5], "color": COLOURS[number % len(COLOURS)], "capsize": 3}
        style |= {"xerr": [part.fillna(0).clip(lower=0) for part in spread]}
        axes.errorbar(mine["hours"], mine.index, label=f"{run}: {mine['machine'].iloc[0]}", **style)
    axes.set_xlim(0, None)
    axes.set_xlabel(f"hours for {pages:,} pages on one machine; bars: 95 % interval of the mean page")
    figure.legend(loc="outside upper center", fontsize=8, frameon=False)
    return figure


def cost_table(billed: pd.DataFrame) -> pd.DataFrame:
    """Return the bill for reading: pages an hour, hours, money, energy, each with what it rests on."""
    import pandas as pd

    lines = []
    names = short_settings(billed["setting"].tolist(), 130) if len(billed) else []
    for line, setting in zip(billed.to_dict("records"), names, strict=True):
        batches = f" in {line['units']} batch{'es' * (line['units'] > 1)}" if line["units"] != line["pages"] else ""
        lines.append({
            "pages of": line["set"], "hours": _with_ends(line, "hours"), "money": _with_ends(line, "money"),
            "energy": f"{line['kwh']:,.1f} kWh, {line['energy_money']:,.2f}" if line["kwh"] >= 0 else line["energy"],
            "pages an hour": f"{line['pages_an_hour']:,.0f}",
            "CER": f"{line['cer']:.1%} ({line['cer_low']:.1%} to {line['cer_high']:.1%})" if line["cer"] >= 0
            else "not scored",
            "setting": setting, "read": f"{line['pages']} pages{batches}" + ", length forced" * line["forced"],
            "machine": line["machine"],
        })  # fmt: skip
    return pd.DataFrame(lines).set_index("pages of") if lines else pd.DataFrame({"no row has a time": []})


def phases_plot(phases: pd.DataFrame) -> Figure:
    """Return each setting's seconds per page by phase, as shares, with the whole in milliseconds at the end."""
    if phases.empty:
        return nothing(_NO_PHASES)
    sizes = zip(_names_of(phases), phases["batch_pages"], strict=True)
    figure, axes = _by_setting(phases, [n if "batch_size" in n else f"{n}, batch_size={size}" for n, size in sizes])
    left = np.zeros(len(phases))
    for phase in PHASES:
        share = (phases[phase] / phases["page_s"]).to_numpy(float)
        axes.barh(range(len(phases)), share, left=left, color=_COLOUR[phase], label=phase, height=0.7)
        left += share
    for y, seconds in enumerate(phases["page_s"]):
        axes.annotate(f"{seconds * 1000:,.0f} ms", (1.01, y), va="center", fontsize=8, annotation_clip=False)
    axes.grid(False)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set(xlim=(0, 1), xlabel=f"share of the seconds per page (means); {_where_of(phases)}")
    figure.legend(loc="outside upper center", fontsize=8, frameon=False, ncols=len(PHASES))
    return figure


def bottleneck_table(phases: pd.DataFrame) -> pd.DataFrame:
    """Return each setting's longest phase, its share, and from how many times faster on the next is the longest."""
    import pandas as pd

    found = [bottleneck(line) for _, line in phases.iterrows()]
    table = pd.DataFrame({"pages of": phases["set"], "at a time": phases["batch_pages"]})
    table["longest"] = [one.phase for one in found]
    table["share"] = [f"{one.share:.0%}" for one in found]
    table["next"] = [one.next for one in found]
    table["from times faster"] = [f"{one.times:.1f}" for one in found]
    table["setting"] = short_settings(phases["setting"].tolist(), 130)
    return table.set_index("pages of")


def faster_plot(phases: pd.DataFrame, most: float = 64) -> Figure:
    """Return how many times as many pages the first setting reads where one phase gets faster, for each; computed."""
    if phases.empty:
        return nothing(_NO_PHASES)
    line = phases.iloc[0]
    figure, axes = blank_figure(7.6, 3.8)
    times = np.geomspace(1, most, 60)
    for phase in PHASES[:-1]:
        limit = sped_up(line, phase, np.inf)
        label = f"{phase}: {line[phase] / line['page_s']:.0%} of the time, at most {limit:.2f} times"
        axes.plot(times, [sped_up(line, phase, k) for k in times], color=_COLOUR[phase], label=label)
        axes.axhline(limit, color=_COLOUR[phase], ls=":", lw=1)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set(xlabel="that phase alone becomes so many times faster", ylabel="times as many pages")
    axes.set_title(fill(f"{line['set']}, {line['setting']}; {_where_of(phases.head(1))}", 100), fontsize=8)
    figure.legend(loc="outside lower center", fontsize=8, frameon=False, ncols=2)
    return figure


def _by_setting(lines: pd.DataFrame, names: list[str]) -> tuple[Figure, Any]:
    """An empty figure with one labelled row per line, the first on top."""
    figure, axes = blank_figure(8.6, 1.5 + 0.5 * len(lines))
    axes.set_yticks(range(len(lines)), [fill(name, 52) for name in names], fontsize=7)
    axes.set_ylim(len(lines) - 0.5, -0.5)
    return figure, axes


def _names_of(lines: pd.DataFrame) -> list[str]:
    """A short name of each line: its page set, and what its setting has that not all share."""
    settings = short_settings(lines["setting"].tolist(), 130)
    return [f"{name}: {words}" for name, words in zip(lines["set"], settings, strict=True)]


def _where_of(lines: pd.DataFrame) -> str:
    machines, runs = (", ".join(dict.fromkeys(lines[name].astype(str))) for name in ("machine", "run"))
    return f"{machines}; rows of {runs}"


def _with_ends(line: Mapping[Any, Any], name: str) -> str:
    numbers = [line[name], line[f"{name}_low"], line[f"{name}_high"]]
    middle, low, high = (f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in numbers)
    return f"{middle} ({low} to {high})"
