"""Whole pages for the large models: receipts, specifications, tables, letters, forms, from `documents.yaml`."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Decimal
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from data.recipes.samples import SEED, Sample
from data.recipes.sheet import Sheet, font_named
from ocrlab.pages import degrade

_CENT = Decimal("0.01")


@cache
def _listed() -> list[dict[str, Any]]:
    import yaml

    return yaml.safe_load((Path(__file__).parent / "documents.yaml").read_text(encoding="utf-8"))


def count() -> int:
    """Return how many documents there are."""
    return len(_listed())


def document_sample(index: int) -> Sample:
    """Return document `index`, degraded as its entry says; its truth has one line for each printed line or row."""
    entry = _listed()[index]
    rng = Random(f"{SEED}/documents/{entry['name']}")
    paper = dict(entry["paper"])
    crop = paper.pop("crop", False)
    regular, bold = (font_named(name) for name in entry["fonts"])
    sheet = Sheet(**paper, regular=regular, bold=bold, rng=rng)
    sheet.lay([block for given in entry["blocks"] for block in _expanded(given)])
    image = degrade.degraded(sheet.finish(crop), entry.get("degradations", []), rng)
    words = "+".join(name for degradation in entry.get("degradations", []) for name in degradation) or "clean"
    return Sample(
        _levels(image, entry.get("levels", 16)),
        "\n".join(sheet.lines),
        entry["language"],
        entry["kind"],
        words,
        regular.name,
    )


def _levels(page: Image.Image, levels: int) -> Image.Image:
    """Return the page in so many grey levels, as a palette image: paper that packs into a third of the bytes."""
    steps = np.rint(np.asarray(page, np.float32) * ((levels - 1) / 255)).astype(np.uint8)
    image = Image.fromarray(steps).convert("P")
    greys = [round(step * 255 / (levels - 1)) for step in range(levels)]
    image.putpalette([value for grey in greys for value in (grey, grey, grey)])
    return image


def _expanded(block: dict[str, Any]) -> list[dict[str, Any]]:
    return _goods(**block["goods"]) if "goods" in block else [block]


def _goods(
    rows: Sequence[Sequence[Any]],
    total: str,
    *,
    style: str,
    locale: str = "en",
    tax: Sequence[Any] = (),
    tax_on_top: Sequence[Any] = (),
    before_tax: str = "",
    **table: Any,
) -> list[dict[str, Any]]:
    """Return the blocks of a bill: each amount is count times price, and the total their sum."""
    priced = [(*row[:-2], Decimal(str(row[-2])), Decimal(str(row[-1]))) for row in rows]
    amounts = [_rounded(row[-2] * row[-1]) for row in priced]
    sum_of_all = sum(amounts, Decimal(0))
    blocks = _receipt(priced, amounts, locale) if style == "receipt" else [_bill(priced, amounts, locale, table)]
    last: list[tuple[str, Decimal]] = []
    if tax_on_top:
        added = _rounded(sum_of_all * Decimal(tax_on_top[1]) / 100)
        last += [(before_tax, sum_of_all), (tax_on_top[0], added)]
        sum_of_all += added
    blocks.append({"pairs": [[label, _money(amount, locale)] for label, amount in last]})
    blocks.append({"pairs": {"rows": [[total, _money(sum_of_all, locale)]], "bold": True, "scale": 1.1}})
    if tax:
        share = _rounded(sum_of_all * Decimal(tax[1]) / (100 + Decimal(tax[1])))
        blocks.append({"pairs": [[tax[0], _money(share, locale)]]})
    return [*blocks, {"rule": "dashed"}] if style == "receipt" else blocks


def _receipt(priced: Sequence[tuple[Any, ...]], amounts: Sequence[Decimal], locale: str) -> list[dict[str, Any]]:
    # Among Cyrillic letters a Latin x could not be distinguished from their own.
    times = "×" if locale == "ru" else "x"
    blocks: list[dict[str, Any]] = []
    for (name, number, price), amount in zip(priced, amounts, strict=True):
        count_and_price = f"{number} {times} {_money(price, locale)}"
        blocks += [{"text": name}, {"pairs": [[count_and_price, _money(amount, locale)]]}]
    return [*blocks, {"rule": "dashed"}]


def _bill(
    priced: Sequence[tuple[Any, ...]], amounts: Sequence[Decimal], locale: str, table: dict[str, Any]
) -> dict[str, Any]:
    rows = [
        [str(line), name, unit, str(number), _money(price, locale), _money(amount, locale)]
        for line, ((name, unit, number, price), amount) in enumerate(zip(priced, amounts, strict=True), 1)
    ]
    return {"table": {"rows": rows, **table}}


def _rounded(amount: Decimal) -> Decimal:
    return amount.quantize(_CENT, ROUND_HALF_UP)


def _money(amount: Decimal, locale: str) -> str:
    text = f"{amount:,.2f}"
    return text.replace(",", " ").replace(".", ",") if locale == "ru" else text
