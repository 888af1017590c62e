"""What to use here, from rows alone: each measured setting against one that all experiments share, page by page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any, Literal, get_args

import yaml

from ocrlab.machine.quarantine import reason_against
from ocrlab.reading.settings import Settings, is_endpoint
from ocrlab.scoring.outcomes import WITH_TEXT
from ocrlab.scoring.statistics import bootstrap_median
from ocrlab.study.compare import compare, interval_of, why_no_score
from ocrlab.study.records import load_rows, settings_of

if TYPE_CHECKING:
    import pandas as pd


Standing = Literal[
    "recommended", "on the front", "dominated", "not settled", "worse", "not valid", "not scored", "could not run"
]
#: What a setting can be, the best first.
STANDINGS: tuple[Standing, ...] = get_args(Standing)
MIN_PAGES = 8
_NUMBERS = ("difference", "low", "high", "speed", "speed_low", "speed_high", "cer", "pages_per_second")
_COLUMNS = (*_NUMBERS, "settings", "anchor", "pages", "reason", "memory_bytes", "standing", "machine", "model_id")
_NAMES = [name for name in Settings().as_dict() if name != "seed"]
_UNFIT = ("invalid", "loop", "crashed", "oom", "timeout", "error", "unsupported", "truncated")


@dataclass(frozen=True)
class Recommendation:
    """A machine's and model's recommended settings, why in words, and what would change it."""

    machine: str
    settings: Settings
    why: str
    unless: str


def judge_runs(rows: pd.DataFrame, margin: float = 0.005) -> pd.DataFrame:
    """Return one line per machine × model × setting of scored rows: its standing, with the numbers and the reason.

    All are compared with the anchor, the setting with the most pages: `difference` is CER minus the anchor's over the
    pages they share, with `low` and `high`; `speed` is how many times as many pages per second, the median over pages
    with its interval; `cer` and `pages_per_second` are the anchor's moved by these, so that settings which were read on
    other pages can be shown in one figure. Fewer than 8 shared pages settle nothing. Where the anchor has no CER,
    nothing is recommended and the reason says what would give one; no rows give no lines.
    """
    import pandas as pd

    lines = []
    quality = quality_rows(rows)
    for (machine, model), mine in quality.groupby(["machine", "model_id"], sort=False) if len(quality) else ():
        usual = mine.groupby("prompt")["page"].nunique().idxmax()  # another question is not another way to answer it
        groups = [group for _, group in groups_by_setting(mine[mine["prompt"] == usual])]
        anchor = max(groups, key=_anchors)
        made = [_line(group, anchor, margin) | {"machine": machine, "model_id": model} for group in groups]
        lines += _ranked(made)
    return pd.DataFrame(lines, columns=_COLUMNS)


def recommend(judged: pd.DataFrame) -> list[Recommendation]:
    """Return one recommendation per machine and model that has a setting to recommend."""
    return [
        Recommendation(str(line["machine"]), line["settings"], _why(line, mine), _unless(mine))
        for _, mine in judged.groupby(["machine", "model_id"], sort=False)
        for _, line in mine[mine["standing"] == "recommended"].iterrows()
    ]


def write_recommended(recommended: Iterable[Recommendation], folder: Path, heading: str) -> list[Path]:
    """Write presets with their reasons: `recommended.yaml` for the first, `recommended-2.yaml` and so on for others.

    `heading` says whose rows they are from.
    """
    return [
        write_preset(
            one.settings,
            f"{heading}. {one.machine}: {one.why} {one.unless}",
            folder / ("recommended.yaml" if number == 1 else f"recommended-{number}.yaml"),
        )
        for number, one in enumerate(recommended, 1)
    ]


def write_preset(settings: Settings, reason: str, file: Path) -> Path:
    """Write a preset that `load_preset` loads, with the reason as comment lines; return its path.

    Generation settings are all written, so that a later default cannot change what was found.
    """
    comment = fill(reason, 100, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)
    kept = {**settings.changed(), **settings.generate_kwargs()}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{comment}\n{yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)}", encoding="utf-8")
    return file


def rows_of_runs(folders: Iterable[Path]) -> pd.DataFrame:
    """Return the rows of several runs' folders in one table, each with its run's name."""
    import pandas as pd

    tables = [load_rows(folder).assign(run=folder.name) for folder in folders]
    filled = [table for table in tables if len(table)]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame()


def quality_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that ask about reading: no fixed length, own weights, and every setting's column.

    Beside readings in this process a server's are left out: dtype and attention behind them only the server knows.
    """
    missing = {name: value for name, value in Settings().as_dict().items() if name not in rows}
    rows = rows.assign(**missing)
    rows = rows[rows["min_new_tokens"].isna() & (rows["weights"] == "pretrained")]
    remote = rows["model_id"].map(is_endpoint).astype(bool)
    return rows if remote.all() else rows[~remote]


def groups_by_setting(rows: pd.DataFrame) -> Iterator[tuple[Settings, pd.DataFrame]]:
    """Yield each setting of the rows of `quality_rows` with its rows, all seeds together."""
    for _, group in rows.groupby(_NAMES, dropna=False, sort=False):
        yield settings_of(group.iloc[0]), group


def _anchors(group: pd.DataFrame) -> tuple[int, int, int]:
    """What makes a setting the anchor: many pages with a score, then many pages, then few changes."""
    scored = group.reindex(columns=["page", "cer_edits"]).dropna()["page"].nunique()
    return scored, group["page"].nunique(), -len(settings_of(group.iloc[0]).changed())


def _line(group: pd.DataFrame, anchor: pd.DataFrame, margin: float) -> dict[str, Any]:
    settings = settings_of(group.iloc[0])
    read = group[group["status"].isin(WITH_TEXT)]
    line: dict[str, Any] = {
        "settings": settings,
        "anchor": group is anchor,
        "pages": read["page"].nunique(),
        "memory_bytes": read["peak_memory_bytes"].max() if len(read) else None,
    }
    if read.empty:
        return line | {"standing": "could not run", "reason": group["reason"].iloc[0]}
    if found := _unfit(group, settings):
        return line | {"standing": "not valid", "reason": found}
    if interval_of(anchor) is None:
        return line | {"standing": "not scored", "reason": why_no_score(anchor)}
    return line | _compared(group, read, anchor, margin)


def _compared(group: pd.DataFrame, read: pd.DataFrame, anchor: pd.DataFrame, margin: float) -> dict[str, Any]:
    """A setting's numbers against the anchor's: CER and seconds of the pages that both read."""
    import pandas as pd

    cer = anchor["cer_edits"].sum() / anchor["cer_length"].sum()
    pages_per_second = 1 / anchor["page_s"].median()
    if group is anchor:
        same = dict(zip(_NUMBERS, (0.0, 0.0, 0.0, 1.0, 1.0, 1.0, cer, pages_per_second), strict=True))
        return same | {"standing": "on the front", "reason": "what the others are compared with"}
    mine, other = (table.groupby("page")["page_s"].median().dropna() for table in (read, anchor))
    ratios = (other / mine).dropna()
    if len(ratios) < MIN_PAGES:
        reason = f"{len(ratios)} pages in common with the anchor, {MIN_PAGES} needed"
        return {"standing": "not settled", "reason": reason}
    # The same page may have been read in several experiments: one row per page.
    scored = [table.dropna(subset=["cer_edits"]).drop_duplicates("page") for table in (group, anchor)]
    both = pd.concat([scored[0].assign(who="this"), scored[1].assign(who="anchor")])
    verdict = compare(both, "who", "this", "anchor", margin)
    if verdict.kind == "not compared":
        return {"standing": "not settled", "reason": verdict.words}
    speed, difference = bootstrap_median(ratios.tolist()), verdict.difference
    standing = "on the front" if verdict.kind in {"better", "not worse"} else verdict.kind
    found = (difference.point, difference.low, difference.high, speed.point, speed.low, speed.high)
    moved = (cer + difference.point, pages_per_second * speed.point)
    return dict(zip(_NUMBERS, found + moved, strict=True)) | {"standing": standing, "reason": verdict.words}


def _unfit(group: pd.DataFrame, settings: Settings) -> str:
    """What makes a setting unfit whatever its speed: the canary, broken numbers, loops, failed pages."""
    if held := reason_against((settings.dtype, settings.attn_implementation, settings.sdpa_kernel)):
        return held
    for status in _UNFIT:
        bad = group[group["status"] == status]
        if len(bad):
            return f"{len(bad)} of {len(group)} readings: {status} ({bad['reason'].iloc[0]})"
    return ""


def _ranked(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Say which of those that read well enough are beaten in CER and speed at once, and which one to use."""
    left = [line for line in lines if line["standing"] == "on the front"]
    for line in left:
        for other in left:
            no_worse = other["cer"] <= line["cer"] and other["speed"] >= line["speed"]
            if no_worse and (other["cer"], other["speed"]) != (line["cer"], line["speed"]):
                line["standing"] = "dominated"
    faster = [line for line in left if line["standing"] == "on the front" and line["speed_low"] > 1]
    chosen = faster or [line for line in left if line["anchor"]]
    if chosen:
        max(chosen, key=lambda line: line["speed"])["standing"] = "recommended"
    return lines


def _why(line: pd.Series, mine: pd.DataFrame) -> str:
    if line["anchor"]:
        return (
            f"no other of {len(mine)} settings was seen to be faster without reading worse. CER {line['cer']:.2%} over "
            f"{line['pages']} pages, {line['pages_per_second']:.2f} pages/s."
        )
    return (
        f"{line['reason']}; {line['speed']:.2f} times as many pages per second as the usual setting (95 % interval "
        f"{line['speed_low']:.2f} to {line['speed_high']:.2f}), over {line['pages']} pages. The fastest of "
        f"{mine['standing'].isin(['recommended', 'on the front', 'dominated']).sum()} settings that read no worse."
    )


def _unless(mine: pd.DataFrame) -> str:
    open_ = mine[(mine["standing"] == "not settled") & (mine["speed_low"] > 1)]
    if len(open_):
        names = "; ".join(str(s.changed()) for s in open_["settings"].head(3))
        return f"More pages could change it: faster and not settled are {names}."
    return "Other pages, another machine or other versions could change it: run the notebooks again there."
