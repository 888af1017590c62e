"""What to use here, from rows alone: each measured setting against one that all experiments share, page by page."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from textwrap import fill
from typing import Any, Literal, NamedTuple, get_args

import pandas as pd
import yaml

from ocrlab.machine.quarantine import reason_against
from ocrlab.pages.truth import REFERENCE, SOURCES
from ocrlab.reading.settings import GENERATION, Settings, is_endpoint, load_prompts
from ocrlab.scoring.metrics import METRICS
from ocrlab.scoring.outcomes import WITH_TEXT
from ocrlab.scoring.statistics import Interval, Verdict, ratio_of_sums
from ocrlab.study.compare import by_source, compare, endings, reasons_of, values_of, why_no_score
from ocrlab.study.records import settings_of

Standing = Literal[
    "recommended", "on the front", "dominated", "not settled", "worse", "not valid", "not scored", "could not run"
]
#: What a setting can be, the best first.
STANDINGS: tuple[Standing, ...] = get_args(Standing)
MIN_PAGES = 8
_NUMBERS = ("difference", "low", "high", "speed", "speed_low", "speed_high", "cer", "pages_per_second")
_COLUMNS = (
    *(*_NUMBERS, "settings", "anchor", "pages", "reason", "memory_bytes", "standing", "machine", "model_id"),
    *("own_cer", "own_cer_low", "own_cer_high", "words_found", "facts_held", "page_s", "endings", "sets", "needed"),
    "truth",
)
_NAMES = [name for name in Settings().as_dict() if name != "seed"]


class _Anchor(NamedTuple):
    """What the others are compared with: its rows, its seconds by page, and why it has no CER, if it has none."""

    rows: pd.DataFrame
    seconds: pd.Series
    unscored: str


@dataclass(frozen=True)
class Recommendation:
    """A machine's and model's recommended settings, what they cost, why, and what would change it, in words."""

    machine: str
    settings: Settings
    answer: str
    why: str
    unless: str


def judge_runs(rows: pd.DataFrame, margin: float = 0.005) -> pd.DataFrame:
    """Return one line per machine × model × setting of scored rows: its standing, with the numbers and the reason.

    Where truths are of several sources, each is judged alone, that of the most pages first (`truth`). All are compared
    with the anchor: of the settings with the most pages, the one that is seen to read best.
    `difference` is CER minus the anchor's over the pages they share, with `low` and `high`; `speed` is how many times
    as many pages per second, by whole times, so that a page that loops costs its seconds; `cer` and `pages_per_second`
    are the anchor's moved by these, so that settings which were read on other pages can be shown in one figure.
    `own_cer` with its ends, `words_found`, `page_s` (seconds per page, the mean) and `endings` are over a setting's own
    pages. Loops, cut-off and lost pages count as what they cost; set aside is what the canary holds, what gave NaN, and
    what read no page. Fewer than 8 shared pages settle nothing. Where no setting has a CER, nothing is recommended and
    the reason says what would give one; no rows give no lines.
    """
    lines = []
    quality = quality_rows(rows)
    for (machine, model), every in quality.groupby(["machine", "model_id"], sort=False) if len(quality) else ():
        for source, mine in by_source(every).items():
            of = {"machine": machine, "model_id": model, "truth": source}
            groups = [(group, _set_aside(group)) for _, group in groups_by_setting(mine)]
            best = _anchor([g for g, aside in groups if not aside] or [g for g, _ in groups], margin, source)
            anchor = _Anchor(best, _seconds(best), why_no_score(best))
            lines += _ranked([_line(group, aside, anchor, margin) | of for group, aside in groups])
    return pd.DataFrame(lines, columns=_COLUMNS)


def recommend(judged: pd.DataFrame, margin: float = 0.005) -> list[Recommendation]:
    """Return one recommendation per machine, model and source of truth that has a setting to recommend.

    Of several sources the first decides, and the answers say so.
    """
    return [
        Recommendation(
            str(line["machine"]),
            line["settings"],
            _decides(line, every) + _answer(line),
            _why(line, mine),
            _unless(line, mine, margin),
        )
        for _, every in judged.groupby(["machine", "model_id"], sort=False)
        for _, mine in every.groupby("truth", sort=False)
        for _, line in mine[mine["standing"] == "recommended"].iterrows()
    ]


def _decides(line: pd.Series, every: pd.DataFrame) -> str:
    first = "This decides, by the most pages" if line["truth"] == every["truth"].iloc[0] else "This does not decide"
    return f"{first}: the truth is {line['truth']}. " if every["truth"].nunique() > 1 else ""


def write_preset(settings: Settings, reason: str, file: Path) -> Path:
    """Write a preset that `load_preset` loads, with the reason as comment lines; return its path.

    Generation settings are all written, so that a later default cannot change what was found.
    """
    comment = fill(reason, 100, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)
    kept = {**settings.changed(), **settings.generate_kwargs()}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{comment}\n{yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)}", encoding="utf-8")
    return file


def quality_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that ask about reading: no fixed length, own weights, and every setting's column.

    Beside readings in this process a server's are left out: dtype and attention behind them only the server knows.
    """
    missing = {name: value for name, value in Settings().as_dict().items() if name not in rows}
    rows = rows.assign(**missing)
    rows = rows[rows["min_new_tokens"].isna() & (rows["weights"] == "pretrained")]
    remote = rows["model_id"].map(is_endpoint).astype(bool)
    read = rows["status"].isin(WITH_TEXT) if len(rows) else remote
    return rows[~remote] if (read & ~remote).any() else rows


def groups_by_setting(rows: pd.DataFrame) -> Iterator[tuple[Settings, pd.DataFrame]]:
    """Yield each setting of the rows of `quality_rows` with its rows, all seeds together."""
    for _, group in rows.groupby(_NAMES, dropna=False, sort=False):
        yield settings_of(group.iloc[0]), group


def _anchor(groups: list[pd.DataFrame], margin: float, source: str) -> pd.DataFrame:
    """Return what the others are compared with: the setting with the most pages, or one that is seen to read better.

    Of many settings the lowest CER is low by luck as well: the 5 % are shared out over all (Bonferroni). Without a
    truth it is the reference, which agrees with itself.
    """
    usual = max(groups, key=_pages)
    if source == SOURCES[REFERENCE]:
        return min(groups, key=lambda group: group["cer_edits"].sum() if group["cer_edits"].notna().any() else math.inf)
    share = 1 - 0.05 / max(1, len(groups) - 1)
    seen = [g for g in groups if g is not usual and _versus(g, usual, margin, confidence=share).kind == "better"]
    enough = [group for group in seen if group["page"].nunique() >= MIN_PAGES]
    return min(enough, key=lambda group: group["cer_edits"].sum() / group["cer_length"].sum(), default=usual)


def _pages(group: pd.DataFrame) -> tuple[int, int, int]:
    """What makes a setting the usual one: many pages with a score, then many pages, then few changes."""
    scored = group.reindex(columns=["page", "cer_edits"]).dropna()["page"].nunique()
    return scored, group["page"].nunique(), -len(settings_of(group.iloc[0]).changed())


def _versus(one: pd.DataFrame, other: pd.DataFrame, margin: float, **more: Any) -> Verdict:
    """Return the verdict on one setting's rows against another's; the same page of several experiments counts once."""
    metric = more.get("metric", "cer")
    sides = [g.reindex(columns=g.columns.union([f"{metric}_edits"])) for g in (one, other)]
    sides = [side.dropna(subset=[f"{metric}_edits"]).drop_duplicates("page") for side in sides]
    both = pd.concat([sides[0].assign(who="this"), sides[1].assign(who="anchor")])
    return compare(both, "who", "this", "anchor", margin, **more)


def _line(group: pd.DataFrame, aside: str, anchor: _Anchor, margin: float) -> dict[str, Any]:
    read = group[group["status"].isin(WITH_TEXT)]
    seconds, cer = _seconds(group), values_of(group, "cer")
    line: dict[str, Any] = {
        "settings": settings_of(group.iloc[0]),
        "anchor": group is anchor.rows,
        "pages": group["page"].nunique(),
        "memory_bytes": read["peak_memory_bytes"].max() if len(read) else None,
        "endings": endings(group),
        "sets": ", ".join(sorted(set(group["set"].dropna()))) if "set" in group else "",
        "seconds": seconds,
        "page_s": seconds.mean(),
        **{f"own_{name}": cer.get(name) for name in ("cer", "cer_low", "cer_high")},
        **{name: values_of(group, name).get(name) for name in ("words_found", "facts_held")},
    }
    if read.empty:
        return line | {"standing": "could not run", "reason": _reasons(group)}
    if aside:
        return line | {"standing": "not valid", "reason": aside}
    if anchor.unscored:
        return line | {"standing": "not scored", "reason": anchor.unscored}
    return line | _compared(group, seconds, anchor, margin)


def _compared(group: pd.DataFrame, seconds: pd.Series, anchor: _Anchor, margin: float) -> dict[str, Any]:
    """A setting's numbers against the anchor's: CER and seconds of the pages that both read."""
    cer = anchor.rows["cer_edits"].sum() / anchor.rows["cer_length"].sum()
    pages_per_second = 1 / anchor.seconds.mean()
    if group is anchor.rows:
        same = dict(zip(_NUMBERS, (0.0, 0.0, 0.0, 1.0, 1.0, 1.0, cer, pages_per_second), strict=True))
        return same | {"standing": "on the front", "reason": "what the others are compared with"}
    speed = _speed(seconds, anchor.seconds)
    if speed is None:
        return {"standing": "not settled", "reason": f"fewer than {MIN_PAGES} pages in common with the anchor"}
    verdict = _versus(group, anchor.rows, margin)
    if verdict.kind == "not compared":
        return {"standing": "not settled", "reason": verdict.words}
    difference = verdict.difference
    standing = "on the front" if verdict.kind in {"better", "not worse"} else verdict.kind
    found = (difference.point, difference.low, difference.high, speed.point, speed.low, speed.high)
    moved = (cer + difference.point, pages_per_second * speed.point)
    words = _versus(group, anchor.rows, margin, metric="words_found").kind
    return dict(zip(_NUMBERS, found + moved, strict=True)) | {
        "standing": standing,
        "reason": verdict.words + _order(verdict.kind, words),
        "needed": verdict.documents_needed,
    }


def _seconds(group: pd.DataFrame) -> pd.Series:
    return group.groupby("page")["page_s"].median().dropna()


def _order(letters: str, words: str) -> str:
    """Say where letters and words part: words are counted wherever they are on the page."""
    if letters == "worse" and words in {"better", "not worse"}:
        return "; the words are found no worse: another reading order"
    if letters in {"better", "not worse"} and words == "worse":
        return "; fewer words are found"
    return ""


def _set_aside(group: pd.DataFrame) -> str:
    """What makes a setting unfit whatever it reads: the canary, NaN, or no page read at all."""
    if held := reason_against(tuple(group.iloc[0][["dtype", "attn_implementation", "sdpa_kernel"]])):
        return held
    broken = group[group["status"] == "invalid"]
    if len(broken):
        return f"{len(broken)} of {len(group)} readings: invalid ({broken['reason'].iloc[0]})"
    return "" if group["status"].isin(WITH_TEXT).any() else _reasons(group)


def _reasons(group: pd.DataFrame) -> str:
    return "; ".join([*reasons_of(group)][:2])


def _ranked(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Say which of those that read well enough are beaten in CER and speed at once, and which one to use.

    That is the fastest: from the setting with the most pages and the fewest changes on, each that is seen to be faster
    on the pages that both read takes the place of the one before, where it was read on half of that one's pages.
    """
    left = [line for line in lines if line["standing"] == "on the front"]
    for line in left:
        for other in left:
            no_worse = other["cer"] <= line["cer"] and other["speed"] >= line["speed"]
            if no_worse and (other["cer"], other["speed"]) != (line["cer"], line["speed"]):
                line["standing"] = "dominated"
    usual = sorted(left, key=lambda line: (-line["pages"], len(line["settings"].changed())))
    if usual:
        reduce(_faster, usual)["standing"] = "recommended"
    return lines


def _faster(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    if _on_few(other, one):
        return one
    speed = _speed(other["seconds"], one["seconds"])
    return other if speed and speed.low > 1 else one


def _on_few(line: Any, other: Any) -> bool:
    """Say whether a setting was read on less than half of another's pages, which is too little to take its place."""
    return bool(2 * line["pages"] < other["pages"])


def _speed(mine: pd.Series, other: pd.Series) -> Interval | None:
    """Return how many times as many pages per second `mine` reads, by the whole time of the pages that both read."""
    common = mine.index.intersection(other.index)
    return ratio_of_sums(other[common].tolist(), mine[common].tolist()) if len(common) >= MIN_PAGES else None


def _answer(line: pd.Series) -> str:
    memory = "" if line["memory_bytes"] != line["memory_bytes"] else f", {line['memory_bytes'] / 2**30:.2f} GiB"
    cer, pages = METRICS["cer"].interval_words(line.to_dict(), "own_cer"), f"{line['pages']} pages"
    cer = (
        f"It changes {cer} of the letters that the reference reads (agreement: no page has a truth)"
        if line["truth"] == SOURCES[REFERENCE]
        else f"CER {cer}"
    )
    return (
        f"{cer}, {line['page_s']:.3g} s per page{memory}; {pages}{' of ' if line['sets'] else ''}{line['sets']}. "
        f"Ended badly: {line['endings'] or 'none'}."
    )


def _why(line: pd.Series, mine: pd.DataFrame) -> str:
    if line["anchor"]:
        return f"No other of {len(mine)} settings was seen to be faster without reading worse."
    best = mine[mine["anchor"]]["settings"].iloc[0]
    return (
        f"{line['reason'][0].upper()}{line['reason'][1:]}; {line['speed']:.2f} times as many pages per second (95 % "
        f"interval {line['speed_low']:.2f} to {line['speed_high']:.2f}); compared with "
        f"{differences(best, line['settings'])}. The fastest of "
        f"{mine['standing'].isin(['recommended', 'on the front', 'dominated']).sum()} settings that read no worse."
    )


def _unless(line: pd.Series, mine: pd.DataFrame, margin: float) -> str:
    front = mine[(mine["standing"] == "on the front") & (mine["speed_low"] > line["speed"])]
    if few := [differences(one["settings"], line["settings"]) for _, one in front.iterrows() if _on_few(one, line)]:
        return f"More pages could change it. Faster, and read on less than half of the pages: {'; '.join(few[:2])}."
    close = mine[(mine["standing"] == "not settled") & (mine["speed_low"] > 1) & (mine["difference"] < margin)]
    if len(close):
        first = close.sort_values("needed").head(2)
        names = "; ".join(
            f"{differences(settings, line['settings'])} (about {needed:.0f} documents)"
            for settings, needed in zip(first["settings"], first["needed"], strict=True)
        )
        return f"More pages could change it. Faster than the usual setting and not settled: {names}."
    return "Other pages, another machine or other versions could change it: run the notebooks again there."


def differences(settings: Settings, other: Settings) -> str:
    """Return what one setting has that another has not, such as `batch_size=8, prompt=plain`; model and seed apart."""
    mine, known = settings.as_dict(), other.as_dict()
    changed = [name for name in _NAMES if mine[name] != known[name] and name != "model_id"]
    left = [name for name in changed if name in GENERATION and mine[name] is None]
    prompts = {known.prompt: name for name, known in load_prompts().items() if not known.system_prompt}
    words = [
        f"{name}={prompts.get(str(mine[name]), mine[name])!s:.40}"
        for name in changed
        if len(left) < 3 or name not in left
    ]
    return ", ".join(words + ["generation by the checkpoint"] * (len(left) >= 3)) or "no difference"
