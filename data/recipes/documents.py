"""Whole pages for the large models: those written out in `documents.yaml`, then those of `planned.py`."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Decimal
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from data.recipes import worn
from data.recipes.document_facts import facts_of
from data.recipes.planned import planned_documents
from data.recipes.samples import SEED, Sample
from data.recipes.sheet import Sheet, font_named

_CENT = Decimal("0.01")


@cache
def _listed() -> list[dict[str, Any]]:
    import yaml

    written = yaml.safe_load((Path(__file__).parent / "documents.yaml").read_text(encoding="utf-8"))
    return [*written, *planned_documents()]


def count() -> int:
    """Return how many documents there are."""
    return len(_listed())


def document_sample(index: int) -> Sample:
    """Return document `index`, degraded as its entry says; its truth has one line for each printed line or row."""
    entry = _listed()[index]
    rng = Random(f"{SEED}/documents/{entry['name']}")
    sheet, page = _set(entry, rng)
    degradations = entry.get("degradations", [])
    image, boxes = worn.degraded(page, degradations, rng, np.array(sheet.boxes, float))
    words = "+".join(name for degradation in degradations for name in degradation) or "clean"
    quality = entry.get("jpeg_quality", 0)
    return Sample(
        image if quality else _levels(image, entry.get("levels", 16)),
        "\n".join(sheet.lines),
        entry["language"],
        entry["kind"],
        words,
        (sheet.pen or sheet.regular).name if entry["kind"] == "handwriting" else sheet.regular.name,
        quality,
        tuple(tuple(round(value) for value in box) for box in boxes),
        tuple(facts_of(sheet.lines, sheet.rows, Random(f"{SEED}/facts/{entry['name']}"))),
    )


def _set(entry: dict[str, Any], rng: Random) -> tuple[Sheet, Image.Image]:
    """Return the sheet with everything on it; where several sizes are given, of the largest at which it fits."""
    paper = dict(entry["paper"])
    crop, least, sizes = paper.pop("crop", False), paper.pop("least", 0), paper.pop("sizes", [paper.get("size")])
    regular, bold = (font_named(name) for name in entry["fonts"])
    pen = font_named(entry["pen"]) if "pen" in entry else None
    blocks = [block for given in entry["blocks"] for block in _expanded(given)]
    for size in sizes:
        state = rng.getstate()
        sheet = Sheet(**{**paper, "size": size}, regular=regular, bold=bold, rng=rng, pen=pen)
        try:
            sheet.lay(blocks)
            return sheet, sheet.finish(crop, least)
        except ValueError as error:
            if size == sizes[-1]:
                raise ValueError(f"{entry['name']}: {error}") from error
            rng.setstate(state)
    raise AssertionError


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
    times = "x" if locale == "en" else "×"
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
