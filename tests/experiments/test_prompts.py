"""The notebook `prompts` ranks prompts rightly by a server that answers as an instruct model does, on any rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ocrlab.experiments.recommend import judge_runs
from ocrlab.pages import load_pages
from ocrlab.reading.settings import load_prompts
from ocrlab.study.records import load_rows
from tests.experiments.cells import Cells
from tests.reading.fake_server import answer, begin, end, fake_server

pytestmark = pytest.mark.filterwarnings("error::UserWarning", "error::RuntimeWarning", "error::FutureWarning")

PAGES = 16
KNOWN = load_prompts()
TRUTHS = {page.open().tobytes(): page.truth or "" for page in load_pages("lines", spread=PAGES)}
USUAL, PLAIN, MARKDOWN = (KNOWN[name].prompt for name in ("usual", "plain", "markdown"))


def instructed(handler: Any) -> None:
    """Answer the prompt for the text alone with the text; others with a preamble and fences, and in part wrongly."""
    truth = TRUTHS.get(handler.image.convert("RGB").tobytes())
    system, asked = handler.body["messages"][0], handler.body["messages"][-1]["content"][1]["text"]
    if truth is None:
        answer(handler)  # one of the blank images that the reader asks about when it is opened
        return
    if asked == PLAIN or system["content"] == KNOWN["system"].system_prompt:
        text = truth
    else:
        wrong = truth[: len(truth) * 3 // 4] if asked == USUAL else truth[::-1] * 2
        text = f"The text in the image is as follows:\n\n```\n{wrong}\n```\n\nLet me know if you need anything else."
    loops = asked == MARKDOWN and truth == next(iter(TRUTHS.values()))
    pieces = ["101. "] * handler.body["max_tokens"] if loops else [f"{text} "]
    begin(handler, pieces)
    end(handler, "length" if loops else "stop", len(pieces) + (not loops))


def learned(folder: Path, monkeypatch: pytest.MonkeyPatch, **given: Any) -> Cells:
    """Run the whole notebook with these parameters in a run's folder."""
    monkeypatch.setenv("OCRLAB_RUN_FOLDER", str(folder))
    cells = Cells("prompts")
    parameters = next(source for source in cells.code if source.startswith("model_id"))
    cells.run(parameters).update(given)
    for source in cells.code[cells.code.index(parameters) + 1 :]:
        cells.run(source)
    return cells


def asking(fake: Any, *prompts: str, **more: Any) -> dict[str, Any]:
    return {
        "model_id": fake.model_id, "dtype": "auto", "page_set": "lines", "pages": PAGES, "prompts": list(prompts),
        "max_pixels": None, "max_new_tokens": 64, **more,
    }  # fmt: skip


def headline(cells: Cells) -> str:
    return cells.said[cells.said.rindex("Ask with") :]


def test_the_prompt_that_gets_the_text_alone_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_server(always=instructed) as fake:
        found = learned(tmp_path, monkeypatch, **asking(fake, "usual", "markdown", "plain"))
        asked = [body["messages"][0]["content"][1]["text"] for body in fake.bodies]
    assert {words: asked.count(words) for words in asked} == {USUAL: PAGES, MARKDOWN: PAGES, PLAIN: PAGES}
    said = headline(found)
    assert said.startswith("Ask with 'plain': CER 0.00% ") and f"0 of {PAGES} readings looped" in said
    assert "Against 'usual': better in CER" in said and "Seen to read worse than 'usual': markdown." in said
    assert said.endswith(f"prompt: {PLAIN}\n")
    assert found["shown"]["loops"].to_dict() == {"usual": 0, "markdown": 1, "plain": 0}
    assert found["lines"]["cer"].sort_values().index.tolist() == ["plain", "usual", "markdown"]
    assert "usual: 'The text in the image is as follows:" in found.said, "a person sees how answers begin"


def test_a_first_prompt_that_is_the_best_stays_and_words_of_one_s_own_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_server(always=instructed) as fake:
        found = learned(tmp_path, monkeypatch, **asking(fake, "system", "What does it say?"))
    said = headline(found)
    assert said.startswith("Ask with 'system'") and "No other prompt was seen to read better than the first." in said
    assert "Seen to read worse than 'system': What does it say?." in said
    assert f"prompt: {USUAL}\nsystem_prompt: {KNOWN['system'].system_prompt}\n" in said
    rows = load_rows(tmp_path, "prompts")
    assert set(rows["prompt"]) == {USUAL, "What does it say?"}
    assert rows["system_prompt"].dropna().unique().tolist() == [KNOWN["system"].system_prompt]


def test_one_prompt_alone_and_named_twice_is_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_server(always=instructed) as fake:
        found = learned(tmp_path, monkeypatch, **asking(fake, "plain", PLAIN, pages=4))
    assert "It is the only one that was tried" in headline(found)


def test_rows_that_say_nothing_of_prompts_get_an_answer_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "own"
    own.mkdir()
    for page in load_pages("lines", limit=2):
        (own / page.file.name).write_bytes(page.file.read_bytes())
    with fake_server(always=answer) as fake:
        given = asking(fake, "usual", "plain", page_set=str(own), pages=2)
        untrue = learned(tmp_path / "untrue", monkeypatch, **given)
        single = learned(tmp_path / "single", monkeypatch, **(given | {"page_set": "lines", "pages": 1}))
        none = learned(tmp_path / "none", monkeypatch, **(given | {"prompts": []}))
    gone = learned(tmp_path / "gone", monkeypatch, **given)
    assert "of the 2 that were read, 0 had one" in untrue.said and "plain: " in untrue.said
    assert "A CER takes at least two pages with a truth" in single.said
    assert "No page was read yet" in none.said
    assert "None of 4 readings gave a text: " in gone.said and "is the server running" in gone.said
    for cells in (untrue, single, none, gone):
        assert "Ask with" not in cells.said


def test_the_recommender_takes_the_prompt_that_reads_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_server(always=instructed) as fake:
        learned(tmp_path, monkeypatch, **asking(fake, "usual", "plain"))
    judged = judge_runs(load_rows(tmp_path)).set_index("standing")["settings"]
    assert (judged["recommended"].prompt, judged["worse"].prompt) == (PLAIN, USUAL)
