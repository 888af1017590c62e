"""Servers as they are: answers in the forms of seven of them, each fault a row with a reason, and nothing hangs."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image, ImageChops

from ocrlab.pages import Page, load_pages
from ocrlab.reading import isolated, server_client, server_reader
from ocrlab.reading.isolated import PageResult
from ocrlab.reading.reader import open_reader
from ocrlab.reading.server_client import EndpointError, faults
from ocrlab.reading.settings import Settings
from ocrlab.scoring.outcomes import STATUSES
from ocrlab.study.records import reading_record, rows_of
from tests.reading.fake_server import FACTOR, Fake, answer, begin, cut, fake_server, replay, reply, send, status

SERVERS = yaml.safe_load(Path(__file__).with_name("server_answers.yaml").read_text(encoding="utf-8"))
CASES = [(server, name) for server, known in SERVERS.items() for name in known["faults"]]


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_client, "PAUSE_S", 0.01)
    monkeypatch.setattr(server_client, "READY_S", 0.2)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture(scope="module")
def pages() -> list[Page]:
    return load_pages("lines", limit=4)


def like(server: str, **options: Any) -> Any:
    return fake_server(answers=SERVERS[server]["answers"], **options)


def settings(fake: Fake, **changes: Any) -> Settings:
    return Settings(model_id=fake.model_id, max_new_tokens=64, **changes)


def keepalive(handler: Any) -> None:
    begin(handler, [])
    while True:
        send(handler, ": keepalive\n\n")
        handler.server.stopped.wait(0.05)


def turn_of(fault: dict[str, Any]) -> Any:
    if "keepalive" in fault:
        return keepalive
    if "chunks" in fault:
        return replay(fault["chunks"])
    return lambda handler: reply(handler, fault["status"], fault["body"])


@pytest.mark.parametrize(("server", "name"), CASES, ids=[f"{server}: {name}" for server, name in CASES])
def test_a_fault_costs_its_page_and_says_why(
    server: str, name: str, pages: list[Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = SERVERS[server]["faults"][name]
    with like(server) as fake, open_reader(settings(fake)) as reader:
        assert reader.actual["actual_server"] == server
        if "keepalive" in fault:
            monkeypatch.setattr(server_client, "PAGE_S", 0.5)
        always = fault.get("status") == 503
        fake.turns = [answer, *[turn_of(fault)] * (400 if always else fault.get("times", 1))]
        first, found = reader.read(pages[0]), reader.read(pages[1])
        fake.turns = []
        last = reader.read(pages[2])
    assert (first.status, last.status) == ("ok", "ok"), "the run goes on"
    assert found.page == pages[1].id and found.status == fault["gives"], found
    assert found.text == fault.get("text", found.text) and re.search(fault.get("says", ""), found.reason), found.reason
    assert found.reason or found.status == "ok", "a reason for every failure"
    assert "reasoning" not in found.text and ("thinking" not in name or found.text in {"", "Total 6.20"})


def test_the_fixtures_cover_the_kinds_of_faults() -> None:
    given = {fault["gives"] for known in SERVERS.values() for fault in known["faults"].values()}
    assert given <= set(STATUSES) and {"ok", "oom", "error", "empty", "truncated", "crashed", "timeout"} <= given
    for known in SERVERS.values():
        assert any(name.startswith("well") for name in known["faults"])


def test_every_known_fault_of_servers_has_a_remedy_for_every_kind() -> None:
    for fault in faults()["does_not_fit"]:
        assert re.compile(fault["says"]) and "max_pixels" in fault["remedy"] and fault["reference"]
    for kind in faults()["owners"].values():
        for name in ("thinking", "context", "same_text"):
            assert server_client.remedy(name, kind)


def test_what_does_not_fit_is_read_at_fewer_pixels(pages: list[Page], monkeypatch: pytest.MonkeyPatch) -> None:
    with like("vllm") as fake, open_reader(settings(fake)) as reader:
        most = reader.size_of(pages[0]) * FACTOR**2
        too_large = SERVERS["vllm"]["faults"]["image above the encoder's cache"]

        def small_only(handler: Any) -> None:
            too_many = handler.image.width * handler.image.height > most * 0.6
            (turn_of(too_large) if too_many else answer)(handler)

        reported: list[list[PageResult]] = []
        monkeypatch.setattr(isolated, "reader_here", lambda _: reader)
        monkeypatch.setattr(isolated, "report", reported.append)
        monkeypatch.setattr(isolated, "ask", lambda _: None)
        for fewer in (True, False):
            fake.turns = [small_only] * 3
            isolated._read(settings(fake), pages[:1], 0, fewer_pixels=fewer)
        reader.builder = reader.builder.__class__(None, None, None)
        monkeypatch.setattr(reader, "_trials", dict.fromkeys(reader._trials, (None, None)))
        fake.turns = [turn_of(too_large)]
        isolated._read(settings(fake), pages[:1], 0, fewer_pixels=True)
    small, refused, unknown = (results[0] for results in reported if results)
    assert small.reading.text == "read well" and small.actual["actual_max_pixels"] == most // 2
    assert f"too large for the server at {most} pixels" in small.reading.retried
    assert refused.reading.status == unknown.reading.status == "oom" and "4800" in refused.reading.reason
    assert "4800" in unknown.reading.reason and "how large an image token is" in unknown.reading.reason


def test_a_cache_that_looks_at_the_prompt_alone_is_found_when_the_server_is_opened(
    pages: list[Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "Page one, read for every page"
    with like("mlx", copies=True, text=text) as fake:
        with pytest.raises(EndpointError, match=r"two images with different words.*--disable-prefix-cache") as caught:
            open_reader(settings(fake))
        monkeypatch.setenv(server_reader.UNCHECKED, "1")
        asked = settings(fake)
        with open_reader(asked) as reader:
            made = [(page, reader.read(replace(page, truth=None))) for page in pages[:2]]
    assert text in str(caught.value) and server_reader.UNCHECKED in str(caught.value)
    records = [
        reading_record("e", page.id, asked, replace(page, truth=None), PageResult(reading)) for page, reading in made
    ]
    assert [row["status"] for row in rows_of(records)] == ["ok"] * 2
    assert all(row["copied"] for row in rows_of(records)), "and rows say so afterwards"


def test_a_model_that_reads_nothing_of_both_images_is_not_taken_for_a_cache() -> None:
    with like("mlx", copies=True, text="") as fake, open_reader(settings(fake)) as reader:
        assert reader.actual["actual_context_tokens"] is None


def test_a_server_that_is_ready_late_is_waited_for_and_one_that_never_is_gives_a_reason(pages: list[Page]) -> None:
    with like("llama.cpp", not_ready=3) as fake, open_reader(settings(fake)) as reader:
        assert reader.actual["actual_server"] == "llama.cpp" and reader.actual["actual_context_tokens"] == 4096
        assert reader.read(pages[0]).status == "ok"
    with (
        like("llama.cpp", not_ready=10**6) as fake,
        pytest.raises(EndpointError, match=r"Loading model.*not ready") as e,
    ):
        open_reader(settings(fake))
    assert e.value.status == "timeout" and "OCRLAB_SERVER_READY_S" in str(e.value)


@pytest.mark.parametrize("server", SERVERS)
def test_one_that_dies_between_pages_costs_the_rows_after_it(server: str, pages: list[Page]) -> None:
    with like(server) as fake, open_reader(settings(fake)) as reader:
        fake.turns = [answer, *[cut] * server_client.TRIES]
        readings = [reader.read(pages[0]), reader.read(pages[1])]
        fake.stop()
        readings += reader.read(pages[2:4])
    assert [reading.status for reading in readings] == ["ok", "crashed", "crashed", "crashed"]
    assert all(fake.url in reading.reason for reading in readings[1:])


def test_an_early_length_is_a_full_context_though_the_server_does_not_tell_its_size(pages: list[Page]) -> None:
    early = SERVERS["llama.cpp"]["faults"]["context full before the cap"]
    with like("mlx", turns=[turn_of(early)]) as fake, open_reader(settings(fake)) as reader:
        reading = reader.read(pages[0])
    assert reading.status == "truncated" and "context was full: 4056" in reading.reason


def test_a_busy_server_is_not_one_that_loads(pages: list[Page]) -> None:
    with like("vllm") as fake, open_reader(settings(fake)) as reader:
        fake.turns = [status(503, "The server is overloaded")] * server_client.TRIES
        assert reader.read(pages[0]).status == "error" and len(fake.bodies) == server_client.TRIES


def test_a_server_gets_upright_pixels(pages: list[Page], tmp_path: Path) -> None:
    sideways = Image.Exif()
    sideways[274] = 6  # turn by 90 degrees clockwise to see it upright
    image = pages[0].open()
    image.rotate(90, expand=True).save(tmp_path / "p.png", exif=sideways)
    with fake_server() as fake, open_reader(settings(fake)) as reader:
        assert reader.read(replace(pages[0], file=tmp_path / "p.png")).status == "ok"
        (sent,) = fake.images
    assert not ImageChops.difference(sent, image).getbbox() and not sent.getexif()
