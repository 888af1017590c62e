"""What MODEL= asks for: looked for first, with values of its own, and as many pages as fit the minutes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ocrlab.commands import for_model
from ocrlab.commands.cli import main
from ocrlab.commands.for_model import Model, check_model, fit_tasks
from ocrlab.commands.parameters import CommandError, read_parameters
from ocrlab.commands.plan import Task, load_experiments, plan_tasks
from ocrlab.machine.describe import Choice
from ocrlab.machine.hardware import Machine
from ocrlab.paths import MODELS
from ocrlab.reading import checkpoints
from ocrlab.reading.settings import Settings
from tests.reading.fake_server import fake_server

QWEN = "Qwen/Qwen2-VL-2B-Instruct"
CARD = Model(QWEN, Choice("bfloat16", "a card"), 28 * 28, Choice("4", "planted"), False)


def fitted(model: Model = CARD, minutes: float = 30, only: str | None = None, **given: Any) -> dict[str, Task]:
    profile = "cpu" if model.on_cpu else "gpu"
    tasks, words = fit_tasks(
        plan_tasks(load_experiments(), profile, QWEN, only, given), model, given, minutes, bool(only)
    )
    assert len(words) >= len(tasks) - 3, "a line on each that reads or is left out"
    return {task.experiment.name: task for task in tasks}


def test_a_models_own_values_reach_the_notebooks() -> None:
    tasks = fitted()
    pixels = tasks["04-pixels"].parameters
    assert pixels["max_pixels_values"] == [n * 784 for n in (256, 640, 1280, 2560)]
    assert (pixels["page_set"], pixels["dtype"], pixels["model_id"]) == ("documents", "bfloat16", QWEN)
    assert tasks["05-generation"].parameters["max_pixels"] == 1280 * 784
    assert fitted(minutes=600)["fast-path"].parameters["weights"] == "pretrained", "the model itself, not its shapes"
    assert "about the embedded reader" in tasks["embedded-reader"].skipped and not tasks["08-recommendation"].skipped
    smaller = fitted(replace(CARD, cell_pixels=32 * 32))["04-pixels"].parameters
    assert smaller["max_pixels_values"][0] == 256 * 1024, "another processor's cells"


def test_every_value_for_a_model_is_a_parameter_of_its_notebook() -> None:
    for name, one in load_experiments().items():
        known = read_parameters(one.notebook)
        for sizes in one.model.values():
            unknown = {key.replace("max_image_tokens", "max_pixels") for key in sizes.parameters} - set(known)
            assert not unknown, f"{name}: {unknown}"
            assert ("pages" in known) or not sizes.readings, name


def test_more_minutes_read_more_pages_up_to_the_most_and_fewer_leave_out_the_least_important() -> None:
    few, usual, many = (fitted(minutes=minutes) for minutes in (8, 30, 600))
    pages = [tasks["04-pixels"].parameters["pages"] for tasks in (few, usual, many)]
    assert 16 <= pages[0] < pages[2] == 60 and 16 <= pages[1] < 60
    left_out = [{name for name, task in tasks.items() if "for time" in task.skipped} for tasks in (few, usual, many)]
    assert "10-engines" in left_out[0] > left_out[1] > left_out[2] == set()
    slow = fitted(replace(CARD, page_s=Choice("16", "planted")))
    assert not slow["04-pixels"].skipped and "MINUTES=" in slow["02-attention"].skipped


def test_what_a_person_gave_or_named_stays() -> None:
    named = fitted(minutes=1, only="04-pixels,10-engines", pages=17, max_pixels_values=[50176])
    assert not any(task.skipped for task in named.values())
    assert named["04-pixels"].parameters["pages"] == 17 == named["10-engines"].parameters["pages"]
    assert named["04-pixels"].parameters["max_pixels_values"] == [50176]


def test_on_a_cpu_a_small_part_fits_an_hour() -> None:
    laptop = replace(CARD, on_cpu=True, dtype=Choice("float32", "no bfloat16"), page_s=Choice("90", "predicted"))
    tasks = fitted(laptop, minutes=60)
    running = {name for name, task in tasks.items() if not task.skipped}
    assert running == {"00-quickstart", "04-pixels", "08-recommendation", "09-compare", "11-costs"}
    readings = tasks["04-pixels"].parameters["pages"] * 2 + tasks["00-quickstart"].parameters["pages"]
    assert 50 < readings * 90 / 60 <= 60
    assert "on a CPU" in tasks["02-attention"].skipped


def test_a_server_gets_the_dtype_that_it_was_started_with() -> None:
    with fake_server() as fake:
        model = check_model(fake.model_id)
        tasks = plan_tasks(load_experiments(), "smoke", fake.model_id, None, {})
    assert (model.dtype.value, model.on_cpu) == ("auto", False) and "just now" in model.page_s.reason
    assert tasks[0].parameters["dtype"] == "auto"


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("endpoint:http://127.0.0.1:9/v1#m", "no connection"),
        (QWEN, "not in the local cache and the Hub cannot be reached"),
        ("empty", "no config.json"),
        ("broken", "no weights"),
    ],
)
def test_a_model_that_is_not_to_be_had_ends_before_anything_runs(
    model: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ocrlab.paths.RESULTS", tmp_path / "results")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    if not model.startswith(("endpoint", "Qwen")):
        folder = tmp_path / model
        folder.mkdir()
        if model == "broken":
            (folder / "config.json").write_bytes((MODELS / "tiny" / "config.json").read_bytes())
        model = str(folder)
    assert main(["reproduce", "--profile", "cpu", "--model", model]) == 2
    said = capsys.readouterr()
    assert words in said.err and said.err.count("\n") <= 3 and not (tmp_path / "results").exists()


def test_a_model_too_large_for_the_machine_is_refused_with_the_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    small = Machine("a card", 3 * 2**30, 1e11, 1e12, "planted", "cuda")
    monkeypatch.setattr("ocrlab.machine.hardware.measured_machine", lambda *_: small)
    shapes = checkpoints.locate(Settings(model_id=QWEN, weights="dummy"))
    monkeypatch.setattr(checkpoints, "locate", lambda *_: shapes)
    with pytest.raises(CommandError, match=r"takes [4-9]\.\d GiB .* a card has 3\.0; choose a smaller model"):
        check_model(QWEN)
    roomy = replace(small, memory_bytes=16 * 2**30)
    monkeypatch.setattr("ocrlab.machine.hardware.measured_machine", lambda *_: roomy)
    model = check_model(QWEN)
    assert model.cell_pixels == 784 and model.seconds > 600 * 0.025 * model.on_cpu


def test_the_fastest_dtype_follows_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(for_model, "emulated", lambda _: True)
    assert for_model.fastest_dtype("cpu").value == "float32"
    monkeypatch.setattr(for_model, "emulated", lambda _: False)
    assert for_model.fastest_dtype("cpu").value == "bfloat16"


def profiled(pace: float, slow: bool, minutes: float = 10, **given: Any) -> tuple[dict[str, dict[str, Any]], str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(for_model, "measure_pace", lambda: pace)
        patch.setattr(for_model, "emulated", lambda _: slow)
        tasks, words = for_model.fit_profile(plan_tasks(load_experiments(), "cpu", None, None, given), given, minutes)
    return {task.experiment.name: task.parameters for task in tasks}, "\n".join(words)


def test_the_cpu_profile_keeps_its_pages_on_a_machine_like_the_reference() -> None:
    found, words = profiled(1.0, slow=False)
    assert found == {t.experiment.name: t.parameters for t in plan_tasks(load_experiments(), "cpu", None, None, {})}
    assert words == "about 8 minutes: a page takes 1.0 times the reference's time here"


def test_a_slower_machine_reads_fewer_pages_and_says_so() -> None:
    usual, _ = profiled(1.0, slow=False)
    found, words = profiled(2.6, slow=False)
    minutes = sum(one.cpu_s for one in load_experiments().values()) * 2.6 / 60
    assert f"about {minutes:.0f} minutes" in words
    assert f"to end within 10 minutes, {10 / minutes:.0%} of the usual pages are read" in words
    assert found["04-pixels"]["pages"] == int(usual["04-pixels"]["pages"] * 10 / minutes) < 30
    assert found["02-attention"]["pages"] < usual["02-attention"]["pages"]
    crawling, _ = profiled(1000, slow=False)
    assert all(one.get("pages", 2) >= 2 for one in crawling.values())
    assert profiled(2.6, slow=False, pages=50)[0]["04-pixels"]["pages"] == 50, "what a person gave stays"


def test_little_is_read_in_bfloat16_where_it_is_emulated() -> None:
    found, words = profiled(1.0, slow=True)
    assert "bfloat16 is emulated on this processor" in words
    assert found["07-limits"]["dummy_dtype"] == "float32" and found["07-limits"]["dtypes"] == ["float32"]
    given, _ = profiled(1.0, slow=True, dummy_dtype="bfloat16")
    assert given["07-limits"]["dummy_dtype"] == "bfloat16", "what a person gave stays"


def test_minutes_for_a_profile_of_its_own_size_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "--profile", "smoke", "--minutes", "5"]) == 2
    assert "goes with MODEL= or PROFILE=cpu" in capsys.readouterr().err
