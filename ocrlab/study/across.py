"""Runs side by side: the same setting on several machines, or several times on one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ocrlab import paths
from ocrlab.reading.settings import Settings
from ocrlab.study.records import readings_in, record_files, row_of, setting_label
from ocrlab.study.summary import compare, summarise

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
