"""Runs side by side: the same setting on several machines, or several times on one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from itertools import combinations
from pathlib import Path
from textwrap import fill, shorten
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ocrlab import paths
from ocrlab.machine.hardware import Machine
from ocrlab.reading.checkpoints import CheckpointError
from ocrlab.reading.limits import BYTES, predict
from ocrlab.reading.settings import Settings, make_settings
from ocrlab.study.compare import compare, first_difference, summarise
from ocrlab.study.plots import COLOURS, blank_figure, nothing
from ocrlab.study.records import load_findings, readings_in, record_files, row_of, setting_label, settings_of
from ocrlab.study.rereading import repeatable

if TYPE_CHECKING:
    import pandas as pd


_NAMES = tuple(Settings().as_dict())
_STEADY = {"page_s": "seconds a page", "tpot_s": "seconds a token", "cer": "CER", "peak_memory_bytes": "peak bytes"}


def run_folders(results: Path, names: Sequence[str] = ()) -> list[Path]:
    """Return the folders of the runs named: names or patterns such as `*` in `results`, or paths.

    Without names it is the run in hand alone, and in JupyterLab, where there is none, every run in `results`.

    Raises:
        ValueError: a name that is no run; the message names those that are.
    """
    found = {folder.name: folder for folder in paths.runs_in(results)}
    if not names:
        in_hand = paths.run_in_hand()
        return [in_hand] if in_hand else list(found.values())
    chosen: list[Path] = []
    for name in names:
        mine = [folder for known, folder in found.items() if fnmatch(known, name)] or [Path(name).expanduser()]
        if not (mine[0] / "run.json").is_file():
            raise ValueError(f"{mine[0]}: no run there; the runs in results/ are: {', '.join(found) or 'none yet'}")
        chosen += [folder for folder in mine if folder not in chosen]
    return chosen


class Source(NamedTuple):
    """Whose rows answer a question: the runs' folders, what to write above the figures, and whether they may decide.

    They decide where they are the run's own or where a person named them; a run that is only shown decides nothing.
    """

    folders: list[Path]
    heading: str
    decides: bool


def source_of(names: Sequence[str] = ()) -> Source:
    """Return the runs named, else the run in hand, else what JupyterLab read, else the committed run, to be shown only.

    Raises:
        ValueError: a name that is no run; the message names those that are.
    """
    if names:
        folders = run_folders(paths.RESULTS, names)
        return Source(folders, f"Rows of {', '.join(folder.name for folder in folders)}, as named", True)
    folder = paths.run_folder()
    if paths.run_in_hand() or record_files(folder / "readings"):
        return Source([folder], f"Rows of this run, {folder.name}", True)
    reference = paths.RESULTS / "reference-cpu"
    words = f"Nothing was read here yet: rows of the committed run {reference.name}, of another machine"
    return Source([reference], words, False)


def rows_across(folders: Iterable[Path]) -> pd.DataFrame:
    """Return all runs' rows with their `run` and `setting` in words, which stands for the model, too.

    Weights of another revision are another setting: they read other texts on any machine.

    Raises:
        RecordError: a damaged file; the message names it and the line.
    """
    import pandas as pd

    table = pd.DataFrame(
        row_of(record) | {"run": folder.name, "setting": _setting(record["asked"], record["actual"])}
        for folder in folders
        for record in readings_in(folder)
    )
    return table.assign(**{name: getattr(Settings(), name) for name in _NAMES if len(table) and name not in table})


def quality_across(rows: pd.DataFrame, margin: float = 0.005) -> pd.DataFrame:
    """Return one line a setting × run of scored rows: machine, pages, CER with interval, costs, and the verdict.

    `words` holds each run against the first that read the setting, over the pages that both read, page by page;
    settings that most runs share come first.
    """
    import pandas as pd

    if rows.empty or "cer_edits" not in rows:
        return pd.DataFrame()
    scored = rows[rows["cer_edits"].notna()]
    table = summarise(scored, ["setting", "run", "machine"])
    table["runs"] = table.groupby("setting")["run"].transform("nunique")
    pairs = zip(table["setting"], table["run"], strict=True)
    table["words"] = [_verdict(scored, str(setting), str(run), margin) for setting, run in pairs]
    most = table.groupby("setting")["pages"].transform("max")
    ranked = table.assign(most=most).sort_values(
        ["runs", "most", "setting"], ascending=[False, False, True], kind="stable"
    )
    return ranked.drop(columns="most").reset_index(drop=True)


def stability(rows: pd.DataFrame) -> pd.DataFrame:
    """Return how far a figure moves where nothing but the time changed: one line a machine × setting × figure.

    `between` is `runs` of one machine, or `repeats` within a run; `count` how many there are; `low` and `high` the
    least and most of their medians (CER: over all pages; memory: of their peaks), `ratio` most over least. All are over
    the pages that every one of them read.
    """
    import pandas as pd

    lines = []
    done = rows[rows["status"] == "ok"] if len(rows) else rows
    for column, keys in (("run", ["machine", "setting"]), ("repeat", ["machine", "setting", "run"])):
        for names, group in done.groupby(keys, sort=False) if len(done) else ():
            counts = group.groupby("page")[column].nunique()
            common = group[group["page"].isin(counts[counts == group[column].nunique()].index)]
            told = {"between": f"{column}s", "machine": names[0], "setting": names[1]}
            for figure, words in _STEADY.items():
                values = _figures(common, column, figure)
                if len(values) > 1:
                    low, high = float(values.min()), float(values.max())
                    lines.append(told | {
                        "figure": words, "count": len(values), "pages": common["page"].nunique(), "low": low,
                        "high": high, "ratio": high / low if low else None,
                    })  # fmt: skip
    return pd.DataFrame(lines)


def missing(rows: pd.DataFrame) -> list[str]:
    """Return what these runs cannot tell, in sentences, each with what would help."""
    named = "`results_folders` names the runs to compare, `['*']` all in results/"
    if rows.empty:
        return [f"No rows here yet: `make reproduce` makes some, `make add RUN=file.zip` adds a run; {named}."]
    machines = rows.groupby("machine")["run"].nunique()
    told = [f"One run only: {named}."] if rows["run"].nunique() < 2 else []
    if len(machines) < 2:
        told.append("All rows are of one machine: how machines differ is not measured. `make add RUN=file.zip` adds a "
                    "run from another.")  # fmt: skip
    if machines.max() < 2:
        told.append("No machine has two runs: how stable a figure is between runs is not measured. `make reproduce` "
                    "makes a second.")  # fmt: skip
    return told


def _setting(asked: dict[str, Any], actual: dict[str, Any]) -> str:
    label = setting_label(asked)
    revision = actual.get("actual_revision")
    return f"{label} (weights {str(revision).removeprefix('sha256:')[:8]})" if revision else label


def _figures(rows: pd.DataFrame, column: str, figure: str) -> pd.Series:
    """Return a figure for each run or repeat: a median, CER over all pages, the peak of memory."""
    groups = rows.groupby(column)
    if figure == "cer":
        if "cer_edits" not in rows:
            return rows.iloc[:0]["page"]
        totals = rows.dropna(subset=["cer_edits"]).groupby(column)[["cer_edits", "cer_length"]].sum()
        return totals["cer_edits"] / totals["cer_length"]
    if figure not in rows:
        return rows.iloc[:0]["page"]
    return (groups[figure].max() if figure == "peak_memory_bytes" else groups[figure].median()).dropna()


def _verdict(scored: pd.DataFrame, setting: str, run: str, margin: float) -> str:
    mine = scored[scored["setting"] == setting]
    first = str(mine["run"].iloc[0])
    if run == first:
        return "" if mine["run"].nunique() == 1 else "the one compared with"
    return compare(mine, "run", run, first, margin).words


# Speed of runs against the limit of the machine that each was made on, as its own run measured that limit.


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


# The same page, setting and weights in two runs: the same text, and if not, where the two part.


def texts_across(folders: Sequence[Path]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return one line a pair of runs, and one line a reading whose text is not the same in a pair.

    Compared are greedy readings of the same bytes of a page with the same settings and weights. Pairs: run, other,
    their machines, `readings` in common, `same`, `other_weights` (pages and settings in common, weights not). The
    second table: page, setting, run, other, `actual` where dtype or device in force differed, `at` (first letter that
    differs, from 1), what both share before it, and how each goes on.

    Raises:
        RecordError: a damaged file; the message names it and the line.
    """
    import pandas as pd

    runs = {folder.name: _readings(folder) for folder in folders}
    pairs, parted = [], []
    for one, other in combinations(runs, 2):
        common = [key for key in runs[one] if key in runs[other]]
        same = [key for key in common if _weights(runs[one][key]) == _weights(runs[other][key])]
        found = [_parted(runs[one][key], runs[other][key]) for key in same]
        lines = [{"run": one, "other": other} | line for line in found if line]
        parted += lines
        pairs.append({
            "run": one, "other": other, "machine": _machine(runs[one]), "other_machine": _machine(runs[other]),
            "readings": len(same), "same": len(same) - len(lines), "other_weights": len(common) - len(same),
        })  # fmt: skip
    columns = ["run", "other", "page", "setting", "actual", "at", "shared", "one", "two"]
    return pd.DataFrame(pairs), pd.DataFrame(parted, columns=columns)


def _readings(folder: Path) -> dict[tuple[Any, str], dict[str, Any]]:
    """Return a run's repeatable readings by settings and page; of one read several times, the first."""
    found: dict[tuple[Any, str], dict[str, Any]] = {}
    for reading in repeatable(readings_in(folder)):
        found.setdefault((make_settings(reading["asked"]), reading["page_sha256"]), dict(reading))
    return found


def _parted(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any] | None:
    where = first_difference(one["text"], other["text"])
    if where is None:
        return None
    actual = [(one["actual"].get(name), other["actual"].get(name)) for name in ("actual_dtype", "actual_device")]
    in_force = [f"{mine} against {theirs}" for mine, theirs in actual if mine != theirs]
    return {
        "page": one["page"], "setting": setting_label(one["asked"]), "actual": ", ".join(in_force), "at": where.at + 1,
        "shared": where.shared, "one": where.one, "two": where.other,
    }  # fmt: skip


def _weights(reading: dict[str, Any]) -> Any:
    return reading["actual"].get("actual_revision")


def _machine(readings: dict[Any, dict[str, Any]]) -> str:
    return ", ".join(dict.fromkeys(str(reading["machine"]) for reading in readings.values()))


# Runs side by side in figures and tables: quality and time by setting, and how far figures move by themselves.


def quality_time_plot(quality: pd.DataFrame, most: int = 10) -> Figure:
    """Return CER (95 % interval over pages) and time a page (quartiles) by setting, one colour a run.

    Shown are the settings that most runs share, then those with the most pages.
    """
    if quality.empty:
        return nothing("no run has scored rows")
    settings = list(dict.fromkeys(quality["setting"]))[:most]
    runs = list(dict.fromkeys(quality["run"]))
    height = 1.4 + len(settings) * (0.34 + 0.1 * len(runs))
    figure, both = plt.subplots(1, 2, figsize=(8.6, height), dpi=110, layout="constrained", sharey=True)
    plt.close(figure)  # the notebook shows what a cell returns, once
    for number, run in enumerate(runs):
        mine = quality[(quality["run"] == run) & quality["setting"].isin(settings)]
        if mine.empty:
            continue
        y = np.array([settings.index(s) for s in mine["setting"]]) + 0.6 * (number + 0.5) / len(runs) - 0.3
        style: dict[str, Any] = {"fmt": "os^Dv"[number % 5], "color": COLOURS[number % len(COLOURS)], "capsize": 3}
        for axes, column, scale in zip(both, ("cer", "page_s"), (1, 1000), strict=True):
            middle, low, high = (mine[f"{column}{end}"] * scale for end in ("", "_low", "_high"))
            spread = [(middle - low).clip(lower=0), (high - middle).clip(lower=0)]
            axes.errorbar(middle, y, xerr=spread, label=f"{run} ({mine['machine'].iloc[0]})", **style)
    both[0].set_yticks(range(len(settings)), [fill(s, 38) for s in short_settings(settings, 70)], fontsize=7)
    both[0].invert_yaxis()
    both[0].xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    both[0].set(xlabel="CER, 95 % interval over pages", xlim=(0, None))
    both[1].set(xlabel="ms a page, median and quartiles", xlim=(0, None))
    for axes in both:
        axes.grid(True, alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*both[0].get_legend_handles_labels(), loc="outside upper center", fontsize=8, frameon=False)
    return figure


def stability_plot(steady: pd.DataFrame) -> Figure:
    """Return most over least of each figure where nothing but the time changed, a point a setting; 1 is no change."""
    if steady.empty or steady["ratio"].isna().all():
        return nothing("no setting was read twice on one machine")
    shown = steady.dropna(subset=["ratio"])
    names = list(dict.fromkeys(shown["figure"]))
    figure, axes = blank_figure(7.0, 1.2 + 0.55 * len(names))
    for number, (between, mine) in enumerate(shown.groupby("between", sort=False)):
        y = np.array([names.index(name) for name in mine["figure"]]) + 0.16 * (2 * number - 1)
        jitter = np.linspace(-0.08, 0.08, len(y))
        style = {"marker": "os"[number % 2], "ls": "", "color": COLOURS[number], "alpha": 0.7}
        axes.plot(mine["ratio"], y + jitter, label=f"between {between}", **style)
    axes.axvline(1, color="black", lw=1)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel("most over least of the same setting, pages and machine")
    figure.legend(loc="outside upper center", fontsize=8, ncols=2, frameon=False)
    return figure


def quality_table(quality: pd.DataFrame, most: int = 20) -> pd.DataFrame:
    """Return quality, time and memory by setting and run for reading, with the verdict against the first run."""
    import pandas as pd

    if quality.empty:
        return pd.DataFrame({"no run has scored rows": []})
    table = quality.head(most)
    return pd.DataFrame({
        "setting": short_settings(table["setting"].tolist()), "run": table["run"], "pages": table["pages"],
        "CER": ["" if pd.isna(c) else f"{c:.2%} ({low:.2%} to {high:.2%})"
                for c, low, high in zip(table["cer"], table["cer_low"], table["cer_high"], strict=True)],
        "ms a page": (table["page_s"] * 1000).round(1),
        "peak MiB": (table["peak_memory_bytes"] / 2**20).round(0), "against the first": table["words"],
        "machine": table["machine"],
    }).set_index(["setting", "run"])  # fmt: skip


def speed_table(speed: pd.DataFrame, most: int = 30) -> pd.DataFrame:
    """Return milliseconds a token with quartiles, memory and the share of the machine's limit, by setting and run."""
    import pandas as pd

    if speed.empty:
        return pd.DataFrame({"no run has rows of forced length": []})
    table = speed.head(most)
    times = table[["tpot_s", "tpot_s_low", "tpot_s_high"]] * 1000
    return pd.DataFrame({
        "setting": short_settings(table["setting"].tolist()), "run": table["run"],
        "ms a token": [f"{m:.2f} ({low:.2f} to {high:.2f})" for m, low, high in times.itertuples(index=False)],
        "share of the limit": [f"{share:.0%}" if pd.notna(share) else why
                               for share, why in zip(table["tpot_share"], table["why_no_share"], strict=True)],
        "peak MiB": (table["peak_memory_bytes"] / 2**20).round(0),
        "machine": table["machine"],
    }).set_index(["setting", "run"])  # fmt: skip


def parted_table(parted: pd.DataFrame, most: int = 20) -> pd.DataFrame:
    """Return where texts part, what a person looks for first: page, letter, what stands there in either run."""
    shown = parted.head(most).assign(setting=short_settings(parted["setting"].head(most).tolist()))
    return shown[["page", "at", "shared", "one", "two", "setting", "run", "other", "actual"]].set_index("page")


def steady_table(steady: pd.DataFrame) -> pd.DataFrame:
    """Return the least steady setting of each figure, between runs and between repeats; empty where there is none."""
    if steady.empty:
        return steady
    worst = steady.sort_values("ratio", ascending=False, kind="stable").groupby(["between", "figure"]).head(1)
    worst = worst.assign(ratio=worst["ratio"].round(2), setting=short_settings(worst["setting"].tolist()))
    return worst.set_index(["between", "figure"])[["ratio", "count", "pages", "setting", "machine"]]


def short_settings(settings: list[str], width: int = 44) -> list[str]:
    """Return settings without what all of them say: the weights, the cap."""
    parts = [setting.replace(" (weights ", ", (weights ").split(", ") for setting in settings]
    shared = set.intersection(*map(set, parts)) if len(set(settings)) > 1 else set()
    made = [", ".join(part for part in mine if part not in shared) or "as all others" for mine in parts]
    return [shorten(words, width, placeholder=" …") for words in made]
