"""What to use here, from rows alone: each measured setting against one that all experiments share, page by page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any, Literal

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ocrlab.machine.quarantine import reason_against
from ocrlab.reading.settings import Settings, is_endpoint
from ocrlab.scoring.outcomes import WITH_TEXT
from ocrlab.scoring.statistics import bootstrap_median
from ocrlab.study.compare import compare, interval_of, why_no_score
from ocrlab.study.plots import COLOURS, GREY, blank_figure, nothing
from ocrlab.study.records import load_rows, settings_of

if TYPE_CHECKING:
    import pandas as pd


Stand = Literal[
    "recommended", "on the front", "dominated", "worse", "not settled", "not scored", "not valid", "could not run"
]
MIN_PAGES = 8
_NUMBERS = ("difference", "low", "high", "speed", "speed_low", "speed_high", "cer", "pages_per_second")
_NAMES = [name for name in Settings().as_dict() if name != "seed"]


@dataclass(frozen=True)
class Recommendation:
    """A machine's and model's recommended settings, why in words, and what would change it."""

    machine: str
    settings: Settings
    why: str
    unless: str


def judge_runs(rows: pd.DataFrame, margin: float = 0.005) -> pd.DataFrame:
    """Return one line a machine × model × setting of scored rows: where it stands, with the numbers and the reason.

    All are held against the anchor, the setting with the most pages: `difference` is CER minus the anchor's over the
    pages they share, with `low` and `high`; `speed` is how many times as many pages a second, the median over pages
    with its interval; `cer` and `pages_per_second` are the anchor's moved by these, so that settings which were read on
    other pages can stand in one figure. Fewer than 8 shared pages settle nothing. Where the anchor has no CER, nothing
    is recommended and the reason says what would give one; no rows give no lines.
    """
    import pandas as pd

    lines = []
    quality = quality_rows(rows)
    for (machine, model), mine in quality.groupby(["machine", "model_id"], sort=False) if len(quality) else ():
        usual = mine.groupby("prompt")["page"].nunique().idxmax()  # another question is not another way to answer it
        groups = {key: g for key, g in mine[mine["prompt"] == usual].groupby(_NAMES, dropna=False, sort=False)}
        anchor = max(groups.values(), key=_anchors)
        made = [_line(group, anchor, margin) | {"machine": machine, "model_id": model} for group in groups.values()]
        lines += _stands(made)
    return pd.DataFrame(lines, columns=[*_NUMBERS, "settings", "anchor", "pages", "reason", "memory_bytes", "stand",
                                        "machine", "model_id"])  # fmt: skip


def recommend(judged: pd.DataFrame) -> list[Recommendation]:
    """Return one recommendation a machine and model that has a setting to recommend."""
    found = []
    for (machine, _), mine in judged.groupby(["machine", "model_id"], sort=False):
        chosen = mine[mine["stand"] == "recommended"]
        if len(chosen):
            line = chosen.iloc[0]
            found.append(Recommendation(str(machine), line["settings"], _why(line, mine), _unless(mine)))
    return found


def write_recommended(recommended: Iterable[Recommendation], folder: Path, heading: str) -> list[Path]:
    """Write presets with their reasons: `recommended.yaml` for the first, `recommended-2.yaml` and so on for others.

    `heading` tells whose rows they are from.
    """
    files = []
    for number, one in enumerate(recommended, 1):
        file = folder / ("recommended.yaml" if number == 1 else f"recommended-{number}.yaml")
        comment = fill(
            f"{heading}. {one.machine}: {one.why} {one.unless}", 84, initial_indent="# ", subsequent_indent="# "
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{comment}\n{one.settings.to_yaml()}", encoding="utf-8")
        files.append(file)
    return files


def rows_of_runs(folders: Iterable[Path]) -> pd.DataFrame:
    """Return the rows of several runs' folders in one table, each with its run's name."""
    import pandas as pd

    tables = [load_rows(folder).assign(run=folder.name) for folder in folders]
    filled = [table for table in tables if len(table)]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame()


def quality_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that ask about reading: no forced length, own weights, and every setting's column.

    Beside readings in this process a server's are left out: dtype and attention behind them only the server knows.
    """
    for name in _NAMES:
        if name not in rows:
            rows = rows.assign(**{name: getattr(Settings(), name)})
    forced = rows["min_new_tokens"].notna()
    rows = rows[~forced & (rows["weights"] == "pretrained")]
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
    line: dict[str, Any] = dict.fromkeys(_NUMBERS) | {
        "settings": settings,
        "anchor": group is anchor,
        "pages": read["page"].nunique(),
        "reason": "",
        "memory_bytes": read["peak_memory_bytes"].max() if len(read) else None,
    }
    if read.empty:
        return line | {"stand": "could not run", "reason": group["reason"].iloc[0]}
    if found := _against(group, settings):
        return line | {"stand": "not valid", "reason": found}
    if interval_of(anchor) is None:
        return line | {"stand": "not scored", "reason": why_no_score(anchor)}
    edits, length = anchor["cer_edits"].sum(), anchor["cer_length"].sum()
    base = {"cer": edits / length, "pages_per_second": 1 / anchor["page_s"].median()}
    if group is anchor:
        same = {"difference": 0.0, "low": 0.0, "high": 0.0, "speed": 1.0, "speed_low": 1.0, "speed_high": 1.0}
        return line | same | base | {"stand": "on the front", "reason": "what the others are held against"}
    both = _seconds(read, anchor)
    if len(both) < MIN_PAGES:
        return line | {
            "stand": "not settled",
            "reason": f"{len(both)} pages in common with the anchor, {MIN_PAGES} needed",
        }
    marked = _marked(group, anchor)
    verdict = compare(marked, "who", "this", "anchor", margin)
    if verdict.kind == "not compared":
        return line | {"stand": "not settled", "reason": verdict.words}
    speed = bootstrap_median((both["page_s_anchor"] / both["page_s"]).tolist())
    line |= {"difference": verdict.difference.point, "low": verdict.difference.low, "high": verdict.difference.high,
             "speed": speed.point, "speed_low": speed.low, "speed_high": speed.high, "reason": verdict.words,
             "cer": base["cer"] + verdict.difference.point,
             "pages_per_second": base["pages_per_second"] * speed.point}  # fmt: skip
    stands = {"better": "on the front", "not worse": "on the front", "worse": "worse", "not settled": "not settled"}
    return line | {"stand": stands[verdict.kind]}


def _seconds(read: pd.DataFrame, anchor: pd.DataFrame) -> pd.DataFrame:
    """The median seconds of each page that both read, as page_s and page_s_anchor."""
    mine, other = (t.dropna(subset=["page_s"]).groupby("page")["page_s"].median() for t in (read, anchor))
    return mine.to_frame().join(other.rename("page_s_anchor"), how="inner")


def _marked(group: pd.DataFrame, anchor: pd.DataFrame) -> pd.DataFrame:
    """Both, one row a page: the same page may have been read in several experiments."""
    import pandas as pd

    parts = []
    for who, table in (("this", group), ("anchor", anchor)):
        parts.append(table.dropna(subset=["cer_edits"]).drop_duplicates("page").assign(who=who, repeat=0))
    return pd.concat(parts)


def _against(group: pd.DataFrame, settings: Settings) -> str:
    """What makes a setting unfit whatever its speed: broken numbers, loops, failed pages, the canary."""
    held = reason_against((settings.dtype, settings.attn_implementation, settings.sdpa_kernel))
    if held:
        return held
    for status in ("invalid", "loop", "crashed", "oom", "timeout", "error", "unsupported", "truncated"):
        bad = group[group["status"] == status]
        if len(bad):
            return f"{len(bad)} of {len(group)} readings: {status} ({bad['reason'].iloc[0]})"
    return ""


def _stands(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Say which of those that read well enough are beaten in CER and speed at once, and which one to use."""
    left = [line for line in lines if line["stand"] == "on the front"]
    for line in left:
        over = [o for o in left if o is not line and o["cer"] <= line["cer"] and o["speed"] >= line["speed"]
                and (o["cer"], o["speed"]) != (line["cer"], line["speed"])]  # fmt: skip
        if over:
            line["stand"] = "dominated"
    front = [line for line in left if line["stand"] == "on the front"]
    anchors = [line for line in left if line["anchor"]]
    faster = [line for line in front if line["speed_low"] > 1] or anchors
    if faster:
        max(faster, key=lambda line: line["speed"])["stand"] = "recommended"
    return lines


def _why(line: pd.Series, mine: pd.DataFrame) -> str:
    if line["anchor"]:
        return (
            f"no other of {len(mine)} settings was seen to be faster without reading worse. CER {line['cer']:.2%} over "
            f"{line['pages']} pages, {line['pages_per_second']:.2f} pages/s."
        )
    return (
        f"{line['reason']}; {line['speed']:.2f} times as many pages a second as the usual setting (95 % interval "
        f"{line['speed_low']:.2f} to {line['speed_high']:.2f}), over {line['pages']} pages. The fastest of "
        f"{(mine['stand'].isin(['recommended', 'on the front', 'dominated'])).sum()} settings that read no worse."
    )


def _unless(mine: pd.DataFrame) -> str:
    open_ = mine[(mine["stand"] == "not settled") & (mine["speed_low"] > 1)]
    if len(open_):
        names = "; ".join(str(s.changed()) for s in open_["settings"].head(3))
        return f"More pages could change it: faster and not settled are {names}."
    return "Other pages, another machine or other versions could change it: run the notebooks again there."


# The choice in one figure and one table: error against pages a second, memory as size, grey for what could not run.


STYLES = {
    "recommended": (COLOURS[2], 1.0), "on the front": (COLOURS[0], 0.9), "dominated": (COLOURS[0], 0.35),
    "not settled": (COLOURS[4], 0.8), "worse": (COLOURS[1], 0.7), "not valid": (COLOURS[3], 0.8),
}  # fmt: skip
_SETTLED = ("recommended", "on the front", "dominated", "not settled", "worse")


def pareto(judged: pd.DataFrame) -> Figure:
    """Return CER against pages a second with 95 % intervals of the difference; the area of a point grows with memory.

    The line joins what no other setting beats in both. What could not run or is not valid is listed in grey.
    """
    placed = judged[judged["stand"].isin(_SETTLED)].dropna(subset=["cer"])
    if placed.empty:
        return nothing(next(iter(judged["reason"]), "no rows"))
    figure, axes = blank_figure(7.5, 4.4)
    placed = placed.assign(memory_bytes=placed["memory_bytes"].astype(float).fillna(0))  # a server's is not known
    largest = placed["memory_bytes"].max() or 1.0
    for stand, mine in placed.groupby("stand", sort=False):
        colour, alpha = STYLES[str(stand)]
        base = mine["cer"] - mine["difference"]
        spread = [(mine["difference"] - mine["low"]).clip(lower=0), (mine["high"] - mine["difference"]).clip(lower=0)]
        axes.errorbar(mine["pages_per_second"], base + mine["difference"], yerr=spread, fmt="none", ecolor=colour,
                      alpha=0.6 * alpha, capsize=3)  # fmt: skip
        axes.scatter(mine["pages_per_second"], mine["cer"], s=20 + 120 * mine["memory_bytes"] / largest,
                     color=colour, alpha=alpha, label=f"{stand} ({len(mine)})", zorder=3)  # fmt: skip
    front = placed[placed["stand"].isin(["recommended", "on the front"])].sort_values("pages_per_second")
    axes.plot(front["pages_per_second"], front["cer"], color=COLOURS[0], lw=1, alpha=0.5)
    out = judged[~judged["stand"].isin(_SETTLED)]
    if len(out):
        words = "\n".join(f"{len(g)} {stand}" for stand, g in out.groupby("stand", sort=False))
        axes.text(0.99, 0.98, words, transform=axes.transAxes, ha="right", va="top", fontsize=8, color=GREY)
    axes.set(xlabel="pages per second", ylabel="CER (layout)", xlim=(0, None))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.legend(fontsize=8, loc="upper left")
    return figure


def recommendation_table(judged: pd.DataFrame) -> pd.DataFrame:
    """Return one line a setting: what it changes, where it stands, speed and CER against the anchor, memory, reason."""
    import pandas as pd

    order = {stand: place for place, stand in enumerate((*STYLES, "not scored", "could not run"))}
    ranked = judged.assign(place=judged["stand"].map(order)).sort_values(["place", "speed"], ascending=[True, False])
    return pd.DataFrame({
        "setting": [told(s.changed()) for s in ranked["settings"]],
        "stand": ranked["stand"], "pages": ranked["pages"],
        "CER": [f"{c:.2%}" if c == c and c is not None else "" for c in ranked["cer"]],
        "speed": [f"{s:.2f}×" if s == s and s is not None else "" for s in ranked["speed"]],
        "memory MiB": [f"{m / 2**20:.0f}" if m == m and m is not None else "" for m in ranked["memory_bytes"]],
        "reason": ranked["reason"],
    }).set_index("setting")  # fmt: skip


def told(changed: dict[str, Any]) -> str:
    """Return what a setting changes, without the model and the cap that all share."""
    shown = {k: v for k, v in changed.items() if k not in {"model_id", "max_new_tokens", "prompt"}}
    if "prompt" in changed:
        shown["prompt"] = changed["prompt"][:24] + "…"
    return ", ".join(f"{name}={value}" for name, value in shown.items()) or "defaults"
