"""Runs to compare: which ones a name means, their rows in one table, and settings in few words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from textwrap import shorten
from typing import Any, NamedTuple

import pandas as pd

from ocrlab import paths
from ocrlab.reading.settings import Settings
from ocrlab.study.records import readings_in, record_files, rows_of, setting_label


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
    table = pd.DataFrame(
        row | {"run": folder.name, "setting": _setting(record["asked"], record["actual"])}
        for folder in folders
        for records in [readings_in(folder)]
        for record, row in zip(records, rows_of(records), strict=True)
    )
    return table.assign(**{k: v for k, v in Settings().as_dict().items() if len(table) and k not in table})


def _setting(asked: dict[str, Any], actual: dict[str, Any]) -> str:
    label = setting_label(asked)
    revision = actual.get("actual_revision")
    return f"{label} (weights {str(revision).removeprefix('sha256:')[:8]})" if revision else label


def short_settings(settings: list[str], width: int = 44) -> list[str]:
    """Return settings without what all of them share, such as the weights."""
    parts = [setting.replace(" (weights ", ", (weights ").split(", ") for setting in settings]
    shared = set.intersection(*map(set, parts)) if len(set(settings)) > 1 else set()
    made = [", ".join(part for part in mine if part not in shared) or "as all others" for mine in parts]
    return [shorten(words, width, placeholder=" …") for words in made]
