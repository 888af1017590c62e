"""The playground as a person has it: `python -m ocrlab app`, in a real browser."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ocrlab.pages import load_pages
from ocrlab.playground.picker import UPLOAD_LIMIT_BYTES
from ocrlab.reading.settings import load_preset
from ocrlab.study.records import load_findings, load_rows
from tests.chromium import Server, chromium, watch

LONG = {"max_new_tokens": "20000", "min_new_tokens": "20000"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("session")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    started = Server("app", folder)
    yield started
    started.stop()


@pytest.fixture(scope="module")
def page(server: Server) -> Iterator[Any]:
    with chromium() as browser:
        opened = watch(browser.new_page(viewport={"width": 1280, "height": 900}))
        opened.goto(server.address)
        opened.wait_for_selector(".ocr-a-read")
        yield opened


def choose_set(page: Any, name: str) -> None:
    page.click("text=a page of a set")
    page.select_option(".ocr-pick-sets select", name)
    says(page, ".ocr-pick-status", f"{name}-001")


def fill(page: Any, column: str, **settings: str) -> None:
    for name, value in settings.items():
        field = page.locator(f".ocr-column-{column} .ocr-{name} input")
        if not field.is_visible():
            page.click(f".ocr-column-{column} >> text=prompt and generation")
        field.fill(value)
        field.press("Tab")


def says(page: Any, place: str, words: str) -> str:
    """Wait until a place says the words; return all that it says."""
    page.wait_for_function(
        "([place, words]) => document.querySelector(place)?.innerText.includes(words)", arg=[place, words]
    )
    return str(page.inner_text(place))


def ends(page: Any, column: str) -> None:
    """Wait until a reading has ended by itself, whatever the embedded reader makes of the page."""
    page.wait_for_function(
        "place => /^(ok|loop|truncated|empty):/m.test(document.querySelector(place)?.innerText ?? '')",
        arg=f".ocr-{column}-state",
    )


def read_whole(page: Any, column: str = "a") -> None:
    forget = f"document.querySelectorAll('.ocr-{column}-state .ocr-note').forEach(e => e.textContent = 'earlier')"
    page.evaluate(forget)
    page.click(f".ocr-{column}-read")
    ends(page, column)


def test_a_page_is_picked_seen_and_read_while_text_streams_in(page: Any, server: Server) -> None:
    read_whole(page)  # the first reading of the session
    choose_set(page, "documents")
    assert page.evaluate("document.querySelector('.ocr-page img').naturalWidth") > 300
    page.click(".ocr-a-read")
    page.wait_for_selector(".ocr-live")
    early = page.inner_text(".ocr-live")
    ends(page, "a")
    text, truth = page.inner_text(".ocr-a-text"), load_pages("documents", limit=1)[0].truth or ""
    assert text.startswith(early.split()[0]) and len(early) < len(text), "text was seen before the end"
    result = says(page, ".ocr-a-result", "CER")
    assert truth.split()[0] in result
    assert all(words in result for words in ("to the first token", "tokens/s", "above the model"))
    says(page, ".ocr-history", "documents-001")
    said = says(page, ".ocr-a-forecast", "predicted peak")
    assert "image tokens" in said and "do not run here" in said


def test_what_cannot_run_is_marked_with_its_reason(page: Any) -> None:
    options = ".ocr-column-a .ocr-attn_implementation option"
    page.wait_for_function(f"[...document.querySelectorAll('{options}')].some(o => o.textContent.includes('✗'))")
    page.select_option(".ocr-column-a .ocr-attn_implementation select", index=2)
    says(page, ".ocr-a-forecast", "bfloat16 or float16 only")
    assert page.locator(".ocr-a-read").is_disabled()
    page.select_option(".ocr-column-a .ocr-attn_implementation select", label="sdpa")
    page.wait_for_function("!document.querySelector('.ocr-a-read').disabled")


def test_cancel_is_obeyed_and_the_next_page_is_read(page: Any) -> None:
    fill(page, "a", **LONG)
    page.click(".ocr-a-read")
    page.wait_for_selector(".ocr-live")
    page.click(".ocr-a-cancel")
    says(page, ".ocr-a-state", "cancelled")
    fill(page, "a", min_new_tokens="", max_new_tokens="512")
    read_whole(page)


def test_a_worker_that_is_killed_says_so_and_the_next_page_is_read(page: Any, server: Server) -> None:
    fill(page, "a", **LONG)
    page.click(".ocr-a-read")
    page.wait_for_selector(".ocr-live")
    server.workers()[0].kill()
    said = says(page, ".ocr-a-state", "crashed")
    assert "SIGKILL" in said and "next Read starts a fresh one" in said
    fill(page, "a", min_new_tokens="", max_new_tokens="512")
    started = time.monotonic()
    read_whole(page)
    print(f"read again {time.monotonic() - started:.2f} s after the worker was killed")
    says(page, ".ocr-history", "crashed")


def upload(page: Any, file: Any) -> None:
    page.click("text=upload >> nth=0")
    with page.expect_file_chooser() as chooser:
        page.click(".ocr-pick-upload")
    chooser.value.set_files(file)


def test_uploads_good_bad_and_too_large(page: Any, tmp_path: Path) -> None:
    hostile = {"name": "<img src=x onerror=window.pwned=1>.png", "mimeType": "image/png", "buffer": b"<svg onload=1>"}
    upload(page, hostile)
    says(page, ".ocr-pick-status", "is text, not an image")
    assert page.locator(".ocr-a-read").is_enabled()
    page.click(".ocr-a-read")
    says(page, ".ocr-a-state", "choose a page that can be opened")
    large = tmp_path / "large.bmp"
    Image.new("RGB", (2400, 2000), "white").save(large)
    assert 10 * 2**20 < large.stat().st_size < UPLOAD_LIMIT_BYTES
    upload(page, large)  # above Jupyter's own limit of 10 MiB, below ours
    says(page, ".ocr-pick-status", "large.bmp: 2,400 × 2,000 pixels")
    huge = tmp_path / "huge.bmp"
    with huge.open("wb") as file:
        file.truncate(UPLOAD_LIMIT_BYTES + 20 * 2**20)
    upload(page, huge)
    said = says(page, ".ocr-refused", "huge.bmp")
    assert f"above the upload limit of {UPLOAD_LIMIT_BYTES >> 20} MiB" in said
    choose_set(page, "lines")
    read_whole(page)


def test_a_hostile_truth_is_text(page: Any) -> None:
    choose_set(page, "labels")
    page.click(".jupyter-widget-Collapse-header:has-text('truth')")
    field = page.locator(".ocr-pick-truth textarea")
    field.fill("<img src=x onerror=window.pwned=1><script>window.pwned=2</script>")
    field.press("Tab")
    read_whole(page)
    assert "onerror=window.pwned=1" in says(page, ".ocr-a-result", "CER").replace("\n", "")
    assert page.evaluate("window.pwned") is None


def test_two_settings_side_by_side_and_their_export(page: Any, folder: Path) -> None:
    choose_set(page, "labels")
    page.click(".ocr-compare")
    fill(page, "b", max_pixels="4096")
    read_whole(page)
    page.click(".ocr-b-read")
    page.wait_for_selector(".ocr-comparison table")
    assert "A and B" in page.inner_text(".ocr-comparison")
    page.click(".ocr-column-b >> text=export these settings")
    with page.expect_download() as download:
        page.click(".ocr-b-export >> text=download preset")
    download.value.save_as(folder / "mine.yaml")
    assert load_preset(folder / "mine.yaml") == load_preset("tiny", max_pixels=4096)
    rows = load_rows(folder / "run", "playground")
    assert {"ok", "error", "crashed"} <= set(rows["status"]) and rows["max_pixels"].dropna().tolist()[-1] == 4096


def test_two_readings_are_voted_on_blind_by_keys_and_by_buttons(page: Any, folder: Path) -> None:
    page.select_option(".ocr-pick-pages select", "labels-002")  # two settings are chosen by the test before
    says(page, ".ocr-pick-status", "labels-002")
    for column in "ab":
        read_whole(page, column)
    page.click(".ocr-blind")
    first = says(page, ".ocr-vote-state", "places to go")
    assert not page.locator(".ocr-column-a").is_visible() and not page.locator(".ocr-history").is_visible()
    assert "4096" not in page.inner_text(".ocr-vote")
    assert page.evaluate("document.querySelector('.ocr-vote .ocr-place img').naturalWidth") > 100
    page.wait_for_timeout(500)  # a place is looked at before it is voted on
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("said => document.querySelector('.ocr-vote-state').innerText !== said", arg=first)
    assert load_findings("votes", folder / "run")["choice"].tolist() == ["left"], "on disk at once"
    while page.locator(".ocr-vote-neither").is_visible():
        page.wait_for_timeout(500)
        page.click(".ocr-vote-neither", timeout=2000)
        page.wait_for_timeout(500)
    votes = load_findings("votes", folder / "run")
    assert set(votes["page"]) <= {"labels-001", "labels-002"} and set(votes["truth_source"]) == {"vote"}
    page.click(".ocr-vote-next")
    page.wait_for_function("document.querySelector('.ocr-pick-pages select').value === 'labels-003'")
    page.wait_for_function("/places? to go|no place/.test(document.querySelector('.ocr-vote-state').innerText)")
    page.click(".ocr-blind")
    said = says(page, ".ocr-comparison", "blind votes")
    assert f"{len(votes)} blind votes: 0 both fine, {len(votes) - 1} neither; A is preferred in" in said


def test_a_reading_is_corrected_and_kept_as_the_truth_of_its_page(page: Any, tmp_path: Path) -> None:
    shutil.copy(load_pages("labels", limit=1)[0].file, tmp_path / "mine.png")
    page.click("text=path >> nth=0")
    page.fill(".ocr-pick-path input", str(tmp_path))
    page.press(".ocr-pick-path input", "Tab")
    says(page, ".ocr-pick-status", "mine.png")
    read_whole(page)
    page.click(".ocr-a-correct")
    says(page, ".ocr-correct-state", str(tmp_path / "mine.gt.txt"))
    field = page.locator(".ocr-correct-text textarea")
    for text in ("what a person sees <b>", "what a person sees"):
        field.fill(text)
        page.wait_for_selector(".ocr-correct td span")  # changes are marked
        page.click(".ocr-correct-keep")
        if text.endswith("sees"):
            says(page, ".ocr-correct-state", "is there already")
            assert load_pages(tmp_path)[0].truth == "what a person sees <b>"
            page.click("text=Yes, write mine.gt.txt")
        says(page, ".ocr-correct-state", f"kept as {tmp_path / 'mine.gt.txt'}")
        assert load_pages(tmp_path)[0].truth == text
    assert page.input_value(".ocr-pick-truth textarea") == text


def test_it_fits_a_phone_and_asked_nobody_else(page: Any) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_timeout(500)
    for place in ("html", ".ocr-app", ".ocr-column-a", ".ocr-correct", ".ocr-history"):
        box = page.evaluate(f"(e => [e.scrollWidth, e.clientWidth])(document.querySelector('{place}'))")
        assert box[0] <= 390 and box[0] <= box[1] + 1, (place, box)
    assert not page.outside and not page.errors
    assert page.evaluate("window.pwned") is None


def test_the_address_is_of_this_computer_and_asks_for_its_token(server: Server) -> None:
    import urllib.error
    import urllib.request

    assert re.match(r"http://127\.0\.0\.1:\d+/\?token=[0-9a-f]{30,}$", server.address)
    with urllib.request.urlopen(server.address.split("?")[0]) as answer:
        assert "/login" in answer.url and b"ocr-" not in answer.read()
