"""One way of computing against another, page by page: the same text, from where on another, and is its CER worse."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ocrlab.reading.settings import Settings
from ocrlab.scoring.metrics import first_divergence
from ocrlab.scoring.outcomes import WITH_TEXT
from ocrlab.study.summary import compare, values_of

if TYPE_CHECKING:
    import pandas as pd


def way_of(settings: Settings) -> str:
    """Return attention and pinned kernel in words: what the column `way` calls a setting."""
    return way_words(settings.attn_implementation, settings.sdpa_kernel)


def name_ways(rows: pd.DataFrame, *, with_dtype: bool = False) -> pd.DataFrame:
    """Return the rows with a column `way`: attention and pinned kernel in words, dtype and quantization before them."""
    names = [way_words(a, k) for a, k in zip(rows["attn_implementation"], rows["sdpa_kernel"], strict=True)]
    if with_dtype:
        kinds = [f"{q} + " if isinstance(q, str) else "" for q in rows.get("quantization", [None] * len(rows))]
        names = [f"{kind}{dtype}, {name}" for kind, dtype, name in zip(kinds, rows["dtype"], names, strict=True)]
    return rows.assign(way=names)


def way_words(attention: str, kernel: object) -> str:
    """Return an attention and its pinned kernel, if there is one, in words."""
    return f"{attention}, {kernel}" if isinstance(kernel, str) else attention


def contrast(rows: pd.DataFrame, readings: pd.DataFrame, against: str, margin: float = 0.005) -> pd.DataFrame:
    """Return one line a way of the named rows, held against the way `against`.

    `pages` counts what was read to some end; `same_text` is the share of pages whose text is the other's, letter for
    letter, `first_difference` the median of the first letter that differs where one does; cer with its interval,
    `kind` and `words` of the paired verdict against `margin` (fractions); status and reason of the first failure.
    Where nothing is scored (no truth, random weights), the quality columns stay empty.
    """
    import pandas as pd

    texts = readings.set_index("key")["text"]
    other = rows[rows["way"] == against]
    expected = {page: texts[key] for page, key in zip(other["page"], other["key"], strict=True)}
    lines = []
    for way, mine in rows.groupby("way", sort=False):
        line: dict[str, Any] = {"way": way, "model_id": mine["model_id"].iloc[0], "weights": mine["weights"].iloc[0]}
        read, bad = mine[mine["status"].isin(WITH_TEXT)], mine[~mine["status"].isin(WITH_TEXT)]
        pairs = [(texts[k], expected[p]) for k, p in zip(read["key"], read["page"], strict=True) if p in expected]
        parted = [at for one, two in pairs if (at := first_divergence(one, two)) is not None]
        line |= {"pages": read["page"].nunique(), "of": mine["page"].nunique()}
        line["same_text"] = 1 - len(parted) / len(pairs) if pairs else None
        line["first_difference"] = float(pd.Series(parted).median()) if parted else None
        line |= _quality(rows, mine, str(way), against, margin)
        status, reason = ("ok", "") if bad.empty else bad[["status", "reason"]].iloc[0]
        lines.append(line | {"status": status, "reason": reason})
    return pd.DataFrame(lines)


def _quality(rows: pd.DataFrame, mine: pd.DataFrame, way: str, against: str, margin: float) -> dict[str, Any]:
    blank = dict.fromkeys(("cer", "cer_low", "cer_high", "difference", "low", "high")) | {"kind": "", "words": ""}
    if not (error := values_of(mine, "cer")):
        return blank
    blank |= error
    if way == against:
        return blank | {"words": "the one compared with"}
    found = compare(rows, "way", way, against, margin)
    if found.kind == "not compared":  # the other was never scored on the same pages
        return blank
    ends = {"difference": found.difference.point, "low": found.difference.low, "high": found.difference.high}
    return blank | ends | {"kind": found.kind, "words": found.words}
