"""Rows → one line a group: error with its interval, median cost with its spread, how many failed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ocrlab.scoring.metrics import METRICS, Edits, shown_metrics
from ocrlab.scoring.outcomes import WITH_TEXT
from ocrlab.scoring.statistics import Interval, Verdict, bootstrap_interval, median_spread, verdict

if TYPE_CHECKING:
    import pandas as pd

COSTS = (
    "page_s",
    "ttft_s",
    "tpot_s",
    "vision_s",
    "prefill_s",
    "decode_s",
    "image_tokens",
    "tokens",
)


def edits_of(rows: pd.DataFrame, metric: str = "cer") -> list[Edits]:
    """Return one Edits a page, in the order of the pages' first scored rows, from `<metric>_edits` and `_length`.

    Readings of one page (repetitions, seeds) are added up: they share what makes the page hard, so they are not so many
    documents, and an interval that took them for such would be too narrow.
    """
    pages = _by_page(rows, metric)
    return [Edits(int(e), int(n)) for e, n in zip(pages["edits"], pages["length"], strict=True)]


def interval_of(rows: pd.DataFrame, metric: str = "cer") -> Interval | None:
    """Return the rate of edits over the scored rows with its 95 % interval over pages; None for fewer than two pages.

    None too where the truth of all pages is empty.
    """
    edits = edits_of(rows, metric)
    return bootstrap_interval(edits) if len(edits) > 1 and any(e.length for e in edits) else None


def values_of(rows: pd.DataFrame, metric: str) -> dict[str, float]:
    """Return a metric over the scored rows by column: `<metric>`, `_low` and `_high`; nothing without one."""
    found = interval_of(rows, metric)
    if found is None:
        return {}
    ends = METRICS[metric].interval(found.low, found.high, found.point)
    return dict(zip((metric, f"{metric}_low", f"{metric}_high"), ends, strict=True))


def summarise(rows: pd.DataFrame, by: str | Sequence[str], metrics: Sequence[str] = ()) -> pd.DataFrame:
    """Return one line per group: pages, each metric with its interval, ok (share), each cost's median and quartiles.

    Metrics are those that METRICS shows, and `metrics`; `<name>_low` and `<name>_high` are the ends of the interval.

    `peak_memory_bytes` is the highest over the pages: what must fit. Costs are over rows that were read to their end; a
    group that could not run keeps its line, with the reason. What nothing was measured of is an empty column.
    """
    import pandas as pd

    lines: list[dict[str, Any]] = []
    keys = [by] if isinstance(by, str) else list(by)
    for names, group in rows.groupby(keys, sort=False, dropna=False):
        line: dict[str, Any] = dict(zip(keys, names, strict=True)) | {"pages": group["page"].nunique()}
        for metric in dict.fromkeys([*shown_metrics(), *metrics]):
            line |= dict.fromkeys((metric, f"{metric}_low", f"{metric}_high"), math.nan) | values_of(group, metric)
        line["ok"] = float((group["status"] == "ok").mean())
        done = group[group["status"].isin(WITH_TEXT)]
        line |= {f"{cost}{end}": math.nan for cost in COSTS for end in ("", "_low", "_high")}
        line["peak_memory_bytes"] = math.nan
        for cost in COSTS:
            if cost in done and done[cost].notna().any():
                spread = median_spread(done[cost].dropna().tolist())
                line |= {cost: spread.median, f"{cost}_low": spread.low_quartile, f"{cost}_high": spread.high_quartile}
        if "peak_memory_bytes" in done and done["peak_memory_bytes"].notna().any():
            line["peak_memory_bytes"] = int(done["peak_memory_bytes"].max())
        bad = group[group["status"] != "ok"]
        line["reason"] = "" if bad.empty else f"{bad['status'].iloc[0]}: {bad['reason'].iloc[0]}"
        lines.append(line)
    return pd.DataFrame(lines)


def why_no_score(rows: pd.DataFrame) -> str:
    """Return why these rows have no CER with an interval, and what would give one, in a sentence; else ""."""
    if rows.empty:
        return "No page was read yet: `make reproduce` reads some."
    if interval_of(rows) is not None:
        return ""
    read = rows[rows["status"].isin(WITH_TEXT)]
    if read.empty:
        counts = Counter(zip(rows["status"], rows["reason"], strict=True)).most_common()
        told = "; ".join(f"{count} {status} ({reason})" for (status, reason), count in counts)
        return f"None of {len(rows)} readings gave a text: {told}."
    free = read[(read["weights"] == "pretrained") & read["min_new_tokens"].isna()]
    if free.empty:
        return "These readings have random weights or a forced length, which tell of speed and memory, not of quality."
    scored = free.dropna(subset=["cer_edits"])["page"].nunique() if "cer_edits" in free else 0
    return (
        f"A CER takes at least two pages with a truth; of the {free['page'].nunique()} that were read, {scored} had "
        "one. Write what is printed on `NAME.png` into `NAME.gt.txt` beside it, then start a new run."
    )


def without_score(rows: pd.DataFrame, by: str) -> list[str]:
    """Return, where rows have no CER, why, and what can be compared all the same, a sentence per group; else []."""
    why = why_no_score(rows)
    if not why or rows.empty or not rows["status"].isin(WITH_TEXT).any():
        return [why] if why else []
    told = [why]
    for line in summarise(rows, by).to_dict("records"):
        statuses = rows.loc[rows[by] == line[by], "status"].value_counts()
        ends = ", ".join(f"{count} {status}" for status, count in statuses.items())
        costs = (
            f"{line['image_tokens']:.0f} image tokens, {line['tokens']:.0f} new tokens, {1000 * line['page_s']:.0f} ms "
            "per page (medians); "
        )
        told.append(f"{line[by]}: {costs.replace('nan', 'unknown')}readings: {ends}.")
    return told


def compare(
    rows: pd.DataFrame, column: str, value: Any, against: Any, margin: float = 0.005, metric: str = "cer",
    confidence: float = 0.95,
) -> Verdict:  # fmt: skip
    """Return the verdict on the rows where `column` is `value` against those where it is `against`, page by page.

    A page that was read several times on a side counts once there, with the mean of its readings. Where the two have
    fewer than two scored pages in common, the verdict is `not compared` and its numbers are NaN.
    """
    one, other = (_by_page(rows[rows[column] == v], metric) for v in (value, against))
    common = one.index.intersection(other.index, sort=False)
    if len(common) < 2 or not one.loc[common, "length"].any():
        words = f"not compared: {len(common)} pages have a {METRICS.get(metric, metric)} on both sides, two are needed"
        return Verdict("not compared", words, Interval(math.nan, math.nan, math.nan, confidence, len(common)), margin)
    one, other = one.loc[common], other.loc[common]
    # Brought to as many readings a page as all can have, edits stay whole numbers and pages keep their weights.
    times = math.lcm(*one["readings"].tolist(), *other["readings"].tolist())
    sides = [
        [Edits(int(e * times // k), int(n * times // k)) for e, n, k in side.itertuples(index=False)]
        for side in (one[["edits", "length", "readings"]], other[["edits", "length", "readings"]])
    ]
    return verdict(sides[0], sides[1], margin, confidence, metric=METRICS[metric].rate_label or METRICS[metric].label)


def _by_page(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return edits and length added up over each page's scored readings, and how many readings they are."""
    columns = [f"{metric}_edits", f"{metric}_length"]
    pages = rows.reindex(columns=["page", *columns]).dropna().groupby("page", sort=False)
    table = pages[columns].sum().set_axis(["edits", "length"], axis=1)
    return table.assign(readings=pages.size())
