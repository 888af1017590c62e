"""The playground's parts without a browser: what is shown is escaped, what is exported loads, what is known is kept."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import bs4
import psutil
import pytest

from ocrlab import paths
from ocrlab.machine.describe import describe_machine, machine_name, versions
from ocrlab.machine.hardware import card
from ocrlab.pages import load_pages
from ocrlab.playground import html
from ocrlab.playground.app import Blind, both_texts, compared
from ocrlab.playground.capabilities import Capabilities, Helper, HelperError, find_capabilities, forecast
from ocrlab.playground.column import Column, Correction, cell_source, preset_text
from ocrlab.playground.form import SettingsForm
from ocrlab.playground.picker import UPLOAD_LIMIT_BYTES, Picker
from ocrlab.playground.session import Session, keep_reading
from ocrlab.reading.isolated import PageResult
from ocrlab.reading.loading import token_counter
from ocrlab.reading.result import Reading
from ocrlab.reading.settings import Settings, load_preset, preset_names
from ocrlab.study.agreement import places
from ocrlab.study.records import load_findings
from tests.hostile import HOSTILE

CPU = Settings(dtype="float32", device="cpu")
SOME = [
    Settings(),
    load_preset("tiny"),
    Settings(prompt='Say "it\'s"\nand # no more: \\', max_pixels=50_176, do_sample=True, temperature=0.5, seed=7),
    Settings(dtype="bfloat16", attn_implementation="flash_attention_2", num_beams=None, do_sample=None),
]
# Every element that the playground makes by itself.
OURS = {
    "div",
    "span",
    "b",
    "button",
    "a",
    "table",
    "tr",
    "td",
    "th",
    "tbody",
    "br",
    "h2",
    "li",
    "ul",
    "details",
    "summary",
}


def inert(markup: str, text: str) -> None:
    """Assert that markup holds our elements only, ours alone act, and nothing but the copy button has a handler."""
    soup = bs4.BeautifulSoup(markup, "html.parser")
    assert {element.name for element in soup.find_all(True)} <= OURS, text
    for element in soup.find_all(True):
        acting = {name for name in element.attrs if name.startswith("on")}
        assert acting <= ({"onclick"} if element.get("class") == ["ocr-copy"] else set()), text
        assert "pwned" not in str(element.get("onclick", "")) + str(element.get("style", "")), text
        assert element.name != "a" or str(element["href"]).startswith("data:text/plain;charset=utf-8;base64,"), text


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_that_was_read_typed_or_named_becomes_markup(text: str) -> None:
    page = replace(load_pages("lines", limit=1)[0], id=text, truth=text[::-1] + text)
    reading = Reading(text, text, "ok", text, ttft_s=0.1, tokens=3)
    row = Settings(prompt=text).as_dict() | {
        "asked": Settings(prompt=text).as_dict(),
        "truth": None,
        "page_sha256": text,
        "time_utc": "2026-11-24T12:00:00+00:00",
        "page": text,
        "status": "ok",
        "text": text,
    }
    session = Session(Helper(), Path(text))
    session.rows.append(row)
    pieces = [
        html.block(text, "ocr-text"),
        html.note(text),
        html.busy(text),
        html.chips({text: text}),
        html.table([text], [[text]]),
        html.savable(text, text, text),
        html.chips(html.costs(reading)),
        html.ruled_out({text: {text: text}}),
        session.html(),
        compared(PageResult(reading), PageResult(replace(reading, text=text[::-1])), page, page),
        *(both_texts(place, 0) for place in places(f"{text} x", "y z")),
    ]
    for piece in pieces:
        inert(piece, text)
    assert bs4.BeautifulSoup(pieces[0], "html.parser").get_text() == text.replace("\x00", "\ufffd")


@pytest.mark.parametrize("settings", SOME, ids=range(len(SOME)))
def test_what_is_taken_along_makes_the_same_settings(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(preset_text(settings), encoding="utf-8")
    assert load_preset(tmp_path / "mine.yaml") == settings
    made: dict[str, object] = {}
    exec(cell_source(settings), made)
    assert made["settings"] == settings


@pytest.mark.parametrize("preset", preset_names())
def test_the_form_holds_what_the_preset_says(preset: str) -> None:
    assert SettingsForm(preset, lambda: None).settings() == load_preset(preset)


def test_a_choice_that_does_not_run_is_marked_and_stays_chosen() -> None:
    form = SettingsForm("tiny", lambda: None)
    form.fields["sdpa_kernel"].value = "cudnn"
    form.mark({"sdpa_kernel": {"cudnn": "no such kernel", "math": ""}})
    labels = {value: label for label, value in form.fields["sdpa_kernel"].options}
    assert "✗" in labels["cudnn"] and "✗" not in labels["math"]
    assert form.settings().sdpa_kernel == "cudnn"


def test_another_attention_lets_go_of_the_kernel_and_a_wrong_number_is_named() -> None:
    changes: list[int] = []
    form = SettingsForm("tiny", lambda: changes.append(1))
    form.fields["sdpa_kernel"].value = "math"
    form.fields["attn_implementation"].value = "eager"
    assert form.settings().sdpa_kernel is None and form.fields["sdpa_kernel"].disabled and changes
    form.fields["max_pixels"].value = "50,176"
    assert form.settings().max_pixels == 50_176
    form.fields["max_pixels"].value = "many"
    with pytest.raises(ValueError, match=r"max_pixels='many' is not a number"):
        form.settings()


def test_image_tokens_are_the_readers_own() -> None:
    from ocrlab import open_reader

    pages = [*load_pages("lines", limit=2), *load_pages("documents", limit=1)]
    for budget in (None, 8192):
        settings = replace(CPU, max_pixels=budget)
        with open_reader(settings) as reader:
            for page in pages:
                assert token_counter(settings)(*page.open().size) == reader.size_of(page)


def test_a_forecast_needs_no_download_and_says_what_does_not_fit() -> None:
    asked = Settings(model_id="Qwen/Qwen2-VL-2B-Instruct", dtype="float32", device="cpu", max_pixels=1_003_520)
    small = replace(card("RTX 5070 Ti"), name="a small one", memory_bytes=2**31, device="cpu")
    known = Capabilities(bounds={("cpu", "float32"): small})
    found = forecast(asked, (1000, 1400), known, {}, [])
    assert "8.23 GiB" in found.html, "2,208,985,600 parameters of four bytes"
    assert "more than a small one has" in found.html and not found.against
    again = forecast(CPU, (300, 60), Capabilities(), {}, [CPU.as_dict() | {"tpot_s": 0.002}])
    assert "median of 1 here" in again.html and "2 ms" in again.html


def test_choices_are_ruled_out_by_rules_by_readings_and_by_what_cannot_be_together() -> None:
    known = Capabilities()
    known.refuse(replace(CPU, attn_implementation="flex_attention"), "the model has no such attention")
    kernels = known.reasons(CPU, "sdpa_kernel", (None, "math", "cudnn"))
    assert not kernels[None] and not kernels["math"] and "needs CUDA" in kernels["cudnn"]
    asked = ("sdpa", "eager", "flex_attention", "flash_attention_2")
    attentions = known.reasons(CPU, "attn_implementation", asked)
    assert not attentions["sdpa"] and not attentions["eager"]
    assert attentions["flex_attention"] == "the model has no such attention"
    assert "bfloat16 or float16 only" in attentions["flash_attention_2"]
    half = known.reasons(replace(CPU, dtype="bfloat16"), "attn_implementation", asked)["flash_attention_2"]
    assert "not installed" in half or "CUDA only" in half
    choices = {"device": ("cpu", "mps"), "quantization": (None, "int8")}
    found = forecast(replace(CPU, sdpa_kernel="cudnn"), (300, 60), known, choices, [])
    assert found.against == kernels["cudnn"] and found.html == "" and "Metal" in found.reasons["device"]["mps"]


def findings(run: Path, record: dict[str, object] | None = None, **stack: str | None) -> Path:
    """Write a run of this machine with findings as 01-machine leaves them: one failed probe and two ceilings."""
    here = {"machine": machine_name()} | {name: versions()[name] for name in ("torch", "transformers")} | stack
    probe = {
        "attention": "eager",
        "kernel": None,
        "dtype": "float32",
        "device": "cpu",
        "verdict": "works",
        "reason": "",
    }
    probes = [
        probe | {"case": "vision"},
        probe | {"case": "decode", "verdict": "wrong", "reason": "relative error 1"},
        probe | {"case": "padded", "attention": "sdpa", "verdict": "unsupported", "reason": "takes no mask"},
    ]
    rates = {"copy": 9.0, "gemv": 20.0, "matmul": 0.5}
    ceilings = [{"ceiling": name, "dtype": "float32", "median": rate} for name, rate in rates.items()]
    (run / "findings").mkdir(parents=True)
    for name, lines in {"probes": probes, "ceilings": ceilings}.items():
        text = "".join(json.dumps(line | here) + "\n" for line in lines)
        (run / "findings" / f"{name}.jsonl").write_text(text, encoding="utf-8")
    record = {"run": run.name, "machine": describe_machine()} | (record or {})
    (run / "run.json").write_text(json.dumps(record), encoding="utf-8")
    return run


EAGER = replace(CPU, attn_implementation="eager")


def test_what_01_machine_found_counts_on_this_machine_with_this_stack_only(tmp_path: Path) -> None:
    findings(tmp_path / "a", machine="another")
    findings(tmp_path / "b", torch="1.0")
    unknown = find_capabilities(tmp_path, tmp_path / "none")
    assert not unknown.source and not unknown.reason(EAGER)
    assert unknown.machine("cpu", "float32") is None and machine_name() in unknown.stack
    findings(tmp_path / "mine")
    known = find_capabilities(tmp_path)
    assert known.source == "mine"
    assert known.reason(EAGER) == "wrong: relative error 1 (01-machine)"
    assert not known.reason(CPU), "a page is read alone: what fails on a padded batch does not rule an attention out"
    machine = known.machine("cpu", "float32")
    assert machine is not None and (machine.bandwidth_bytes_s, machine.matmul_flops_s) == (20e9, 0.5e12)
    assert "per token, at best" in forecast(CPU, (300, 60), known, {}, []).html
    (tmp_path / "mine" / "findings" / "probes.jsonl").write_text("{\n", encoding="utf-8")
    with pytest.raises(ValueError, match="line 1 is not JSON"):
        find_capabilities(tmp_path)


def test_a_run_that_was_not_made_here_tells_nothing_of_this_machine(tmp_path: Path) -> None:
    findings(tmp_path / "reference-cpu")  # committed: made on a machine of the same name, it says nothing of this one
    findings(tmp_path / "shared", {"added": "2026-11-25"})
    findings(tmp_path / "other", {"machine": describe_machine() | {"cores": 1024}})
    assert not find_capabilities(tmp_path).source
    assert find_capabilities(tmp_path / "none", findings(tmp_path / "session")).source == "session"


def given(name: str, content: bytes) -> tuple[dict[str, object], ...]:
    now = datetime.now(UTC)
    return ({"name": name, "type": "", "size": len(content), "content": memoryview(content), "last_modified": now},)


def test_an_upload_is_shown_or_refused_by_name() -> None:
    changes: list[int] = []
    picker = Picker("lines", 0, lambda: changes.append(1))
    png = load_pages("labels", limit=1)[0]
    picker.upload.value = given("../my page.png", png.file.read_bytes())
    assert picker.page is not None and picker.page.id == "my-page.png" and picker.page.sha256 == png.sha256
    picker.upload.value = given("notes.png", b"not an image")
    assert picker.page is None and "is text, not an image" in picker.status.value
    picker.upload.value = given("big.png", bytes(UPLOAD_LIMIT_BYTES + 1))
    assert picker.page is None and "above the upload limit of 50 MiB" in picker.status.value
    assert picker.upload.value == () and changes


def test_a_path_may_name_a_page_of_a_pdf(tmp_path: Path) -> None:
    from PIL import Image

    sheets = [Image.new("RGB", (100, 100), colour) for colour in ("red", "blue")]
    sheets[0].save(tmp_path / "two.pdf", save_all=True, append_images=sheets[1:])
    picker = Picker("lines", 0, lambda: None)
    picker.source.value, picker.path.value = "path", str(tmp_path / "two.pdf")
    assert picker.pages.options == ("two.pdf#1", "two.pdf#2")
    assert picker.page is not None and picker.page.id == "two.pdf#1"
    picker.pages.value = "two.pdf#2"
    assert picker.page.id == "two.pdf#2" and picker.page.open().getpixel((5, 5))[2] > 240  # type: ignore[index]
    picker.path.value = str(tmp_path / "three.pdf")
    assert picker.page is None and "no such file" in picker.status.value
    picker.source.value = "a page of a set"
    assert picker.page.set == "lines"


def test_a_truth_that_is_typed_makes_a_score(tmp_path: Path) -> None:
    picker = Picker("lines", 3, lambda: None)
    picker.truth.value = "typed"
    assert picker.page is not None and picker.page.truth == "typed"
    row = keep_reading(tmp_path, CPU, picker.page, PageResult(Reading(picker.page.id, "typed", "ok", "")))
    again = keep_reading(
        tmp_path, CPU, picker.page, PageResult(Reading(picker.page.id, "", "crashed", "why"), died=True)
    )
    assert row["cer"] == 0 and row["actual_streamed"] and again["repeat"] == 1 and again["cer"] == 1
    kept = (tmp_path / "readings" / "playground.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["text"] for line in kept] == ["typed", ""]
    assert json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))["profile"] == "playground"
    assert paths.ROOT.name not in row["page"]


def test_a_helper_that_dies_is_asked_again_and_a_closed_one_answers_nobody() -> None:
    helper = Helper()
    first = helper.call(os.getpid)
    psutil.Process(first).kill()  # the next call may still find it alive
    assert helper.call(os.getpid) != first
    with pytest.raises(HelperError, match="no such preset"):
        helper.call(load_preset, "no-such")
    helper.close()
    with pytest.raises(HelperError, match="closed"):
        helper.call(os.getpid)


def correcting(picker: Picker, folder: Path, text: str = "read") -> Correction:
    """The correction of a reading of the picker's page, opened as its button opens it."""
    session = Session(Helper(), folder)
    column = Column("A", SettingsForm("tiny", lambda: None), session, picker, lambda _: None)
    assert picker.page is not None
    column.page, column.seen = picker.page, PageResult(Reading(picker.page.id, text, "ok", ""))
    session.pages[picker.page.sha256] = picker.page, picker.image.value
    correction = Correction(session, picker, lambda page: session.rows.append({"kept": page}))
    correction.open(column)
    return correction


def test_a_corrected_reading_is_kept_beside_its_page_and_replaced_only_when_asked(tmp_path: Path) -> None:
    shutil.copy(load_pages("labels", limit=1)[0].file, tmp_path / "p.png")
    picker = Picker("lines", 0, lambda: None)
    picker.source.value, picker.path.value = "path", str(tmp_path)
    assert picker.page is not None and picker.page.id == "p.png" and picker.page.truth is None
    correction = correcting(picker, tmp_path / "run", "Sure, here is the text:\n\nread")
    assert correction.text.value == "read" and str(tmp_path / "p.gt.txt") in correction.state.value
    correction.text.value = "reed"
    assert "background:#E69F00" in correction.changes.value, "the changed letter is marked"
    correction.keep_button.click()
    assert load_pages(tmp_path)[0].truth == "reed" == picker.page.truth == picker.truth.value
    correction.text.value = "reeds"
    correction.keep_button.click()
    assert "is there already and would be replaced" in correction.state.value
    assert (tmp_path / "p.gt.txt").read_text(encoding="utf-8") == "reed\n", "asked first"
    assert correction.sure_button.description == "Yes, write p.gt.txt"
    correction.sure_button.click()
    assert load_pages(tmp_path)[0].truth == "reeds" and "kept as" in correction.state.value
    assert correction.sure_button.layout.display == "none"
    assert not (tmp_path / "run" / "labelled").exists()


def test_what_has_no_folder_of_its_own_is_kept_beside_a_copy(tmp_path: Path) -> None:
    picker, page = Picker("lines", 0, lambda: None), load_pages("labels", limit=1)[0]
    picker.upload.value = given("my page.png", page.file.read_bytes())
    correction = correcting(picker, tmp_path)
    assert str(tmp_path / "labelled") in correction.state.value
    correction.keep_button.click()
    kept = load_pages(tmp_path / "labelled")
    assert [one.truth for one in kept] == ["read"] and kept[0].sha256 == page.sha256
    assert kept[0].file.name == f"{page.sha256[:8]}-my-page.png"
    picker.sets.value = "sizes"  # ours have a manifest, which holds their truth
    assert picker.page is not None and picker.page.set == "sizes"
    before = set(picker.page.file.parent.iterdir())
    correcting(picker, tmp_path).keep_button.click()
    assert len(load_pages(tmp_path / "labelled")) == 2 and set(picker.page.file.parent.iterdir()) == before


def test_a_folder_that_cannot_be_written_says_where_to_save_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(load_pages("labels", limit=1)[0].file, tmp_path / "p.png")
    picker = Picker("lines", 0, lambda: None)
    picker.source.value, picker.path.value = "path", str(tmp_path / "p.png")
    correction, write = correcting(picker, tmp_path / "run"), paths.write_whole

    def read_only(file: Path, data: bytes) -> None:
        if file.parent == tmp_path:
            raise PermissionError(13, "Permission denied", str(file))
        write(file, data)

    monkeypatch.setattr("ocrlab.pages.truth.write_whole", read_only)
    correction.keep_button.click()
    assert f"{tmp_path / 'p.gt.txt'}: cannot be written (Permission denied)" in correction.state.value
    assert str(tmp_path / "run" / "labelled") in correction.sure_button.description
    correction.sure_button.click()
    assert load_pages(tmp_path / "run" / "labelled")[0].truth == "read"


def voting(folder: Path) -> tuple[Session, Blind, list[Column]]:
    """A session of two settings that read two pages, and the votes on it."""
    session, picker = Session(Helper(), folder), Picker("lines", 0, lambda: None)
    forms = [SettingsForm("tiny", lambda: None) for _ in "AB"]
    forms[1].fields["max_pixels"].value = "4096"
    columns = [Column(*pair, session, picker, lambda _: None) for pair in zip("AB", forms, strict=True)]
    for page in load_pages("lines", limit=2):
        session.pages[page.sha256] = page, b"picture"
        for form, text in zip(forms, ("one two three", "one too three four"), strict=True):
            about = {"page": page.id, "page_sha256": page.sha256, "status": "ok", "truth": None}
            session.rows.append(about | {"asked": form.settings().as_dict(), "text": text})
    return session, Blind(session, picker, columns), columns


def test_blind_votes_are_kept_at_once_and_each_place_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ocrlab.playground.app.time.monotonic", iter(range(100)).__next__)
    _, blind, (one, _) = voting(tmp_path)
    blind.start()
    for number, seen in enumerate((("too", "two"), ("four", "▁")) * 2):
        shown = bs4.BeautifulSoup(blind.texts.value, "html.parser")
        assert "4096" not in shown.get_text() and "max_pixels" not in blind.texts.value + blind.state.value
        texts = [span.get_text() for span in shown.select(".ocr-differs")]
        assert tuple(sorted(texts, key=lambda text: text != seen[0])) == seen
        blind.vote(("left", "right")[texts.index("two")] if "two" in texts else "both")
        assert len(load_findings("votes", tmp_path)) == number + 1, "on disk at once"
    votes = load_findings("votes", tmp_path).to_dict("records")
    assert all(vote[vote["choice"]]["text"] == "two" for vote in votes[::2]) and votes[1]["choice"] == "both"
    assert votes[0]["left"]["asked"] != votes[0]["right"]["asked"] and votes[0]["truth_source"] == "vote"
    assert "the two part in 4" in blind.state.value and blind.texts.layout.display == "none"
    again, anew, _ = voting(tmp_path)
    anew.start()
    assert "no place without a vote" in anew.state.value and len(again.votes.records) == 4
    one.form.fields["max_pixels"].value = "4096"
    blind.start()
    assert "have to be two settings" in blind.state.value


def test_a_held_key_votes_once_and_a_vote_that_cannot_be_kept_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([0.0, 0.1, 5.0, 5.0, 10.0])
    monkeypatch.setattr("ocrlab.playground.app.time.monotonic", lambda: next(times))
    session, blind, _ = voting(tmp_path)
    blind.start()  # shown at 0.0
    blind.vote("left")  # at 0.1: nobody has looked
    assert not session.votes.records
    blind.vote("both")
    assert len(session.votes.records) == 1
    (tmp_path / "findings" / "votes.jsonl").unlink()
    (tmp_path / "findings" / "votes.jsonl").mkdir()
    blind.vote("left")
    assert "votes.jsonl: cannot be written" in blind.state.value and len(blind._todo) == 3


def test_both_sides_are_shown_on_the_left_and_truths_to_write_are_listed(tmp_path: Path) -> None:
    session, blind, _ = voting(tmp_path)
    lefts = set()
    for _ in range(60):
        blind.start()
        lefts.add(blind._left)
    assert lefts == {0, 1}
    for row in session.rows:
        row |= {"time_utc": "2026-11-26T12:00:00+00:00"}
    assert "label first" in session.html() and "lines-001" in session.html()
    for row in session.rows:
        row["truth"] = "known"
    assert "label first" not in session.html()


def test_a_forecast_that_comes_while_a_page_is_read_leaves_cancel_open(tmp_path: Path) -> None:
    _, _, (one, _) = voting(tmp_path)
    one._allow(reading=True)
    one.show_settings()
    one.show_forecast("", "", "")
    assert one.read_button.disabled and not one.cancel_button.disabled
    one._allow(reading=False)
    assert one.cancel_button.disabled and not one.read_button.disabled
