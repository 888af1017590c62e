"""Rows → one line per group: error with its interval, median cost with its spread, how many failed."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ocrlab.pages.truth import REFERENCE, SOURCES
from ocrlab.scoring.metrics import METRICS, Edits, first_divergence, graphemes, normalise, shown_metrics
from ocrlab.scoring.outcomes import WITH_TEXT
from ocrlab.scoring.statistics import Interval, Verdict, bootstrap_interval, bootstrap_median, share_interval, verdict
from ocrlab.study.records import FLAGS

_TIMES = ("page_s", "ttft_s", "tpot_s", "vision_s", "prefill_s", "decode_s")
_COSTS = [*_TIMES, "image_tokens", "tokens"]


def interval_of(rows: pd.DataFrame, metric: str = "cer") -> Interval | None:
    """Return the rate of edits over the scored rows with its 95 % interval over pages; None for fewer than two pages.

    None too where the truth of all pages is empty. Readings of one page (repetitions, seeds) are added up: they share
    what makes the page hard, so an interval that took each for a document would be too narrow.
    """
    pages = _by_page(rows, metric)
    edits = [Edits(int(e), int(n)) for e, n in zip(pages["edits"], pages["length"], strict=True)]
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

    `flagged` says in words how many texts look wrong without a status that says so (`flag_words`).
    `peak_memory_bytes` is the highest over the pages: what must fit. Costs are over rows that were read to their end; a
    group that could not run keeps its line, with the reason. What nothing was measured of is an empty column.
    """
    lines: list[dict[str, Any]] = []
    keys = [by] if isinstance(by, str) else list(by)
    for names, group in rows.groupby(keys, sort=False, dropna=False):
        line: dict[str, Any] = dict(zip(keys, names, strict=True)) | {"pages": group["page"].nunique()}
        for metric in dict.fromkeys([*shown_metrics(), *metrics]):
            line |= dict.fromkeys((metric, f"{metric}_low", f"{metric}_high"), math.nan) | values_of(group, metric)
        line["ok"] = float((group["status"] == "ok").mean())
        done = group[group["status"].isin(WITH_TEXT)].reindex(columns=[*_COSTS, "peak_memory_bytes"]).astype(float)
        for end, share in (("", 0.5), ("_low", 0.25), ("_high", 0.75)):
            line |= {f"{cost}{end}": done[cost].quantile(share) for cost in _COSTS}
        line["peak_memory_bytes"] = done["peak_memory_bytes"].max()
        bad = group[group["status"] != "ok"]
        line["reason"] = "" if bad.empty else f"{bad['status'].iloc[0]}: {bad['reason'].iloc[0]}"
        line["flagged"] = flag_words({flag: int(group[flag].sum()) for flag in FLAGS if flag in group})
        lines.append(line)
    return pd.DataFrame(lines)


def by_source(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the rows by the source of their truth (words of `SOURCES`), that of the most pages first, agreement last.

    What people wrote, a PDF's text layer and another reading err in different ways, so that no figure mixes them. Rows
    without a score stand with their own source, or the first; where no row has one, its name is "".
    """
    known = rows.reindex(columns=["page", "truth_source", "cer_edits"])
    source = known["truth_source"].astype(object).fillna("file")  # before there were others, none was named
    scored = known["cer_edits"].notna()
    pages = {str(name): count for name, count in known["page"][scored].groupby(source[scored]).nunique().items()}
    first, *others = sorted(pages, key=lambda name: (name == REFERENCE, -pages[name], name)) or [""]
    source = source.where(source.isin([*pages]), first)
    return {SOURCES.get(name, name): rows[source == name] for name in (first, *others)}


def name_sources(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows by source, each with it in the column `truth`, which is empty where there is one source only."""
    sources = by_source(rows)
    return pd.concat([mine.assign(truth=name * (len(sources) > 1)) for name, mine in sources.items()])


def one_source(rows: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Return the rows of the first of their sources of truth, and where there are several a sentence that says so."""
    (first, mine), *others = by_source(rows).items()
    if not others:
        return rows, ""
    left = " and ".join(f"{some['page'].nunique()} with {name}" for name, some in others)
    count = mine["page"].nunique()
    return mine, f"These figures are of the {count} pages whose truth is {first}; not mixed in: {left}."


def endings(rows: pd.DataFrame) -> str:
    """Return how many readings ended badly or are flagged, with the 95 % interval of their share, or "" for none.

    Such as `2 of 60 (1 loop, 1 repeated; 0.9 % to 11 %)`.
    """
    flags = rows.reindex(columns=FLAGS).eq(True)
    bad = (rows["status"] != "ok") | flags.any(axis=1)
    if not bad.any():
        return ""
    ends = share_interval(int(bad.sum()), len(rows))
    share = " to ".join(f"{100 * end:.{3 if end >= 0.995 else 2}g} %" for end in ends)
    counts = rows.loc[rows["status"] != "ok", "status"].value_counts().to_dict() | flags.sum().to_dict()
    return f"{bad.sum()} of {len(rows)} ({flag_words(counts)}; {share})"


def flag_words(counts: Mapping[str, int]) -> str:
    """Return what flags say of texts, such as `2 repeated, 1 text on blank`; nothing where none is raised."""
    return ", ".join(f"{count} {flag.replace('_', ' ')}" for flag, count in counts.items() if count)


def why_nothing(rows: pd.DataFrame) -> str:
    """Return, where no reading gave a text, the reasons counted, each with its remedy, in a sentence; else ""."""
    if rows.empty:
        return "No page was read yet: `make reproduce` reads some."
    if rows["status"].isin(WITH_TEXT).any():
        return ""
    counts = reasons_of(rows)
    more = [f"{sum([*counts.values()][3:])} for other reasons"] * (len(counts) > 3)
    return f"None of {len(rows)} readings gave a text: {'; '.join([*[*counts][:3], *more])}."


def reasons_of(rows: pd.DataFrame) -> dict[str, int]:
    """Return how often each status and reason came, by words such as `2 oom (13 GiB)`, the most frequent first."""
    counts = Counter(zip(rows["status"], rows["reason"], strict=True)).most_common()
    return {f"{count} {status} ({reason})": count for (status, reason), count in counts}


def why_no_score(rows: pd.DataFrame) -> str:
    """Return why these rows have no CER with an interval, and what would give one, in a sentence; else ""."""
    if why := why_nothing(rows):
        return why
    if interval_of(rows) is not None:
        return ""
    read = rows[rows["status"].isin(WITH_TEXT)]
    free = read[(read["weights"] == "pretrained") & read["min_new_tokens"].isna()]
    if free.empty:
        return "These readings have random weights or a fixed length: they measure speed and memory, not quality."
    named, known = {*free["page"]}, {*free.reindex(columns=["page", "cer_edits"]).dropna()["page"]}
    ways = ["Read more pages: `pages=20`."]
    if without := named - known:
        pdfs = any(re.search(r"\.pdf#\d+$", str(page), re.IGNORECASE) for page in without)
        ways = ['`truth="pdf"` (as a flag: `--truth pdf`) judges PDFs by their text layers.'] * pdfs
        write = "Write what is printed on `NAME.png` into `NAME.gt.txt` beside it (ALTO and PAGE-XML: `NAME.xml`)"
        ways += [f"{write}, then run the same command again."]
        ways += ["Without any truth, 04-pixels and 08-recommendation go by agreement."] * (not known)
    count = f"of the {len(named)} that were read, {len(known)} had one"
    return f"A CER takes at least two pages with a truth; {count}. {' '.join(ways)}"


def without_score(rows: pd.DataFrame, by: str) -> list[str]:
    """Return, where rows have no CER, why, and what can be compared all the same, a sentence per group; else []."""
    why = why_no_score(rows)
    if not why or why_nothing(rows):
        return [why] if why else []
    sentences = [why]
    for line in summarise(rows, by).to_dict("records"):
        statuses = rows.loc[rows[by] == line[by], "status"].value_counts()
        ends = ", ".join(f"{count} {status}" for status, count in statuses.items())
        costs = (
            f"{line['image_tokens']:.0f} image tokens, {line['tokens']:.0f} new tokens, {1000 * line['page_s']:.0f} ms "
            "per page (medians); "
        )
        sentences.append(f"{line[by]}: {costs.replace('nan', 'unknown')}readings: {ends}.")
    return sentences


def compare(
    rows: pd.DataFrame,
    column: str,
    value: Any,
    against: Any,
    margin: float = 0.005,
    metric: str = "cer",
    confidence: float = 0.95,
) -> Verdict:
    """Return the verdict on the rows where `column` is `value` against those where it is `against`, page by page.

    A page that was read several times on a side counts once there, with the mean of its readings. Where the two have
    fewer than two scored pages in common, the verdict is `not compared` and its numbers are NaN.
    """
    one, other = (_by_page(rows[rows[column] == v], metric) for v in (value, against))
    common = one.index.intersection(other.index, sort=False)
    if len(common) < 2 or not one.loc[common, "length"].any():
        words = f"not compared: {len(common)} pages have a {METRICS[metric].label} on both sides, two are needed"
        return Verdict("not compared", words, Interval(math.nan, math.nan, math.nan, confidence, len(common)), margin)
    one, other = one.loc[common], other.loc[common]
    # Brought to as many readings per page as all can have, edits stay whole numbers and pages keep their weights.
    times = math.lcm(*one["readings"].tolist(), *other["readings"].tolist())
    sides = [
        [Edits(int(e * times // k), int(n * times // k)) for e, n, k in side.itertuples(index=False)]
        for side in (one[["edits", "length", "readings"]], other[["edits", "length", "readings"]])
    ]
    return verdict(sides[0], sides[1], margin, confidence, metric=METRICS[metric].rate_label or METRICS[metric].label)


def _by_page(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return edits and length added up over each page's scored readings, and how many readings they are.

    Rows that were never read have none: lost pages count beside others that were read.
    """
    columns = [f"{metric}_edits", f"{metric}_length"]
    if "status" in rows and not rows["status"].isin(WITH_TEXT).any():
        rows = rows[:0]
    pages = rows.reindex(columns=["page", *columns]).dropna().groupby("page", sort=False)
    table = pages[columns].sum().set_axis(["edits", "length"], axis=1)
    return table.assign(readings=pages.size())


# One variant against another, page by page: is the text the same, from which letter on not, and is its CER worse.


def name_variants(rows: pd.DataFrame, *, with_dtype: bool = False) -> pd.DataFrame:
    """Return the rows with a column `variant`: attention and pinned kernel in words, after quantization and dtype."""
    names = [variant_words(a, k) for a, k in zip(rows["attn_implementation"], rows["sdpa_kernel"], strict=True)]
    if with_dtype:
        kinds = [f"{q} + " if isinstance(q, str) else "" for q in rows.get("quantization", [None] * len(rows))]
        names = [f"{kind}{dtype}, {name}" for kind, dtype, name in zip(kinds, rows["dtype"], names, strict=True)]
    return rows.assign(variant=names)


def variant_words(attention: str, kernel: object) -> str:
    """Return an attention and its pinned kernel, if there is one, in words."""
    return f"{attention}, {kernel}" if isinstance(kernel, str) else attention


def contrast(rows: pd.DataFrame, readings: pd.DataFrame, against: str, margin: float = 0.005) -> pd.DataFrame:
    """Return one line per variant of the named rows, held against the variant `against`.

    `pages` counts what was read to some end; `same_text` is the share of pages whose text is the other's, letter for
    letter, `first_difference` the median of the first letter that differs where one does; cer with its interval,
    `kind` and `words` of the paired verdict against `margin` (fractions); status and reason of the first failure.
    Where nothing is scored (no truth, random weights), the quality columns stay empty.
    """
    texts = readings.set_index("key")["text"]
    other = rows[rows["variant"] == against]
    expected = {page: texts[key] for page, key in zip(other["page"], other["key"], strict=True)}
    lines = []
    for variant, mine in rows.groupby("variant", sort=False):
        line: dict[str, Any] = {"variant": variant} | {name: mine[name].iloc[0] for name in ("model_id", "weights")}
        read, bad = mine[mine["status"].isin(WITH_TEXT)], mine[~mine["status"].isin(WITH_TEXT)]
        pairs = [(texts[k], expected[p]) for k, p in zip(read["key"], read["page"], strict=True) if p in expected]
        differ = [at for one, two in pairs if (at := first_divergence(one, two)) is not None]
        line |= {"pages": read["page"].nunique(), "of": mine["page"].nunique()}
        line["same_text"] = 1 - len(differ) / len(pairs) if pairs else None
        line["first_difference"] = float(pd.Series(differ).median()) if differ else None
        line |= _quality(rows, mine, str(variant), against, margin)
        status, reason = ("ok", "") if bad.empty else bad[["status", "reason"]].iloc[0]
        lines.append(line | {"status": status, "reason": reason})
    return pd.DataFrame(lines)


def _quality(rows: pd.DataFrame, mine: pd.DataFrame, variant: str, against: str, margin: float) -> dict[str, Any]:
    blank = dict.fromkeys(("cer", "cer_low", "cer_high", "difference", "low", "high")) | {"kind": "", "words": ""}
    if not (error := values_of(mine, "cer")):
        return blank
    blank |= error
    if variant == against:
        return blank | {"words": "the one compared with"}
    found = compare(rows, "variant", variant, against, margin)
    if found.kind == "not compared":  # the other was never scored on the same pages
        return blank
    ends = {"difference": found.difference.point, "low": found.difference.low, "high": found.difference.high}
    return blank | ends | {"kind": found.kind, "words": found.words}


# How many times a variant's column is another's, over pairs of one page; and on how many pages a variant failed.


_ENOUGH = 6  # fewer pairs all lean to one side by chance more often than once in twenty


class Ratio(NamedTuple):
    """The median ratio over pairs with its 95 % interval; its ends are None where the pairs are too few."""

    point: float
    low: float | None
    high: float | None
    pairs: int


def ratio(rows: pd.DataFrame, column: str, variant: str, other: str) -> Ratio | None:
    """Return how many times a variant's column is another's; None where they have no pair of positive values.

    A pair is one page, or one repetition of a page where there are several: of a time, it is the machine that varies.
    """
    keys = ["page", "repeat"] if "repeat" in rows else ["page"]
    known = rows.dropna(subset=[column]).set_index(["variant", *keys])[column]
    if not {variant, other} <= set(known.index.get_level_values("variant")):
        return None
    pairs = known[variant].to_frame("a").join(known[other].to_frame("b"), how="inner")
    if len(pairs) and (pairs["a"] == pairs["b"]).all():
        return Ratio(1.0, 1.0, 1.0, len(pairs))
    ratios = (pairs["a"] / pairs["b"])[(pairs > 0).all(axis=1)]
    if ratios.empty:
        return None
    if len(ratios) < _ENOUGH:
        return Ratio(float(ratios.median()), None, None, len(ratios))
    found = bootstrap_median(np.log(ratios).tolist())
    point, low, high = (float(np.exp(v)) for v in (found.point, found.low, found.high))
    return Ratio(point, low, high, len(ratios))


def ratio_words(rows: pd.DataFrame, column: str, variant: str, other: str) -> str:
    """Return the ratio of `ratio` in words."""
    found = ratio(rows, column, variant, other)
    if found is None:
        return f"not compared with {other}"
    if found.low is None or found.high is None:
        return f"{found.point:.2g} times {other}'s ({found.pairs} pairs, too few for an interval)"
    if found.low == found.high == 1:
        return f"the same as {other}'s"
    calm = ", no difference seen" if found.low <= 1 <= found.high else ""
    return f"{found.point:.2g} times {other}'s ({found.low:.2g} to {found.high:.2g} over {found.pairs} pairs{calm})"


def failures(fidelity: pd.DataFrame, variant: str) -> tuple[int, int, str]:
    """Return on how many pages a variant gave no numbers, of how many that the reference read, and the first reason."""
    mine = fidelity[(fidelity["variant"] == variant) & (fidelity["reference"] == "ok")]
    bad = mine[mine["status"] != "ok"]
    return len(bad), len(mine), "" if bad.empty else str(bad["reason"].iloc[0])


_SHOWN = 16


@dataclass(frozen=True)
class Difference:
    """The first grapheme (from 0) in which two texts differ, the few before it, and how each goes on from there."""

    at: int
    shared: str
    one: str
    other: str

    def __str__(self) -> str:
        return f"at letter {self.at + 1}, after {self.shared!r}: {self.one!r} against {self.other!r}"


def first_difference(one: str, other: str) -> Difference | None:
    """Return where two texts first differ, or None where only normal form or newlines at the end do."""
    at = first_divergence(one, other)
    if at is None:
        return None
    left, right = (graphemes(normalise(text, "strict")) for text in (one, other))
    shared = "".join(left[max(0, at - _SHOWN) : at])
    return Difference(at, shared, "".join(left[at : at + _SHOWN]), "".join(right[at : at + _SHOWN]))
