"""The documents are what they say: prices add up, nothing is cut off, and the truth holds what is printed."""

from __future__ import annotations

import json
from random import Random

import numpy as np
import pytest
from PIL import Image

from data.recipes import documents, worn
from data.recipes.fonts import FontsMissing
from data.recipes.sheet import Sheet, font_named
from ocrlab import paths
from ocrlab.pages import load_pages


@pytest.fixture
def sheet() -> Sheet:
    pytest.importorskip("fontTools")
    try:
        font = font_named("DejaVuSans.ttf")
    except FontsMissing as missing:
        pytest.skip(str(missing))
    return Sheet(400, 300, 20, 16, font, font, Random(0))


def pairs(blocks: list[dict]) -> list[list[str]]:
    return [row for block in blocks if "pairs" in block for row in _rows(block["pairs"])]


def _rows(given: object) -> list[list[str]]:
    return given["rows"] if isinstance(given, dict) else given


def test_a_receipt_adds_up() -> None:
    rows = [["Tea", 2, 1.25], ["Cake", 3, 0.99]]
    blocks = documents._goods(rows, "TOTAL", style="receipt", tax=["VAT", 20])
    assert pairs(blocks) == [["2 x 1.25", "2.50"], ["3 x 0.99", "2.97"], ["TOTAL", "5.47"], ["VAT", "0.91"]]


def test_an_invoice_adds_tax_on_top_and_rounds_half_up() -> None:
    rows = [["Work", "h", 12.5, 44.01], ["Part", "pc", 1, 1000]]
    blocks = documents._goods(rows, "Итого", style="table", locale="ru", before_tax="Без НДС", tax_on_top=["НДС", 20])
    assert blocks[0]["table"]["rows"] == [
        ["1", "Work", "h", "12.5", "44,01", "550,13"],
        ["2", "Part", "pc", "1", "1 000,00", "1 000,00"],
    ]
    assert pairs(blocks) == [["Без НДС", "1 550,13"], ["НДС", "310,03"], ["Итого", "1 860,16"]]


def test_what_does_not_fit_or_cannot_be_drawn_is_an_error(sheet: Sheet) -> None:
    with pytest.raises(ValueError, match="needs"):
        sheet.pairs([["a label as wide as the whole of this small page", "and a value"]])
    with pytest.raises(ValueError, match="cannot draw"):
        sheet.text("漢字")
    for _ in range(20):
        sheet.text("one more line")
    with pytest.raises(ValueError, match="ends at"):
        sheet.finish(crop=False)


def test_truth_follows_the_print(sheet: Sheet) -> None:
    sheet.text("Long enough a sentence that it has to be wrapped on this page")
    sheet.table([3, 1, 1], [["Bolt M8", "", "4"]], head=["Item", "Note", "Qty"], align="llr")
    sheet.fields([["Name", "R. Roe"], ["Date", ""]])
    assert len(sheet.lines) == 6 and " ".join(sheet.lines[:2]).endswith("on this page")
    assert sheet.lines[2:] == ["Item Note Qty", "Bolt M8 4", "Name R. Roe", "Date"]
    assert np.asarray(sheet.finish(crop=True)).min() == 0


@pytest.mark.parametrize("name", sorted(worn.KINDS))
def test_every_degradation_changes_the_page_and_repeats(name: str) -> None:
    measures = {
        "skew": 1.5,
        "light": 0.4,
        "fold": 0.3,
        "coffee": 0.5,
        "contrast": {"ink": 60, "paper": 200},
        "blur": 1.0,
        "noise": 5.0,
        "jpeg": 30,
        "fax": 0.8,
        "camera": 0.06,
        "crumple": 0.4,
    }
    page = Image.new("L", (200, 260), 255)
    page.paste(0, (40, 60, 120, 80))
    one, other = (worn.degraded(page, [{name: measures[name]}], Random(1))[0] for _ in range(2))
    assert one.mode == "L" and one.tobytes() == other.tobytes()
    assert one.size != page.size or one.tobytes() != page.tobytes()


@pytest.mark.parametrize("name", ["skew", "camera"])
def test_a_box_goes_where_its_ink_goes(name: str) -> None:
    page = Image.new("L", (300, 400), 255)
    page.paste(0, (120, 90, 170, 110))
    measure = {"skew": 4.0, "camera": 0.06}[name]
    image, ((left, top, right, bottom),) = worn.degraded(
        page, [{name: measure}], Random(3), np.array([[120.0, 90, 170, 110]])
    )
    y, x = np.nonzero(np.asarray(image) < 40)
    assert (left, top, right, bottom) == pytest.approx((x.min(), y.min(), x.max() + 1, y.max() + 1), abs=2)
    assert abs(left - 120) > 2 or abs(top - 90) > 2


def test_columns_are_read_one_after_the_other(sheet: Sheet) -> None:
    sheet.columns(["one two three four", "five six seven eight nine ten"], count=2)
    assert " ".join(sheet.lines) == "one two three four five six seven eight nine ten"
    left, right = sheet.boxes[0], sheet.boxes[-1]
    assert left[2] < 200 < right[0] and len(sheet.boxes) == 10


def test_what_does_not_fit_is_set_smaller(sheet: Sheet) -> None:
    paper = {"width": 400, "height": 300, "margin": 20, "sizes": [40, 20, 12]}
    blocks = [{"text": "A sentence of some length, which needs room. " * 3}]
    entry = {"name": "x", "paper": paper, "fonts": ["DejaVuSans.ttf"] * 2, "blocks": blocks}
    assert documents._set(entry, Random(0))[0].size == 20
    with pytest.raises(ValueError, match="x: the page ends at"):
        documents._set({**entry, "paper": {**paper, "sizes": [60, 40]}}, Random(0))


def test_every_word_has_its_box_on_the_page() -> None:
    lines = (paths.PAGES / "documents" / "boxes.jsonl").read_text(encoding="utf-8").splitlines()
    for page, line in zip(load_pages("documents"), lines, strict=True):
        boxes = json.loads(line)
        assert boxes["id"] == page.id and len(boxes["words"]) == len((page.truth or "").split())
        width, height = page.size()
        for left, top, right, bottom in boxes["words"]:
            assert 0 <= left < right <= width and 0 <= top < bottom <= height, page.id


def test_dark_ink_lies_in_the_boxes() -> None:
    """Of clean pages: hardly any ink lies outside, and none of the boxes is empty."""
    lines = (paths.PAGES / "documents" / "boxes.jsonl").read_text(encoding="utf-8").splitlines()
    pages = [(p, b) for p, b in zip(load_pages("documents"), lines, strict=True) if p.degradation == "clean"]
    for page, line in pages[::6]:
        ink = np.asarray(page.open().convert("L")) < 128
        assert all(ink[t:b, x:r].any() for x, t, r, b in json.loads(line)["words"]), page.id


def test_ink_keeps_away_from_the_edges_of_clean_documents() -> None:
    clean = [page for page in load_pages("documents") if page.degradation == "clean"]
    assert len(clean) >= 8
    for page in clean:
        pixels = np.asarray(page.open().convert("L"))
        if page.kind != "certificate":  # they have a frame
            assert min(edge.min() for edge in (pixels[:20], pixels[-20:], pixels[:, :20], pixels[:, -20:])) == 255, (
                page.id
            )
        assert page.open().width >= 560


def test_documents_have_every_kind_in_both_languages() -> None:
    found = {(page.kind, page.language) for page in load_pages("documents")}
    kinds = ("receipt", "specification", "table", "letter", "form")
    assert {(kind, language) for kind in kinds for language in ("en", "ru")} <= found
