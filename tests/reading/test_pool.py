"""Several readers on one queue: nothing lost, nothing doubled, whatever becomes of a worker."""

from __future__ import annotations

import collections
import functools
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from ocrlab.commands.library import make_batches, plan_items
from ocrlab.pages import Page, load_pages
from ocrlab.reading import isolated
from ocrlab.reading.isolated import PageResult, Refused
from ocrlab.reading.pool import PoolDown, ReaderPool
from ocrlab.reading.reader import open_reader
from ocrlab.reading.result import Reading
from ocrlab.reading.settings import Settings

posix = pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
SETTINGS = Settings(dtype="float32", max_new_tokens=64)
TWO = replace(SETTINGS, batch_size=4)


def batches_of(pages: list[Page], settings: Settings) -> list[list[Page]]:
    return make_batches(plan_items(settings, pages, [None] * len(pages)), settings.batch_size)


def pids(pool: ReaderPool) -> list[int]:
    return [reader.worker.pid for reader in pool.readers if reader.worker.pid is not None]


def read_all(pool: ReaderPool, pages: list[Page], settings: Settings) -> list[Reading]:
    return [result.reading for results in pool.stream(batches_of(pages, settings)) for result in results]


@pytest.fixture(scope="module")
def pool() -> Iterator[ReaderPool]:
    with ReaderPool(TWO, ["cpu", "cpu"], processes=1) as shared:
        yield shared
        before = pids(shared)
    assert before and not pids(shared) and not any(psutil.pid_exists(pid) for pid in before)


def test_two_workers_read_what_one_reader_reads(pool: ReaderPool) -> None:
    pages = load_pages("lines", limit=21)
    with open_reader(SETTINGS) as reader:
        alone = {reading.page: reading.text for reading in reader.read(pages)}
    readings = read_all(pool, pages, TWO)
    assert len(pids(pool)) == 2 and not pool.troubles
    assert {reading.page: reading.text for reading in readings} == alone and len(readings) == len(pages)
    for reading in readings:
        assert reading.generate_s and reading.wait_s is not None and reading.prepare_s
        assert reading.page_s == pytest.approx((reading.wait_s + reading.generate_s) / reading.batch_pages)


def test_bad_pages_cost_themselves_only(pool: ReaderPool, tmp_path: Path) -> None:
    good = load_pages("lines", limit=3)
    (tmp_path / "zero.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("no image")
    pages = [good[0], *load_pages(tmp_path), *good[1:]]
    before = pids(pool)
    statuses = {reading.page: reading.status for reading in read_all(pool, pages, TWO)}
    assert pids(pool) == before
    assert statuses.pop("zero.png") == statuses.pop("text.png") == "error"
    assert set(statuses.values()) == {"ok"} and len(statuses) == 3


@posix
def test_workers_killed_at_random_lose_and_double_nothing(pool: ReaderPool) -> None:
    pages = [replace(page, id=f"{page.id}-{copy}") for copy in range(4) for page in load_pages("lines", limit=80)]
    rng, killed, batches = random.Random(7), set[int](), 0
    counts: collections.Counter[str] = collections.Counter()
    for results in pool.stream(batches_of(pages, TWO)):
        counts.update(result.reading.page for result in results)
        assert {result.reading.status for result in results} <= {"ok", "truncated", "loop", "empty"}
        batches += len(results) > 1
        # Not at once again: a page at which its process ends three times would rightly be left out.
        if len(killed) < 20 and batches >= 2 and rng.random() < 0.6 and (alive := set(pids(pool)) - killed):
            killed.add(victim := rng.choice(sorted(alive)))
            os.kill(victim, signal.SIGKILL)
            batches = 0
    assert len(killed) == 20 and counts == dict.fromkeys((page.id for page in pages), 1)
    read_all(pool, pages[:16], TWO)
    assert len(set(pids(pool)) - killed) == 2, "a worker that was killed is replaced, also one that was just loading"


@posix
def test_what_prepares_pages_stays_for_the_next_stream_and_is_replaced_when_it_dies() -> None:
    pages = load_pages("lines", limit=6)
    with ReaderPool(SETTINGS, ["cpu"], processes=1) as pool:
        before = {reading.page: reading.text for reading in read_all(pool, pages, SETTINGS)}
        (preparing,) = psutil.Process(pids(pool)[0]).children()
        again = {reading.page: reading.text for reading in read_all(pool, pages, SETTINGS)}
        assert again == before and psutil.Process(pids(pool)[0]).children() == [preparing]
        preparing.kill()
        preparing.wait()
        third = {reading.page: reading.text for reading in read_all(pool, pages, SETTINGS)}
        assert third == before and psutil.Process(pids(pool)[0]).children() not in ([], [preparing])


@posix
def test_what_prepares_pages_takes_another_system_prompt() -> None:
    pages = load_pages("lines", limit=2)
    longer = replace(SETTINGS, system_prompt="Read every word, one line after the other, and be exact.")
    with ReaderPool(SETTINGS, ["cpu"], processes=1) as pool:
        counts = []
        for settings in (SETTINGS, longer, SETTINGS):
            pool.apply(settings)
            counts.append([reading.prompt_tokens for reading in read_all(pool, pages, settings)])
    assert counts[0] == counts[2] and all(one < other for one, other in zip(counts[0], counts[1], strict=True))


_open_here = isolated.open_here


def die_once(marker: Path, settings: Settings, threads: int | None) -> tuple[dict[str, Any], float | None]:
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return _open_here(settings, threads)


@posix
def test_a_worker_killed_while_idle_and_again_while_it_loads_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = load_pages("lines", limit=4)
    with ReaderPool(SETTINGS, ["cpu"], processes=1) as pool:
        before = {reading.page: reading.text for reading in read_all(pool, pages, SETTINGS)}
        os.kill(pids(pool)[0], signal.SIGKILL)
        while pool.readers[0].worker.alive:
            time.sleep(0.01)
        monkeypatch.setattr("ocrlab.reading.isolated.open_here", functools.partial(die_once, tmp_path / "died"))
        assert {reading.page: reading.text for reading in read_all(pool, pages, SETTINGS)} == before
        assert (tmp_path / "died").exists() and ["SIGKILL" in trouble for trouble in pool.troubles] == [True]


class Fatal(Page):
    """A page that ends whoever opens it."""

    def open(self, *_):
        os.kill(os.getpid(), signal.SIGKILL)


class Endless(Page):
    """A page that is never opened."""

    def open(self, *_):
        threading.Event().wait()


@posix
def test_a_page_that_kills_or_never_ends_is_marked_and_the_others_are_read(pool: ReaderPool) -> None:
    pages = load_pages("lines", limit=12)
    pages.insert(5, Fatal(**{**vars(pages[5]), "id": "fatal"}))
    pages.insert(2, Endless(**{**vars(pages[5]), "id": "endless"}))
    for reader in pool.readers:
        reader.page_timeout_s = 12
    readings = {reading.page: reading for reading in read_all(pool, pages, TWO)}
    for reader in pool.readers:
        reader.page_timeout_s = None
    assert len(readings) == 14
    assert readings["fatal"].status == "crashed" and "twice at this page" in readings["fatal"].reason
    assert readings["endless"].status == "timeout" and "within 12 s" in readings["endless"].reason
    assert {reading.status for name, reading in readings.items() if name not in {"fatal", "endless"}} == {"ok"}


def test_stop_finishes_what_is_in_hand_and_the_fleet_can_go_on(pool: ReaderPool) -> None:
    pages = load_pages("lines", limit=40)
    results = iter(pool.stream(batches_of(pages, TWO)))
    first = next(results)
    pool.stop()
    rest = [result for more in results for result in more]
    assert len(first) == 4 and len(rest) <= 8
    assert len(read_all(pool, pages[:4], TWO)) == 4


def test_settings_that_cannot_be_are_refused_and_one_good_worker_is_enough() -> None:
    pages = load_pages("lines", limit=2)
    with ReaderPool(SETTINGS, ["cuda:7"]) as pool, pytest.raises(Refused, match="cuda:7"):
        read_all(pool, pages, SETTINGS)
    with ReaderPool(SETTINGS, ["cuda:7", "cpu"]) as pool:
        assert len(read_all(pool, pages, SETTINGS)) == 2
        assert "cuda:7" in pool.troubles[0]


@posix
def test_a_worker_that_dies_again_and_again_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ocrlab.reading.pool.DEATHS_IN_A_ROW", 2)
    pages = [Fatal(**{**vars(page), "id": str(i)}) for i, page in enumerate(load_pages("lines", limit=8))]
    with ReaderPool(SETTINGS, ["cpu"], processes=0) as pool, pytest.raises(PoolDown, match="pages are not read"):
        read_all(pool, pages, SETTINGS)


def test_fewer_pixels_where_a_page_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    page = load_pages("labels", limit=1)[0]
    reported: list[list[PageResult]] = []
    with open_reader(SETTINGS) as reader:
        most = reader.size_of(page) * reader.builder.cell_pixels
        generate = reader.model.generate

        def small_only(**kwargs):
            if kwargs["pixel_values"].shape[0] * reader.builder.image_processor.patch_size**2 > most * 0.6:
                raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")
            return generate(**kwargs)

        monkeypatch.setattr(reader.model, "generate", small_only)
        monkeypatch.setattr(isolated, "reader_here", lambda _: reader)
        monkeypatch.setattr(isolated, "report", reported.append)
        monkeypatch.setattr(isolated, "ask", lambda _: None)
        isolated._read(SETTINGS, [page], 0, fewer_pixels=True)
        isolated._read(SETTINGS, [page], 0, fewer_pixels=False)
    (found,), (unread,) = [results for results in reported if results]
    smaller, actual = found.reading, found.actual
    assert smaller.status == "ok" and actual["actual_max_pixels"] == most // 2
    assert f"out of memory at {most} pixels" in smaller.retried and smaller.image_tokens * 2 <= reader.size_of(page) + 8
    refused, actual = unread.reading, unread.actual
    assert refused.status == "oom" and actual["actual_max_pixels"] > most


def test_out_of_memory_halves_the_batch_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = load_pages("lines", limit=8)
    with open_reader(replace(SETTINGS, batch_size=8)) as reader:
        whole = {reading.page: reading.text for reading in reader.read(pages)}
        generate = reader.model.generate

        def at_most_two(**kwargs):
            if len(kwargs["input_ids"]) > 2:
                raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")
            return generate(**kwargs)

        monkeypatch.setattr(reader.model, "generate", at_most_two)
        readings = reader.read(pages)
    assert {reading.page: reading.text for reading in readings} == whole
    assert {reading.batch_pages for reading in readings} == {2}
    assert {reading.retried for reading in readings} == {"oom in a batch of 4, read in one of 2"}
