"""The server that answers as the 2B does: what other tests rely on."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace

import pytest
from PIL import Image

from ocrlab import Settings, load_pages, open_reader, score
from ocrlab.reading.family import resized
from tests.pages.test_text_layer import PRODUCERS
from tests.rehearsal import MANNERS, TOKEN, Rehearsal, Writer, in_markdown, rehearsal

ONLY = "Give the text only."


@pytest.fixture(scope="module")
def writer() -> Writer:
    return Writer(Rehearsal(pages=("documents", "labels"), limit=40))


def at_tokens(page, tokens: int) -> Image.Image:
    image = page.open()
    return image.resize(resized(*image.size, 28, 1, tokens * 784), Image.Resampling.BICUBIC)


def mean_cer(writer: Writer, tokens: int, prompt: str = ONLY, **body) -> float:
    edits = length = 0
    for page in writer.pages:
        written, endless = writer.write(at_tokens(page, tokens), prompt, body)
        if not endless and writer.place[page.id] > 1:  # the reordered page costs most of its letters
            found = score("".join(written), page.truth)
            edits, length = edits + found["cer_edits"], length + found["cer_length"]
    return edits / length


def test_a_page_is_known_at_any_size_and_a_strange_image_is_not(writer):
    for page in writer.pages[::9]:
        assert {writer.page_of(at_tokens(page, tokens)).id for tokens in (48, 1280)} == {page.id}
    assert writer.page_of(Image.new("RGB", (640, 320), "white")) is None
    assert writer.page_of(Image.linear_gradient("L")) is None


def test_a_pdfs_page_is_written_from_its_text_layer():
    (page,) = (
        writer := Writer(Rehearsal([PRODUCERS / "tex-columns.pdf"], truth="pdf", loops={256: 0}, reordered=0))
    ).pages
    written, endless = writer.write(at_tokens(page, 1280), ONLY, {})
    assert page.truth_source == "pdf" and not endless and 0 < score("".join(written), page.truth)["cer"] < 0.03


def test_errors_fall_with_image_tokens_and_grow_with_prompt_temperature_and_penalty():
    writer = Writer(Rehearsal(limit=20, manners=(replace(MANNERS[1], fence=0, preamble=0), with_errors(3.0))))
    found = [mean_cer(writer, tokens) for tokens in (256, 576, 1280)]
    assert found == pytest.approx([0.08, 0.03, 0.015], rel=0.2)  # receipts have fewer than 1,280 tokens to give
    assert mean_cer(writer, 1280, "Read.") == pytest.approx(0.045, rel=0.2)
    assert mean_cer(writer, 1280, temperature=1.0, seed=0) == pytest.approx(0.025, rel=0.15)
    assert mean_cer(writer, 1280, repetition_penalty=1.3) == pytest.approx(0.075, rel=0.15)


def with_errors(errors: float):
    return replace(MANNERS[-1], preamble=0, closing=0, fence=0, errors=errors)


def test_words_around_the_text_come_by_prompt(writer):
    def share(prompt: str, pattern: str) -> float:
        written = [writer.write(page.open(), prompt, {})[0] for page in writer.pages]
        return sum(bool(re.search(pattern, "".join(one))) for one in written) / len(written)

    usual, preamble = "Read the text in the image.", r"^(The text|Here is|Sure|The image contains)"
    assert share(usual, preamble) == pytest.approx(0.5, abs=0.2)
    assert share(usual, "```") == pytest.approx(0.33, abs=0.2)
    assert share(ONLY, preamble) + share(ONLY, "```") < 0.1
    assert share("Transcribe as Markdown.", "(?m)^# ") == 1
    assert share("Прочитай текст на изображении.", "^(```|Текст на|На изображ|Вот текст)") > 0.4


def test_in_markdown_numbers_become_a_table():
    assert (
        in_markdown("Bill\nTea 2\nTotal 3.50\nPaid:") == "# Bill\n| Tea | 2 |\n|---|---|\n| Total | 3.50 |\n**Paid:**"
    )


def test_half_of_the_errors_in_russian_are_look_alikes(writer):
    page = next(page for page in writer.pages if page.language == "ru" and writer.place[page.id] > 2)
    text = "".join(writer.write(at_tokens(page, 256), ONLY, {})[0])
    assert not re.search("[A-Za-z]", page.truth) or page.set == "documents"
    wrong = score(text, page.truth)["cer_edits"]
    mixed = re.findall("(?<=[а-я])[aceopxy]|[aceopxy](?=[а-я])", text)
    assert wrong / 4 <= len(mixed) <= wrong


def test_the_server_is_read_as_a_model_with_honest_counts():
    pages = load_pages("documents", limit=20)
    with rehearsal(limit=20) as fake:
        settings = Settings(model_id=fake.model_id, prompt=ONLY, max_pixels=576 * 784, max_new_tokens=1200)
        with open_reader(settings) as reader:
            readings = reader.read(pages)
    statuses = [reading.status for reading in readings]
    cut = [reading for reading in readings if reading.status in {"loop", "truncated"}]
    assert len(cut) == 1 and statuses.count("ok") == 19  # one page in sixty, so one of twenty
    assert len(set(cut[0].text.splitlines())) < cut[0].text.count("\n") / 2
    for reading in readings:
        assert 400 < reading.image_tokens <= 576
        assert reading.tokens == (1200 if reading in cut else len(TOKEN.findall(reading.text)))
    errors = [score(r.text, p.truth)["cer"] for r, p in zip(readings, pages, strict=True)]
    assert sum(error > 0.3 for error in errors) == 2, "the page that loops and the one in another order"


def test_a_forced_length_and_a_cap_are_kept():
    with rehearsal(limit=1) as fake:
        settings = Settings(model_id=fake.model_id, max_pixels=256 * 784, max_new_tokens=900, min_new_tokens=900)
        for one in (settings, replace(settings, min_new_tokens=None, max_new_tokens=40)):
            with open_reader(one) as reader:
                (reading,) = reader.read(load_pages("documents", limit=1))
            assert (reading.tokens, reading.stop_reason) == (one.max_new_tokens, "length")


def test_it_runs_by_hand():
    command = [sys.executable, "-m", "tests.rehearsal", "--port", "0", "--seconds", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        line = server.stdout.readline()
        server.terminate()
    assert "MODEL=endpoint:http://127.0.0.1:" in line
