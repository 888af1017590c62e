"""Pages that kill the process that reads them cost their own row only."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path

import psutil
import pytest
from PIL import Image

from ocrlab.pages import Page, load_pages
from ocrlab.reading.served import Refused, ServedReader
from ocrlab.reading.settings import Settings
from ocrlab.study.experiment import run_experiment

BASE = Settings(dtype="float32", max_new_tokens=6)


@dataclass(frozen=True)
class Trap(Page):
    """A page that does something to the process that opens it; `licence` says what, `degradation` where it notes it."""

    def open(self) -> Image.Image:
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
    with ServedReader(replace(BASE, batch_size=3)) as reader:
        readings = {reading.page: reading.status for reading in reader.stream(mined)}
    assert readings.pop("trap kill") == "crashed"
    assert set(readings.values()) <= {"ok", "truncated"} and len(readings) == 2


def test_an_ordinary_exception_is_an_error_without_a_second_try(pages: list[Page], tmp_path: Path) -> None:
    with ServedReader(BASE) as reader:
        starts = reader._worker.starts
        bug, good = reader.stream([trap(pages[0], "bug", tmp_path / "a"), pages[1]])
        assert reader._worker.starts == starts, "the process was still healthy"
    assert bug.status == "error" and "own mistake" in bug.reason and "twice" not in bug.reason
    assert good.status in {"ok", "truncated"}


def test_batches_come_as_they_are_where_the_process_dies_before_sizes_are_known(pages: list[Page]) -> None:
    with ServedReader(replace(BASE, batch_size=2)) as reader:
        reader._worker.close()
        readings = list(reader.stream(pages))
    assert {reading.page for reading in readings} == {page.id for page in pages}
    assert {reading.status for reading in readings} <= {"ok", "truncated"}


def test_a_page_that_hangs_is_a_timeout(pages: list[Page], tmp_path: Path) -> None:
    with ServedReader(BASE, page_timeout_s=5) as reader:
        readings = list(reader.stream([trap(pages[0], "hang", tmp_path / "a"), pages[1]]))
    assert readings[0].status == "timeout"
    assert readings[1].status in {"ok", "truncated"}


def test_the_same_model_serves_settings_and_pages(pages: list[Page]) -> None:
    with ServedReader(BASE) as reader:
        first = reader.load_s
        one = next(reader.stream(pages[:1]))
        reader.apply(replace(BASE, max_pixels=4096))
        assert reader.load_s == first and reader.actual["actual_max_pixels"] == 4096
        assert next(reader.stream(pages[:1])).image_tokens <= one.image_tokens


def test_what_cannot_be_put_in_force_is_refused_with_a_status() -> None:
    with pytest.raises(Refused, match="no such folder") as caught:
        ServedReader(replace(BASE, model_id="/no/such/model"))
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
        with ServedReader(Settings(dtype="float32", max_new_tokens=2, **asked)) as reader:
            (reading,) = reader.stream(load_pages("lines", limit=1))
            status, reason = reading.status, reading.reason
    except Refused as error:
        status, reason = error.status, str(error)
    assert status == "unsupported" and "use attn_implementation" in reason
    assert set(psutil.Process().children(recursive=True)) <= before
