"""A page read while somebody looks on: pieces before the end, a stop, a death, and the next page each time."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from ocrlab.pages import Page, load_pages
from ocrlab.reading.live import LiveReader
from ocrlab.reading.settings import Settings

SHORT = Settings(dtype="float32", max_new_tokens=60)
LONG = replace(SHORT, max_new_tokens=20_000, min_new_tokens=20_000)


@pytest.fixture(scope="module")
def live() -> Iterator[LiveReader]:
    reader = LiveReader()
    reader.prepare(SHORT)
    yield reader
    reader.close()


@pytest.fixture(scope="module")
def page() -> Page:
    return load_pages("documents", limit=1)[0]


def test_the_pieces_are_the_text_and_come_before_it(live: LiveReader, page: Page) -> None:
    assert live.has(SHORT)
    pieces: list[str] = []
    seen = live.read(SHORT, page, pieces.append)
    assert len(pieces) > 1 and "".join(pieces).strip() == seen.reading.text
    assert seen.reading.tokens > 10 and seen.actual["actual_dtype"] == "float32" and not seen.died


def test_looking_on_changes_no_text(live: LiveReader, page: Page) -> None:
    from ocrlab.reading.open import open_reader

    with open_reader(SHORT) as reader:
        assert live.read(SHORT, page, lambda _: None).reading.text == reader.read(page).text


def test_a_stop_is_obeyed_and_the_model_stays(live: LiveReader, page: Page) -> None:
    before, asked = live.worker.pid, []

    def stop(_: str) -> None:
        if not asked:
            asked.append(time.perf_counter())
            threading.Thread(target=live.stop).start()

    seen = live.read(LONG, page, stop)
    assert time.perf_counter() - asked[0] < 5
    assert seen.reading.status == "error" and "cancelled after" in seen.reading.reason and seen.reading.text
    again = live.read(SHORT, page, lambda _: None)
    assert again.reading.tokens and "cancelled" not in again.reading.reason and live.worker.pid == before


def test_with_beams_there_are_no_pieces(live: LiveReader, page: Page) -> None:
    pieces: list[str] = []
    seen = live.read(replace(SHORT, num_beams=2, max_new_tokens=8), page, pieces.append)
    assert not pieces and seen.reading.text


def test_what_cannot_be_loaded_says_so_and_the_next_page_is_read(live: LiveReader, page: Page) -> None:
    seen = live.read(replace(SHORT, model_id="/no/such/folder"), page, lambda _: None)
    assert seen.reading.status == "unsupported" and "no such folder" in seen.reading.reason and not seen.died
    assert live.read(SHORT, page, lambda _: None).reading.text


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
def test_a_process_that_is_killed_says_so_and_the_next_page_is_read(live: LiveReader, page: Page) -> None:
    seen = live.read(LONG, page, lambda _: os.kill(live.worker.pid or 0, signal.SIGKILL))
    assert seen.died and seen.reading.status == "crashed" and "SIGKILL" in seen.reading.reason
    assert not live.has(SHORT)
    assert live.read(SHORT, page, lambda _: None).reading.text and live.has(SHORT)
