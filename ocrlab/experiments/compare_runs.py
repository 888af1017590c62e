"""Runs side by side: the same setting on several machines, or several times on one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
from ocrlab.study.plots import COLOURS, STYLE, nothing
from ocrlab.study.records import load_findings, readings_in, record_files, rows_of, setting_label, settings_of
from ocrlab.study.rereading import repeatable

if TYPE_CHECKING:
    import pandas as pd


_FIGURES = {
    "page_s": "seconds per page",
    "tpot_s": "seconds per token",
    "cer": "CER",
    "peak_memory_bytes": "peak bytes",
}


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
    """Return all runs' rows with their `run` and `setting` in words, the model's weights included.

    Weights of another revision are another setting: they read other texts on any machine.

    Raises:
        RecordError: a damaged file; the message names it and the line.
    """
    import pandas as pd

    table = pd.DataFrame(
        row | {"run": folder.name, "setting": _setting(record["asked"], record["actual"])}
        for folder in folders
        for records in [readings_in(folder)]
        for record, row in zip(records, rows_of(records), strict=True)
    )
    return table.assign(**{k: v for k, v in Settings().as_dict().items() if len(table) and k not in table})


def quality_across(rows: pd.DataFrame, margin: float = 0.005) -> pd.DataFrame:
    """Return one line per setting × run of scored rows: machine, pages, CER with interval, costs, and the verdict.

    `words` compares each run with the first that read the setting, page by page over the pages that both read;
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
    table["most"] = table.groupby("setting")["pages"].transform("max")
    ranked = table.sort_values(["runs", "most", "setting"], ascending=[False, False, True], kind="stable")
    return ranked.drop(columns="most").reset_index(drop=True)


def stability(rows: pd.DataFrame) -> pd.DataFrame:
    """Return how far a figure moves where nothing but the time changed: one line per machine × setting × figure.

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
            line = {
                "between": f"{column}s",
                "machine": names[0],
                "setting": names[1],
                "pages": common["page"].nunique(),
            }
            for figure, values in _figures(common, column).items():
                if (count := values.count()) > 1:
                    low, high = float(values.min()), float(values.max())
                    ends = {"low": low, "high": high, "ratio": high / low if low else None}
                    lines.append(line | {"figure": _FIGURES[str(figure)], "count": count} | ends)
    return pd.DataFrame(lines)


def _setting(asked: dict[str, Any], actual: dict[str, Any]) -> str:
    label = setting_label(asked)
    revision = actual.get("actual_revision")
    return f"{label} (weights {str(revision).removeprefix('sha256:')[:8]})" if revision else label


def _figures(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return medians of times, CER over all pages and peak of memory, one line per run or repeat; NaN if unknown."""
    known = rows.reindex(columns=[column, *_FIGURES, "cer_edits", "cer_length"])
    groups = known.astype({name: float for name in known if name != column}).groupby(column)
    edits = groups[["cer_edits", "cer_length"]].sum(min_count=1)
    figures = groups[["page_s", "tpot_s"]].median().assign(cer=edits["cer_edits"] / edits["cer_length"])
    return figures.assign(peak_memory_bytes=groups["peak_memory_bytes"].max())


def _verdict(scored: pd.DataFrame, setting: str, run: str, margin: float) -> str:
    mine = scored[scored["setting"] == setting]
    first = str(mine["run"].iloc[0])
    if run == first:
        return "" if mine["run"].nunique() == 1 else "the one compared with"
    return compare(mine, "run", run, first, margin).words


# Speed of runs against the limit of the machine that each was made on, as its own run measured that limit.


def speed_across(rows: pd.DataFrame, folders: Iterable[Path]) -> pd.DataFrame:
    """Return one line per setting × run of fixed length: machine, medians and quartiles of times, memory, share.

    `tpot_share` is the least time that a token can take, by the bandwidth that the run measured on its machine
    (findings `ceilings`, of 01-machine), over the time it took: 1 would be the limit. Where it is empty, `why_no_share`
    says why.
    """
    import pandas as pd

    if rows.empty or "tpot_s" not in rows:
        return pd.DataFrame()
    timed = rows[rows["min_new_tokens"].notna() & (rows["status"] == "ok")]
    if timed.empty:
        return pd.DataFrame()
    ceilings = {folder.name: load_findings("ceilings", folder) for folder in folders}
    groups = timed.groupby(["setting", "run"], sort=False)
    shares = {names: _share(mine, ceilings.get(str(mine["run"].iloc[0]), pd.DataFrame())) for names, mine in groups}
    table = summarise(timed, ["setting", "run", "machine"])
    pairs = list(zip(table["setting"], table["run"], strict=True))
    table["tpot_share"] = [shares[pair][0] for pair in pairs]
    table["why_no_share"] = [shares[pair][1] for pair in pairs]
    table["runs"] = table.groupby("setting")["run"].transform("nunique")
    return table.sort_values(["runs", "setting"], ascending=[False, True], kind="stable").reset_index(drop=True)


def _share(rows: pd.DataFrame, ceilings: pd.DataFrame) -> tuple[float | None, str]:
    first = rows.iloc[0]
    dtype, device = str(first["actual_dtype"]), str(first["actual_device"]).split(":")[0]
    measured = ceilings[ceilings["dtype"] == dtype].dropna(subset=["median"]) if "median" in ceilings else ceilings
    rates = measured.groupby("ceiling")["median"].first().to_dict() if len(measured) else {}
    if dtype not in BYTES or not {"gemv", "matmul"} <= set(rates):
        return None, f"its run did not measure this machine's limits in {dtype} (01-machine)"
    bandwidth, compute = float(rates["gemv"]) * 1e9, float(rates["matmul"]) * 1e12
    machine = Machine(str(first["machine"]), 0, bandwidth, compute, "measured in its run", device)
    settings = replace(settings_of(first), device="auto", dtype=dtype)  # type: ignore[arg-type]
    try:
        floors = predict(settings, int(rows["image_tokens"].median()), machine).floors
    except CheckpointError as error:
        return None, f"the model's sizes are not known here: {error}"
    assert floors is not None
    return floors.tpot_s / float(rows["tpot_s"].median()), ""


# The same page, setting and weights in two runs: the same text, and if not, where do the two differ first?


def texts_across(folders: Sequence[Path]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return one line per pair of runs, and one line per reading whose text is not the same in a pair.

    Compared are greedy readings of the same bytes of a page with the same settings and weights. Pairs: run, other,
    their machines, `readings` in common, `same`, `other_weights` (pages and settings in common, weights not). The
    second table: page, setting, run, other, `actual` where dtype or device in force differed, `at` (first letter that
    differs, from 1), what both share before it, and how each goes on.

    Raises:
        RecordError: a damaged file; the message names it and the line.
    """
    import pandas as pd

    runs = {folder.name: _readings(folder) for folder in folders}
    pairs, different = [], []
    for one, other in combinations(runs, 2):
        common = [(reading, runs[other][key]) for key, reading in runs[one].items() if key in runs[other]]
        same = [pair for pair in common if len({reading["actual"].get("actual_revision") for reading in pair}) == 1]
        found = [line for pair in same if (line := _difference(*pair))]
        names = {"run": one, "other": other}
        different += [names | line for line in found]
        counts = {"readings": len(same), "same": len(same) - len(found), "other_weights": len(common) - len(same)}
        pairs.append(names | {"machine": _machine(runs[one]), "other_machine": _machine(runs[other])} | counts)
    columns = ["run", "other", "page", "setting", "actual", "at", "shared", "one", "two"]
    return pd.DataFrame(pairs), pd.DataFrame(different, columns=columns)


def _readings(folder: Path) -> dict[tuple[Any, str], Mapping[str, Any]]:
    """Return a run's repeatable readings by settings and page; of one read several times, the first."""
    found: dict[tuple[Any, str], Mapping[str, Any]] = {}
    for reading in repeatable(readings_in(folder)):
        found.setdefault((make_settings(reading["asked"]), reading["page_sha256"]), reading)
    return found


def _difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any] | None:
    where = first_difference(one["text"], other["text"])
    if where is None:
        return None
    actual = [(one["actual"].get(name), other["actual"].get(name)) for name in ("actual_dtype", "actual_device")]
    in_force = ", ".join(f"{mine} against {theirs}" for mine, theirs in actual if mine != theirs)
    line = {"page": one["page"], "setting": setting_label(one["asked"]), "actual": in_force}
    return line | {"at": where.at + 1, "shared": where.shared, "one": where.one, "two": where.other}


def _machine(readings: Mapping[Any, Mapping[str, Any]]) -> str:
    return ", ".join(dict.fromkeys(str(reading["machine"]) for reading in readings.values()))


# Runs side by side in a figure: quality and time by setting.


def quality_time_plot(quality: pd.DataFrame, most: int = 10) -> Figure:
    """Return CER (95 % interval over pages) and time per page (quartiles) by setting, one colour per run.

    Shown are the settings that most runs share, then those with the most pages.
    """
    if quality.empty:
        return nothing("no run has scored rows")
    settings = list(dict.fromkeys(quality["setting"]))[:most]
    runs = list(dict.fromkeys(quality["run"]))
    height = 1.4 + len(settings) * (0.34 + 0.1 * len(runs))
    with plt.style.context(STYLE):
        figure, both = plt.subplots(1, 2, figsize=(8.6, height), sharey=True)
    plt.close(figure)  # the notebook shows what a cell returns, once
    shown = quality[quality["setting"].isin(settings)]
    for number, (run, mine) in enumerate(shown.groupby("run", sort=False)):
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
    both[1].set(xlabel="ms per page, median and quartiles", xlim=(0, None))
    figure.legend(*both[0].get_legend_handles_labels(), loc="outside upper center", fontsize=8, frameon=False)
    return figure


def short_settings(settings: list[str], width: int = 44) -> list[str]:
    """Return settings without what all of them say: the weights, the cap."""
    parts = [setting.replace(" (weights ", ", (weights ").split(", ") for setting in settings]
    shared = set.intersection(*map(set, parts)) if len(set(settings)) > 1 else set()
    made = [", ".join(part for part in mine if part not in shared) or "as all others" for mine in parts]
    return [shorten(words, width, placeholder=" …") for words in made]
