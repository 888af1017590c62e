"""Pages that kill their process cost their own row; a page that is looked at tells its text, and obeys a stop."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

import psutil
import pytest
from PIL import Image

from ocrlab.pages import Page, load_pages
from ocrlab.reading.isolated import IsolatedReader, Refused
from ocrlab.reading.pool import ReaderPool
from ocrlab.reading.reader import open_reader
from ocrlab.reading.result import Reading
from ocrlab.reading.settings import Settings
from ocrlab.study.experiment import run_experiment

BASE = Settings(dtype="float32", max_new_tokens=6)


@dataclass(frozen=True)
class Trap(Page):
    """A page that does something to the process that opens it; `licence` says what, `degradation` where it notes it."""

    def open(self, *_: object) -> Image.Image:
        noted = Path(self.degradation)
        first = not noted.exists()
        noted.write_text("opened", encoding="utf-8")
        if self.licence == "kill" or (self.licence == "kill once" and first):
            os.kill(os.getpid(), signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
            time.sleep(5)
        if self.licence == "hang":
            time.sleep(300)
        if self.licence == "assert":
            raise RuntimeError("CUDA error: device-side assert triggered")
        if self.licence == "bug":
            raise KeyError("a decoder's own mistake")
        return super().open()


def trap(page: Page, does: str, note: Path) -> Trap:
    values = {field.name: getattr(page, field.name) for field in fields(Page)}
    return Trap(**values | {"licence": does, "degradation": str(note), "id": f"trap {does}"})


def readings_of(pool: ReaderPool, pages: list[Page]) -> list[Reading]:
    return [result.reading for result in pool.read(pages)]


@pytest.fixture(scope="module")
def pages() -> list[Page]:
    return load_pages("lines", limit=4)


def test_a_page_that_kills_costs_its_row_only(pages: list[Page], tmp_path: Path) -> None:
    kinds = ("kill", "kill once", "assert")
    traps = [trap(pages[i], kind, tmp_path / str(i)) for i, kind in enumerate(kinds)]
    mined = [pages[0], *traps, pages[3]]
    rows = run_experiment("x", [BASE], mined, folder=tmp_path).set_index("page")
    assert rows.loc["trap kill", "status"] == "crashed" and "SIGKILL" in rows.loc["trap kill", "reason"]
    assert "twice" in rows.loc["trap kill", "reason"]
    assert rows.loc["trap assert", "status"] == "crashed" and "device-side" in rows.loc["trap assert", "reason"]
    others = rows["status"].drop(["trap kill", "trap assert"])
    assert len(others) == 3 and "crashed" not in set(others), "the others were read, one at its second try"


def test_a_death_in_the_middle_of_a_batch(pages: list[Page], tmp_path: Path) -> None:
    mined = [pages[0], trap(pages[1], "kill", tmp_path / "a"), pages[2]]
    with ReaderPool(replace(BASE, batch_size=3)) as reader:
        readings = {result.reading.page: result.reading.status for result in reader.read(mined)}
    assert readings.pop("trap kill") == "crashed"
    assert set(readings.values()) <= {"ok", "truncated"} and len(readings) == 2


def test_an_ordinary_exception_is_an_error_without_a_second_try(pages: list[Page], tmp_path: Path) -> None:
    with ReaderPool(BASE) as reader:
        bug, good = readings_of(reader, [trap(pages[0], "bug", tmp_path / "a"), pages[1]])
        assert reader.readers[0].worker.starts == 1, "the process was still healthy"
    assert bug.status == "error" and "own mistake" in bug.reason and "twice" not in bug.reason
    assert good.status in {"ok", "truncated"}


def test_a_process_that_died_between_pages_is_replaced(pages: list[Page]) -> None:
    with ReaderPool(replace(BASE, batch_size=2)) as reader:
        readings_of(reader, pages[:1])
        psutil.Process(reader.readers[0].worker.pid).kill()
        readings = readings_of(reader, pages)
    assert {reading.page for reading in readings} == {page.id for page in pages}
    assert {reading.status for reading in readings} <= {"ok", "truncated"}


def test_a_page_that_hangs_is_a_timeout(pages: list[Page], tmp_path: Path) -> None:
    with ReaderPool(BASE, page_timeout_s=12) as reader:
        readings = readings_of(reader, [trap(pages[0], "hang", tmp_path / "a"), pages[1]])
    assert readings[0].status == "timeout"
    assert readings[1].status in {"ok", "truncated"}


def test_the_same_model_serves_settings_and_pages(pages: list[Page]) -> None:
    with ReaderPool(BASE) as reader:
        (one,) = reader.read(pages[:1])
        reader.apply(replace(BASE, max_pixels=4096))
        (other,) = reader.read(pages[:1])
        assert other.load_s == one.load_s and other.actual["actual_max_pixels"] == 4096
        assert other.reading.image_tokens <= one.reading.image_tokens


def test_what_cannot_be_put_in_force_is_refused_with_a_status() -> None:
    with pytest.raises(Refused, match="no such folder") as caught:
        IsolatedReader().apply(replace(BASE, model_id="/no/such/model"))
    assert caught.value.status == "unsupported"


@pytest.mark.gpu
def test_a_real_device_side_assert_and_a_healthy_next_page(pages: list[Page]) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    from ocrlab.machine.worker import Worker
    from tests.machine import deaths

    with Worker() as worker:
        assert worker.call(deaths.device_assert).kind == "assert"
        assert worker.call(deaths.cuda_sum).value == 3.0


@pytest.mark.parametrize("asked", [{"sdpa_kernel": "cudnn"}, {"attn_implementation": "flex_attention"}])
def test_a_kernel_that_is_not_here_is_unsupported_and_leaves_no_process(asked: dict) -> None:
    before = set(psutil.Process().children(recursive=True))
    try:
        with ReaderPool(Settings(dtype="float32", max_new_tokens=2, **asked)) as reader:
            (reading,) = readings_of(reader, load_pages("lines", limit=1))
            status, reason = reading.status, reading.reason
    except Refused as error:
        status, reason = error.status, str(error)
    assert status == "unsupported" and "use attn_implementation" in reason
    assert set(psutil.Process().children(recursive=True)) <= before


SHORT = Settings(dtype="float32", max_new_tokens=60)
LONG = replace(SHORT, max_new_tokens=20_000, min_new_tokens=20_000)


@pytest.fixture(scope="module")
def live() -> Iterator[IsolatedReader]:
    reader = IsolatedReader()
    reader.apply(SHORT)
    yield reader
    reader.close()


@pytest.fixture(scope="module")
def page() -> Page:
    return load_pages("documents", limit=1)[0]


def test_the_pieces_are_the_text_and_come_before_it(live: IsolatedReader, page: Page) -> None:
    assert live.has(SHORT)
    pieces: list[str] = []
    seen = live.look(SHORT, page, pieces.append)
    assert len(pieces) > 1 and "".join(pieces).strip() == seen.reading.text
    assert seen.reading.tokens > 10 and seen.actual["actual_dtype"] == "float32" and not seen.died


def test_looking_on_changes_no_text(live: IsolatedReader, page: Page) -> None:
    with open_reader(SHORT) as reader:
        assert live.look(SHORT, page, lambda _: None).reading.text == reader.read(page).text


def test_a_stop_is_obeyed_and_the_model_stays(live: IsolatedReader, page: Page) -> None:
    before, asked = live.worker.pid, []

    def stop(_: str) -> None:
        if not asked:
            asked.append(True)
            threading.Thread(target=live.stop).start()

    seen = live.look(LONG, page, stop)
    assert seen.reading.status == "error" and "cancelled after" in seen.reading.reason and seen.reading.text
    assert seen.reading.tokens < LONG.max_new_tokens
    again = live.look(SHORT, page, lambda _: None)
    assert again.reading.tokens and "cancelled" not in again.reading.reason and live.worker.pid == before


def test_with_beams_there_are_no_pieces(live: IsolatedReader, page: Page) -> None:
    pieces: list[str] = []
    seen = live.look(replace(SHORT, num_beams=2, max_new_tokens=8), page, pieces.append)
    assert not pieces and seen.reading.text


def test_what_cannot_be_loaded_says_so_and_the_next_page_is_read(live: IsolatedReader, page: Page) -> None:
    seen = live.look(replace(SHORT, model_id="/no/such/folder"), page, lambda _: None)
    assert seen.reading.status == "unsupported" and "no such folder" in seen.reading.reason and not seen.died
    assert live.look(SHORT, page, lambda _: None).reading.text


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
def test_a_process_that_is_killed_says_so_and_the_next_page_is_read(live: IsolatedReader, page: Page) -> None:
    seen = live.look(LONG, page, lambda _: os.kill(live.worker.pid or 0, signal.SIGKILL))
    assert seen.died and seen.reading.status == "crashed" and "SIGKILL" in seen.reading.reason
    assert not live.has(SHORT)
    assert live.look(SHORT, page, lambda _: None).reading.text and live.has(SHORT)
