"""What a row says of a text that no status tells of: repeated, another page's, on a blank page; with the summary."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from ocrlab.pages import Page, load_pages
from ocrlab.pages.images import is_blank
from ocrlab.reading.reader import open_reader
from ocrlab.reading.settings import Settings
from ocrlab.report.site import build_site
from ocrlab.scoring.outcomes import is_repeated
from ocrlab.study import tables
from ocrlab.study.compare import summarise
from ocrlab.study.experiment import run_experiment
from ocrlab.study.records import FLAGS, load_rows, row_of
from tests.reading.fake_server import fake_server
from tests.runs import reading, write_run

PASSAGE = "Milk 2 x 3.10 6.20 and fresh white bread"
ROW = "| 12 May | Quiet day, nothing to report from pier | 0 |"
TABLE = "Log of the harbour\n" + "\n".join([ROW] * 3) + "\nSigned by the watch"
RULED = "Name ______ ______ ______\n" + "\n".join([". " * 60] * 4) + "\n0 0 0 0 0 0 0 0\n" * 5


def flags(text: str, truth: str | None, **changes: Any) -> set[str]:
    row = row_of(reading("p1", text, truth, **changes))
    return {flag for flag in FLAGS if row[flag]}


@pytest.mark.parametrize(
    ("text", "truth", "repeated"),
    [
        (f"{PASSAGE} {PASSAGE} {PASSAGE}", PASSAGE, True),
        (f"{PASSAGE}\nthen\n{PASSAGE}\nthen\n{PASSAGE}\nTotal", None, True),
        (f"{PASSAGE} once\n{PASSAGE} twice and on", None, False),
        (f"{PASSAGE}\n{PASSAGE}", PASSAGE, True),  # the whole page twice
        (f"{PASSAGE}\n{PASSAGE.replace('Milk', 'MiIk')} to end", PASSAGE, False),
        (f"{PASSAGE}\n{PASSAGE}", f"{PASSAGE}\n{PASSAGE}", False),
        (TABLE, TABLE, False),
        (TABLE.replace("Quiet", "Ouiet"), TABLE, False),  # misread three times
        (TABLE + f"\n{ROW}" * 3, TABLE, True),
        (TABLE, None, True),
        (RULED, RULED, False),
        (RULED, None, False),
        ("的文字内容一二三四五六七八九十甲乙丙丁戊己庚辛壬癸子丑寅卯辰巳" * 3, None, True),
        ("的文字内容一二三四五六七八九十甲乙丙丁戊己庚辛壬癸子丑寅卯辰", None, False),
        ("", "", False),
    ],
)
def test_repeated_by_hand(text: str, truth: str | None, repeated: bool) -> None:
    assert is_repeated(text, truth) is repeated
    assert ("repeated" in flags(text, truth)) is repeated


def test_only_a_text_that_ended_by_itself_is_repeated() -> None:
    text = f"{PASSAGE} " * 3
    assert flags(text, PASSAGE) == {"repeated"}
    assert flags(text, PASSAGE, status="loop") == flags(text, PASSAGE, status="truncated") == set()
    assert flags(text, PASSAGE, asked={"weights": "dummy"}) == set()
    assert flags(text, PASSAGE, asked={"min_new_tokens": 4, "max_new_tokens": 4}) == set()


def test_our_pages_are_not_flagged() -> None:
    truths = [page.truth for name in ("documents", "labels", "lines", "sizes") for page in load_pages(name)]
    assert [truth for truth in truths if truth and flags(truth, None) | flags(truth, truth)] == []


def test_text_on_a_blank_page() -> None:
    assert flags("Thank you", "") == flags("Thank you", None, measured={"blank": True}) == {"text_on_blank"}
    assert flags("", "") == flags("```\n```", "") == set()
    assert flags("Thank you", None, measured={"blank": False}) == flags("Thank you", None) == set()
    assert flags("Thank you", "Thank you", measured={"blank": True}) == set()  # the truth knows better


def copies(folder: Path, *records: dict[str, Any]) -> list[bool]:
    return load_rows(write_run(folder, *records))["copied"].tolist()


def test_a_text_of_another_page(tmp_path: Path) -> None:
    other = "A different page altogether"
    seed = {"asked": {"seed": 1}}
    assert copies(tmp_path / "a", reading("p1", PASSAGE, PASSAGE), reading("p2", PASSAGE, other)) == [False, True]
    assert copies(tmp_path / "b", reading("p1", PASSAGE, None), reading("p2", PASSAGE, None)) == [True, True]
    assert copies(tmp_path / "c", reading("p1", PASSAGE, None), reading("p2", PASSAGE, None, **seed)) == [False] * 2
    assert copies(tmp_path / "d", reading("p1", "Total 6.20", None), reading("p2", "Total 6.20", None)) == [False] * 2
    same = {"page_sha256": "0" * 64}
    assert (
        copies(tmp_path / "e", reading("p1", PASSAGE, None, **same), reading("p2", PASSAGE, None, **same))
        == [False] * 2
    )
    truth = f"{PASSAGE}s"  # both pages say it, and both were misread
    assert copies(tmp_path / "f", reading("p1", PASSAGE, truth), reading("p2", PASSAGE, truth)) == [False] * 2
    failed = {"status": "error", "reason": "x"}
    assert copies(tmp_path / "g", reading("p1", PASSAGE, None, **failed), reading("p2", PASSAGE, None)) == [False] * 2


def test_flags_are_counted_and_shown(tmp_path: Path) -> None:
    said = f"Sure! Here's the transcription:\n\n{PASSAGE}"
    run = write_run(
        tmp_path / "r",
        reading("p1", f"{PASSAGE} " * 3, PASSAGE),
        reading("p2", "Thank you", ""),
        reading("p3", said, "Another text"),
        reading("p4", said, PASSAGE),
        reading("p5", "fine", "fine", asked={"seed": 1}),
    )
    rows = load_rows(run)
    assert rows["removed_characters"].tolist() == [0, 0, 31, 31, 0]
    lines = summarise(rows, "seed").set_index("seed")
    assert lines["flagged"].to_dict() == {0: "1 repeated, 1 copied, 1 text on blank", 1: ""}
    assert "texts to look at" in tables.settings_table(rows, "seed")
    assert "texts to look at" not in tables.settings_table(rows[rows["seed"] == 1], "seed")
    assert "1 repeated, 1 copied, 1 text on blank" in build_site(run).read_text(encoding="utf-8")
    page = (run / "readings.html").read_text(encoding="utf-8")
    assert page.count("not scored: Sure! Here&#39;s the transcription:") == 2
    for words in ("repeated", "copied", "text on blank"):
        assert page.count(f'<p class="reason bad">{words}</p>') == 1


def _written(grey: int = 0, size: int = 800) -> Image.Image:
    image = Image.new("RGB", (size, size), "white")
    ImageDraw.Draw(image).text((size // 3, size // 3), "Total 6.20", fill=(grey,) * 3)
    return image


def _noise(low: int, high: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(3).integers(low, high, (600, 400, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("image", "blank"),
    [
        (Image.new("RGB", (500, 700), "white"), True),
        (Image.new("RGB", (500, 700), "black"), True),
        (Image.new("RGB", (500, 700), (240, 230, 200)), True),
        (Image.new("RGB", (1, 1)), True),
        (_written(235).filter(ImageFilter.GaussianBlur(2)).transpose(Image.Transpose.FLIP_LEFT_RIGHT), True),
        (_noise(0, 256), True),
        (_noise(225, 256), True),
        (_written(), False),
        (_written(110), False),
    ],
    ids=["white", "black", "cream", "pixel", "show-through", "noise", "grain", "print", "grey print"],
)
def test_blank_images(image: Image.Image, blank: bool) -> None:
    assert is_blank(image) is blank


def test_our_pages_are_not_blank() -> None:
    pages = [*load_pages("documents", spread=60), *load_pages("labels")]
    assert [page.id for page in pages if is_blank(page.open())] == []


@pytest.fixture
def two_pages(tmp_path: Path) -> list[Page]:
    file = tmp_path / "white.png"
    Image.new("RGB", (64, 64), "white").save(file)
    line = load_pages("lines", limit=1)[0]
    return [replace(line, id="white", file=file, truth=None), line]


def test_a_reader_notes_blank_pages(two_pages: list[Page]) -> None:
    with open_reader(Settings(dtype="float32", max_new_tokens=8, batch_size=2)) as reader:
        assert [one.measured()["blank"] for one in reader.read(two_pages)] == [True, False]


def test_a_server_s_text_of_a_blank_page_is_flagged(tmp_path: Path, two_pages: list[Page]) -> None:
    with fake_server(text="Thank you") as fake:
        rows = run_experiment("e", [Settings(model_id=fake.model_id)], two_pages, folder=tmp_path / "run")
    assert rows.set_index("page")["text_on_blank"].to_dict() == {"white": True, two_pages[1].id: False}
