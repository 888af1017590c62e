"""A PDF's page comes to a reader drawn once, at the size that its pixel limits keep: here, ahead, or for a server."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from PIL import Image

from ocrlab.commands.library import plan_items
from ocrlab.pages import Page, load_pages, page_size
from ocrlab.reading.family import resized
from ocrlab.reading.inputs import Background, open_for, page_tokens, prepare
from ocrlab.reading.isolated import PageResult
from ocrlab.reading.loading import token_counter
from ocrlab.reading.page_reader import PageReader
from ocrlab.reading.reader import open_reader
from ocrlab.reading.server_reader import ServerInputs
from ocrlab.reading.settings import Settings
from ocrlab.study.records import load_findings, reading_record, row_key
from tests.experiments.cells import Cells
from tests.pages import pdfs
from tests.pages.test_images import UNDO, oriented

A4 = "0 0 595.28 841.89"
SETTINGS = Settings(dtype="float32", max_new_tokens=2)


@pytest.fixture(scope="module")
def reader() -> Iterator[PageReader]:
    with open_reader(SETTINGS) as opened:
        yield opened


@pytest.fixture(scope="module")
def sheet(tmp_path_factory: pytest.TempPathFactory) -> Page:
    file = tmp_path_factory.mktemp("sheet") / "a4.pdf"
    file.write_bytes(pdfs.one_page(pdfs.lines("Invoice 17 of 2026", "1 234,50", y=700), box=A4))
    return load_pages(file)[0]


def seen(reader: PageReader, page: Page, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Return the sizes in which the image processor gets a page and those to which it resizes it."""
    sizes = []
    processor = reader.builder.image_processor
    inner = processor.resize

    def resize(image, *args, **options):  # type: ignore[no-untyped-def]
        made = inner(image, *args, **options)
        sizes.extend((image.shape[-2:], made.shape[-2:]))
        return made

    with monkeypatch.context() as patch:
        patch.setattr(processor, "resize", resize)
        built = prepare(reader.builder, "x", [page])
    assert built.inputs is not None and built.inputs.image_tokens == (reader.size_of(page),)
    return sizes


@pytest.mark.parametrize("max_pixels", [4_096, 50_176, 262_144, 1_000_000, 3_211_264, 20_000_000])
def test_a_pdf_page_is_drawn_once_and_fills_its_budget(
    reader: PageReader, sheet: Page, max_pixels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader.apply(replace(SETTINGS, max_pixels=max_pixels))
    image = open_for(reader.builder, sheet)
    pixels = math.prod(image.size)
    at_200 = 595.28 * 841.89 * (200 / 72) ** 2
    assert 0.85 * min(max_pixels, at_200) < pixels <= min(max_pixels, 1.01 * at_200)
    counted = token_counter(reader.settings)
    assert page_tokens(sheet, counted, max_pixels) == reader.size_of(sheet) == pixels // 256
    if max_pixels < 300_000:
        given, made = seen(reader, sheet, monkeypatch)
        assert given == made == image.size[::-1]


def test_without_a_budget_a_page_is_drawn_at_150_dpi_within_the_models_limits(reader: PageReader, sheet: Page) -> None:
    reader.apply(SETTINGS)
    low, high = reader.builder.limits()
    assert page_size(sheet) == sheet.open().size == (1241, 1754)
    assert open_for(reader.builder, sheet).size == resized(1241, 1754, 16, low, high)


def test_a_dpi_that_was_given_decides(reader: PageReader, sheet: Page) -> None:
    reader.apply(replace(SETTINGS, max_pixels=50_176))
    (at_100,) = load_pages(sheet.file, dpi=100)
    assert open_for(reader.builder, at_100).size == page_size(at_100, 50_176) == (827, 1170)
    assert reader.read(at_100).image_tokens == reader.size_of(at_100) > 0


def test_a_page_as_if_scanned_has_the_resolution_of_its_scan_in_every_budget(reader: PageReader, sheet: Page) -> None:
    (scan,) = load_pages(sheet.file, degrade="scan")
    images = []
    for max_pixels in (50_176, 262_144):
        reader.apply(replace(SETTINGS, max_pixels=max_pixels))
        images.append(open_for(reader.builder, scan))
    assert images[0].size == page_size(scan, 9) == (1241, 1754) and images[0].tobytes() == images[1].tobytes()


def test_images_are_opened_as_they_are(reader: PageReader, tmp_path: Path) -> None:
    Image.new("L", (300, 200), 255).save(tmp_path / "p.png")
    (page,) = load_pages(tmp_path)
    reader.apply(replace(SETTINGS, max_pixels=4_096))
    assert open_for(reader.builder, page).size == page_size(page, 4_096) == (300, 200)


def test_pages_made_ready_ahead_are_drawn_for_the_budget_in_force(reader: PageReader, sheet: Page) -> None:
    for max_pixels in (50_176, 262_144):
        reader.apply(replace(SETTINGS, max_pixels=max_pixels))
        ahead = Background(reader.builder, "x", 1)
        (there,) = ahead.stream([[sheet]])
        here = prepare(reader.builder, "x", [sheet])
        assert there.inputs is not None and here.inputs is not None
        assert torch.equal(there.inputs.tensors["pixel_values"], here.inputs.tensors["pixel_values"])
        assert ahead.serves(reader.builder, "x", 1)
    own = reader.builder.limits()[1]
    reader.apply(replace(SETTINGS, max_pixels=own))
    asked = Background(reader.builder, "x", 0)
    reader.apply(SETTINGS)  # the same limits, and no budget that was asked for
    assert reader.builder.limits()[1] == own and not asked.serves(reader.builder, "x", 0)


def test_a_server_gets_the_page_at_the_size_that_it_is_to_keep(sheet: Page) -> None:
    within = ServerInputs(28, None, 500_000)
    image = open_for(within, sheet)
    assert image.size == resized(*image.size, 28) and 0.9 * 500_000 < math.prod(image.size) <= 500_000
    built = within.build([image], "x")
    assert built.image_tokens == (math.prod(image.size) // 784,) == (page_tokens(sheet, within.count, 500_000),)
    assert open_for(ServerInputs(None, None, None), sheet).size == resized(1241, 1754, 28)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_server_gets_upright_pixels_of_a_turned_page_in_a_store(orientation: int) -> None:
    upright = Image.new("L", (56, 28), 255)
    upright.paste(0, (0, 0, 42, 14))
    held = io.BytesIO()
    stored = upright.transpose(UNDO[orientation]) if orientation > 1 else upright
    stored.save(held, "TIFF" if orientation % 2 else "JPEG", **oriented(".tif" if orientation % 2 else "", orientation))
    fsspec.filesystem("memory").pipe_file(f"/turned/{orientation}.jpg", held.getvalue())
    (page,) = load_pages(f"memory://turned/{orientation}.jpg")
    builder = ServerInputs(28, None, 500_000)
    (url,) = builder.build([open_for(builder, page)], "x").tensors["urls"]
    sent = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
    assert sent.size == (56, 28) and not sent.getexif()
    assert [sent.getpixel(at)[0] > 128 for at in ((14, 7), (50, 7), (14, 21), (50, 21))] == [False, True, True, True]


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_a_pdf_page_is_drawn_turned_as_it_says(reader: PageReader, tmp_path: Path, turn: int) -> None:
    # Dark where the upper left is once the page is turned.
    corner = {0: "0 100", 90: "0 0", 180: "100 0", 270: "100 100"}[turn]
    page = pdfs.one_page(f"0 g {corner} 100 100 re f", box="0 0 200 200", page=f"/Rotate {turn}")
    (tmp_path / "p.pdf").write_bytes(page)
    reader.apply(replace(SETTINGS, max_pixels=50_176))
    image = open_for(reader.builder, load_pages(tmp_path)[0])
    quarter = image.width // 4
    at = [(x, y) for y in (quarter, 3 * quarter) for x in (quarter, 3 * quarter)]
    assert [image.getpixel(one)[0] > 128 for one in at] == [False, True, True, True]


def test_keys_and_records_tell_a_dpi_only_where_one_was_given(reader: PageReader, sheet: Page) -> None:
    (at_150,) = load_pages(sheet.file, dpi=150)
    keys = {row_key(replace(SETTINGS, max_pixels=m), page, "c", 0) for m in (4_096, 8_192) for page in (sheet, at_150)}
    assert len(keys) == 4
    reader.apply(SETTINGS)
    seen = [(page, PageResult(reader.read(page))) for page in (sheet, at_150)]
    told = [reading_record("e", "k", SETTINGS, page, result).get("dpi") for page, result in seen]
    assert told == [None, 150]
    (item,) = plan_items(replace(SETTINGS, max_pixels=50_176), [sheet], [None])
    assert 0.85 * 50_176 < 256 * item.image_tokens <= 50_176


def drawings_of_04(page_set: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **given: Any) -> Cells:
    monkeypatch.setenv("OCRLAB_RUN_FOLDER", str(tmp_path / "run"))
    settings = Settings(dtype="float32", max_new_tokens=60)
    values = {"pages": None, "truth": "beside", "pdf_pages": 2, "max_pixels_values": [4096, 65536, 16384], **given}
    cells = Cells("04-pixels", page_set=page_set, some=load_pages(page_set), base=settings, margin=0.005, **values)
    return cells.run("FILLED, SHRUNK")


def test_04_reads_both_drawings_of_truths_that_it_set_in_a_pdf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = drawings_of_04("labels", tmp_path, monkeypatch).run("def read_both")
    drawing, ways = cells["drawing"], [cells["FILLED"], cells["SHRUNK"]]
    assert sorted(drawing["max_pixels"].unique()) == [16384, 65536] and drawing["cer"].notna().all()
    assert drawing.groupby(["max_pixels", "variant"]).size().tolist() == [2] * 4
    tokens = drawing.pivot_table(index=["max_pixels", "page"], columns="variant", values="image_tokens")[ways]
    assert (tokens[ways[0]] >= tokens[ways[1]]).all(), "what fills its budget is never the smaller"
    assert [handle.get_label() for handle in cells.shown.axes[0].get_legend_handles_labels()[0]] == ways
    said = cells.run("for budget, mine").said
    assert "16,384 px: " in said and "image tokens: " in said
    kept = load_findings("04-drawing", tmp_path / "run")
    assert len(kept) == 8 and set(kept["variant"]) == set(ways)


def test_04_takes_a_page_sets_own_pdfs_and_says_when_there_is_nothing(
    sheet: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (64, 64), "white").save(sheet.file.parent / "scan.png")
    own = list(drawings_of_04(str(sheet.file.parent), tmp_path, monkeypatch)["drawn_twice"](tmp_path))
    assert [(page.file.name, page.dpi) for page in own] == [("a4.pdf", None), ("a4.pdf", 150)]
    assert not (tmp_path / "truths.pdf").exists()
    Image.new("RGB", (64, 64), "white").save(tmp_path / "untold.png")
    nothing = drawings_of_04(str(tmp_path / "untold.png"), tmp_path, monkeypatch)
    assert "none has a truth" in nothing.run("def read_both").shown
    assert "Not read here." in nothing.run("for budget, mine").said
