"""A model on a server: the same texts as in this process, and every way in which a server fails becomes words."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import ImageChops

from ocrlab.commands.cli import main
from ocrlab.pages import Page, load_pages
from ocrlab.reading import server_client as client
from ocrlab.reading.checkpoints import CheckpointError, locate
from ocrlab.reading.isolated import IsolatedReader
from ocrlab.reading.limits import predict
from ocrlab.reading.loading import Unsupported
from ocrlab.reading.page_reader import held_in_quarantine
from ocrlab.reading.reader import in_this_process, open_reader
from ocrlab.reading.server_client import EndpointError
from ocrlab.reading.server_reader import ServerReader, compose
from ocrlab.reading.settings import SettingError, Settings
from ocrlab.study.experiment import plan_jobs, run_experiment
from tests.experiments.cells import names_of
from tests.reading.fake_server import TEXT_TOKENS, Fake, answer, begin, cut, end, fake_server, reply, send, status

ENGINES = names_of("10-engines")
CLOSED = "endpoint:http://127.0.0.1:9/v1#m"  # the port of `discard`, where nothing listens


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PAUSE_S", 0.01)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture(scope="module")
def pages() -> list[Page]:
    return load_pages("lines", limit=8)


def settings(fake: Fake, **changes: Any) -> Settings:
    return Settings(model_id=fake.model_id, max_new_tokens=16, **changes)


@pytest.mark.parametrize(
    "url, words",
    [
        ("http://127.0.0.1:8000/v1", "name the model after a #"),
        ("ftp://127.0.0.1/v1#m", "http or https"),
        ("127.0.0.1:8000#m", "http or https"),
        ("http://127.0.0.1:99999999/v1#m", "http or https"),
        ("http://127.0.0.1/v1?key=1#m", "no query"),
    ],
)
def test_an_address_that_cannot_be_is_refused_with_the_form(url: str, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        Settings(model_id=f"endpoint:{url}")


def test_a_password_is_refused_and_not_repeated() -> None:
    with pytest.raises(SettingError, match="OPENAI_API_KEY") as caught:
        Settings(model_id="endpoint:http://me:hunter2@127.0.0.1:8000/v1#m")
    assert "hunter2" not in str(caught.value)


def test_what_is_sent_depends_on_its_kind() -> None:
    asked = Settings(model_id=CLOSED, max_new_tokens=50)
    assert compose(asked, "vllm").body == {"max_tokens": 50, "temperature": 0, "repetition_penalty": 1.0}
    assert compose(asked, "unknown").body == {"max_tokens": 50, "temperature": 0}
    body = compose(replace(asked, num_beams=2, min_new_tokens=5), "transformers").body
    assert body["max_tokens"] == 50
    assert json.loads(body["generation_config"]) == {
        "do_sample": False,
        "num_beams": 2,
        "repetition_penalty": 1.0,
        "no_repeat_ngram_size": 0,
        "min_new_tokens": 5,
    }
    sampled = compose(replace(asked, do_sample=True, temperature=0.5, top_k=3, seed=7), "sglang").body
    assert sampled == {"max_tokens": 50, "temperature": 0.5, "top_k": 3, "repetition_penalty": 1.0, "seed": 7}
    assert compose(replace(asked, min_new_tokens=9), "vllm").body["min_tokens"] == 9


@pytest.mark.parametrize(
    "changes, kind",
    [
        ({"dtype": "float32"}, "transformers"),
        ({"attn_implementation": "eager"}, "vllm"),
        ({"device": "cpu"}, "vllm"),
        ({"weights": "dummy"}, "vllm"),
        ({"num_beams": 4}, "vllm"),
        ({"no_repeat_ngram_size": 3}, "sglang"),
        ({"repetition_penalty": 1.2}, "unknown"),
        ({"min_new_tokens": 4}, "unknown"),
        ({"cache_implementation": "static"}, "vllm"),
    ],
)
def test_what_was_asked_for_and_cannot_be_sent_is_refused(changes: dict[str, Any], kind: Any) -> None:
    name = next(iter(changes))
    with pytest.raises(Unsupported, match=f"{name}=.*leave"):
        compose(Settings(model_id=CLOSED, **changes), kind)


def test_a_reading_and_what_is_known_of_it(pages: list[Page]) -> None:
    with fake_server() as fake, open_reader(settings(fake)) as reader:
        reading = reader.read(pages[0])
        assert isinstance(reader, ServerReader) and reader.weight_bytes is None and reader.load_s > 0
        assert (reading.text, reading.status, reading.tokens) == ("read well", "ok", 2)
        assert reading.prompt_tokens - reading.image_tokens == TEXT_TOKENS
        assert reading.ttft_s is not None and reading.page_s is not None and reading.vision_s is None
        assert not ImageChops.difference(fake.images[0], pages[0].open()).getbbox()
        assert reader.actual["actual_dtype"] is None and reader.actual["actual_repetition_penalty"] == 1.0
        assert {"dtype", "max_pixels", "num_beams"} <= set(reader.actual["actual_not_read_back"].split(", "))
        assert "max_new_tokens" in reader.actual["actual_sent"]
        assert reader.actual["actual_server"] == "vllm" and reader.actual["actual_revision"] == "vllm: m"
        with pytest.raises(Unsupported, match="on a server"):
            in_this_process(reader)


def test_the_system_prompt_is_a_message_of_its_own(pages: list[Page]) -> None:
    with fake_server() as fake, open_reader(settings(fake, prompt="Read.", system_prompt="Be exact.")) as reader:
        assert reader.read(pages[0]).status == "ok"
        reader.apply(settings(fake, prompt="Read."))
        assert reader.read(pages[0]).status == "ok"
    (system, asked), (alone,) = [body["messages"] for body in fake.bodies]
    assert system == {"role": "system", "content": "Be exact."}
    assert asked["role"] == alone["role"] == "user" and asked["content"][1] == {"type": "text", "text": "Read."}


def test_pixel_limits_are_kept_here_once(pages: list[Page]) -> None:
    limit = 28 * 28 * 8
    with fake_server() as fake, open_reader(settings(fake, max_pixels=limit)) as reader:
        line, large, small = reader.read([pages[1], pages[0], pages[2]])
        wide, sent, untouched = (image.size for image in fake.images)
        assert (pages[0].open().size, sent) == ((149, 69), (112, 28)) and untouched == pages[2].open().size
        assert large.image_tokens == 4 and reader.actual["actual_max_pixels"] == limit
        # The rule itself keeps a line one token high, and so above the limit: no fault of the server's.
        assert wide == (252, 28) and wide[0] * wide[1] > limit and line.status == small.status == "ok"


def test_a_server_that_takes_more_pixels_or_tokens_than_asked_is_found_out(pages: list[Page]) -> None:
    def longer(handler: Any) -> None:
        begin(handler, ["a "] * 40)
        end(handler, "stop", 41)

    def larger(handler: Any) -> None:
        handler.image = handler.image.resize((2800, 2800))
        answer(handler)

    with fake_server(turns=[longer, larger]) as fake, open_reader(settings(fake, max_pixels=10_000)) as reader:
        one, other = reader.read(pages[0]), reader.read(pages[0])
    assert one.status == "error" and "asked for 16, but 40 tokens came" in one.reason
    assert other.status == "error" and "asked for 10000, but the server took 7840000 pixels" in other.reason


def test_a_text_is_judged_as_in_this_process(pages: list[Page]) -> None:
    with fake_server(text="round and " * 40) as fake, open_reader(settings(fake)) as reader:
        short = reader.read(pages[0])
        reader.apply(settings(fake, min_new_tokens=16))
        forced = reader.read(pages[0])
        fake.text = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
        reader.apply(settings(fake))
        cut_off = reader.read(pages[0])
        fake.text = ""
        assert reader.read(pages[0]).status == "empty"
    assert short.status == "loop" and "counted in words" in short.reason
    assert forced.status == "ok" and "speed row" in forced.reason
    assert cut_off.status == "truncated" and "after 16 tokens" in cut_off.reason


def test_a_loop_is_seen_though_the_cap_cuts_its_last_word_in_two(pages: list[Page]) -> None:
    def loops(handler: Any) -> None:
        begin(handler, [*["Total 20.54\n"] * 15, "Tot"])
        end(handler, "length", 16)

    with fake_server(turns=[loops]) as fake, open_reader(settings(fake)) as reader:
        assert reader.read(pages[0]).status == "loop"


def test_so_many_requests_are_in_flight_as_asked(pages: list[Page]) -> None:
    with fake_server(seconds=0.1) as fake, open_reader(settings(fake, batch_size=4)) as reader:
        readings = reader.read(pages)
        assert [r.page for r in readings] == [p.id for p in pages] and {r.status for r in readings} == {"ok"}
        assert fake.most_at_once == 4 and readings[0].batch_pages == 4


@pytest.mark.parametrize(
    "turns",
    [
        [status(429)],
        [status(503), status(500)],
        [cut],
        [cut, status(502), cut],
    ],
    ids=["429", "5xx", "cut", "mixed"],
)
def test_what_passes_is_tried_again(turns: list[Callable[[Any], None]], pages: list[Page]) -> None:
    with fake_server(turns=list(turns)) as fake, open_reader(settings(fake)) as reader:
        assert reader.read(pages[0]).text == "read well"
        assert len(fake.bodies) == len(turns) + 1


def test_a_server_s_wish_to_wait_is_kept_within_reason(pages: list[Page], monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    with fake_server(turns=[status(429, Retry_After="7")]) as fake, open_reader(settings(fake)) as reader:
        monkeypatch.setattr(client.time, "sleep", waited.append)
        assert reader.read(pages[0]).status == "ok" and 7 in waited
        for wish in ("86400", "Fri, 31 Dec 2100 23:59:59 GMT"):
            fake.turns = [status(429, "come back tomorrow", Retry_After=wish)]
            reading = reader.read(pages[0])
            assert reading.status == "error" and "come back tomorrow" in reading.reason
            assert "asks to wait" in reading.reason
        assert len(fake.bodies) == 4


def _html(handler: Any) -> None:
    reply(handler, 200, "<html>login please</html>")


def _broken(handler: Any) -> None:
    begin(handler, ["a "])
    send(handler, 'data: {"choices": [\n\n')
    handler.wfile.write(b"0\r\n\r\n")


def _said(handler: Any) -> None:
    begin(handler, ["a "])
    send(handler, 'data: {"error": "CUDA out of memory"}\n\n')
    handler.wfile.write(b"0\r\n\r\n")


def _silent_end(handler: Any) -> None:
    begin(handler, [])
    handler.wfile.write(b"0\r\n\r\n")


def _filtered(handler: Any) -> None:
    begin(handler, ["a "])
    end(handler, "content_filter", 1)


@pytest.mark.parametrize(
    "turn, state, words, tries",
    [
        (status(500, "boom"), "error", "HTTP 500: boom", client.TRIES),
        (status(500, "CUDA out of memory. Tried to allocate"), "oom", "out of memory", 1),
        (cut, "crashed", "connection|broke off", client.TRIES),
        (_silent_end, "crashed", "broke off after 0 pieces", client.TRIES),
        (_html, "error", "text/html", 1),
        (_broken, "error", "not the JSON", 1),
        (_said, "oom", "broke off: .*out of memory", 1),
        (_filtered, "error", "content_filter", 1),
        (status(307, Location="http://127.0.0.1:9/"), "error", "points elsewhere", 1),
        (status(401, "no such key"), "error", "OPENAI_API_KEY", 1),
        (status(413, "too big"), "oom", "lower max_pixels", 1),
        (status(422, "Unexpected fields in the request"), "unsupported", "Unexpected fields", 1),
    ],
    ids=lambda value: getattr(value, "__name__", str(value))[:12],
)
def test_a_failure_is_the_page_s_and_says_where(
    turn: Callable[[Any], None], state: str, words: str, tries: int, pages: list[Page]
) -> None:
    with fake_server() as fake, open_reader(settings(fake)) as reader:
        fake.turns = [turn] * tries
        bad, good = reader.read([pages[0], pages[1]])
        assert bad.status == state and fake.url in bad.reason, bad.reason
        assert re.search(words, bad.reason), bad.reason
        assert good.status == "ok" and len(fake.bodies) == tries + 1


def test_silence_ends_a_page_and_is_not_tried_again(pages: list[Page], monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_server() as fake, open_reader(settings(fake)) as reader:
        monkeypatch.setattr(client, "SILENCE_S", 0.3)
        fake.seconds = 1.0
        reading = reader.read(pages[0])  # with an answer it would be ok
        assert reading.status == "timeout" and fake.url in reading.reason
        assert len(fake.bodies) == 1
        monkeypatch.setattr(client, "SILENCE_S", 30)
        monkeypatch.setattr(client, "PAGE_S", 0.5)
        assert reader.read(pages[0]).status == "timeout"


def test_a_server_that_dies_costs_the_pages_after_it_and_no_patience(pages: list[Page], monkeypatch: Any) -> None:
    monkeypatch.setattr(client, "PAUSE_S", 0.1)
    many = [replace(page, id=f"{page.id}-{n}") for n in range(5) for page in pages]
    with fake_server() as fake, open_reader(settings(fake)) as reader:
        stream = reader.stream(many)
        read = [next(stream) for _ in range(3)]
        fake.stop()
        started = time.monotonic()
        read += list(stream)
        seconds = time.monotonic() - started
    assert [r.status for r in read] == ["ok"] * 3 + ["crashed"] * (len(many) - 3)
    assert all(fake.url in r.reason and "is the server running" in r.reason for r in read[3:])
    assert "3 pages before it failed" in read[6].reason and seconds < 10


def test_a_server_that_comes_back_is_read_from_again(pages: list[Page]) -> None:
    with fake_server() as fake, open_reader(settings(fake)) as reader:
        fake.turns = [cut] * (3 * client.TRIES + 1)
        states = [reading.status for reading in reader.read(pages)]
        fake.turns = [cut, status(503)]
        assert reader.read(pages[0]).status == "ok", "and with all its patience"
    assert states == ["crashed"] * 4 + ["ok"] * 4


def test_a_wrong_name_is_answered_with_what_there_is() -> None:
    with (
        fake_server(always=status(404, "The model `other` does not exist.")) as fake,
        pytest.raises(Unsupported, match=r"does not exist.*it lists m, not 'other'"),
    ):
        open_reader(Settings(model_id=f"endpoint:{fake.url}/v1#other"))


def test_a_wrong_address_is_named() -> None:
    with pytest.raises(EndpointError, match=r"127.0.0.1:9/v1: no connection .*is the server running") as caught:
        open_reader(Settings(model_id=CLOSED))
    assert caught.value.status == "crashed"
    with fake_server() as fake, pytest.raises((EndpointError, Unsupported), match="/v2"):
        fake.always = lambda handler: reply(handler, 404, "<html>no</html>")
        open_reader(Settings(model_id=f"endpoint:{fake.url}/v2#m"))


def test_a_key_comes_from_the_environment_and_goes_nowhere_else(
    pages: list[Page], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with fake_server(turns=[status(401, "wrong key sk-secret")]) as fake:
        rows = run_experiment("keys", [settings(fake), Settings(model_id=CLOSED)], pages[:2], folder=tmp_path)
        assert {header["Authorization"] for header in fake.headers if "Authorization" in header} == {"Bearer sk-secret"}
    assert rows["status"].tolist() == ["error", "ok", "crashed", "crashed"]
    assert "wrong key (key)" in rows["reason"][0] and "no connection" in rows["reason"][2]
    written = "".join(file.read_text(encoding="utf-8") for file in tmp_path.rglob("*.jsonl"))
    assert "sk-secret" not in written + "".join(capfd.readouterr()) and "actual_not_read_back" in written


def test_rows_of_a_server_that_was_not_there_do_not_stand_for_readings(pages: list[Page]) -> None:
    with fake_server() as fake:
        asked = settings(fake)
        (there,) = plan_jobs([asked], pages[:1], 1, read_quarantined=False)
    (gone,) = plan_jobs([asked], pages[:1], 1, read_quarantined=False)
    with fake_server(port=fake.port):
        (back,) = plan_jobs([asked], pages[:1], 1, read_quarantined=False)
    assert there.key == back.key != gone.key


def test_what_needs_a_model_here_says_so() -> None:
    remote = Settings(model_id=CLOSED)
    with pytest.raises(CheckpointError, match="a server holds this model"):
        locate(remote)
    with pytest.raises(CheckpointError, match="a server holds this model"):
        predict(remote, 100)
    assert held_in_quarantine(replace(remote, attn_implementation="eager")) is None


# From here on a real server: transformers' own, with the embedded reader.


@pytest.fixture(scope="module")
def served() -> Iterator[str]:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with ENGINES["running_server"](dtype="float32", device="cpu") as model_id:
        yield model_id


def test_transformers_serve_reads_the_same_as_this_process(served: str) -> None:
    some = load_pages("lines", limit=8) + load_pages("labels", limit=4)
    base = Settings(dtype="float32", max_new_tokens=256, device="cpu")
    there = replace(base, model_id=served, dtype="auto", device="auto")
    with open_reader(base) as reader, open_reader(there) as remote:
        assert remote.actual["actual_server"] == "transformers"
        for changes in (
            {},
            {"batch_size": 4},
            {"max_pixels": 8192},
            {"repetition_penalty": 1.3},
            {"system_prompt": "Be exact."},
        ):
            reader.apply(replace(base, **changes))
            remote.apply(replace(there, **changes))
            for one, other in zip(reader.read(some), remote.read(some), strict=True):
                for name in ("text", "status", "stop_reason", "tokens", "image_tokens", "prompt_tokens"):
                    assert getattr(other, name) == getattr(one, name), (changes, name, one, other)


def test_the_command_line_reads_from_a_server(served: str, capsys: pytest.CaptureFixture[str]) -> None:
    page = load_pages("labels", limit=1)[0]
    assert main(["read", str(page.file), "--model_id", served]) == 0
    with open_reader(Settings(model_id=served)) as reader:
        assert reader.read(page).text in capsys.readouterr().out
    assert main(["read", str(page.file), "--model_id", served, "--preset", "tiny"]) == 2
    assert "leave dtype at 'auto'" in capsys.readouterr().err


def test_a_wrong_name_at_transformers_serve(served: str) -> None:
    with pytest.raises(Unsupported, match="pinned to 'tiny'; requested 'nope'"):
        open_reader(Settings(model_id=served.replace("#tiny", "#nope")))


def test_a_person_sees_the_text_come_and_can_stop_it(served: str) -> None:
    page = load_pages("labels", limit=1)[0]
    live, pieces = IsolatedReader(), []
    try:
        seen = live.look(Settings(model_id=served, max_new_tokens=40), page, pieces.append)
        assert len(pieces) > 1 and "".join(pieces).strip() == seen.reading.text
        refused = live.look(Settings(model_id=served, dtype="bfloat16"), page, pieces.append)
        assert refused.reading.status == "unsupported" and "leave dtype at 'auto'" in refused.reading.reason
        long = Settings(model_id=served, max_new_tokens=3000, min_new_tokens=3000)
        stopped = live.look(long, page, lambda _: live.stop())
        assert stopped.reading.status == "error" and "cancelled" in stopped.reading.reason
    finally:
        live.close()


def test_a_server_that_cannot_start_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--model", "/no/such/folder"]) == 2
    assert "no such folder" in capsys.readouterr().err
    if (other := shutil.which("ls")) is None:
        pytest.skip("no other program here")
    monkeypatch.setattr(sys, "executable", other)  # it does not know such options
    with pytest.raises(Unsupported, match=r"ended with exit code \d: .*ls"), ENGINES["running_server"]():
        pass


def test_a_server_goes_with_what_started_it(served: str, tmp_path: Path) -> None:
    (server,) = [p for p in psutil.Process().children() if "serve" in p.cmdline()]
    assert "--with-parent" in server.cmdline()
    code = "import threading, time; from ocrlab.reading import serve; serve._end_with_input(); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    assert process.poll() is None
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(20) == 0
