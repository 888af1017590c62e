import os
import shutil
import subprocess
from pathlib import Path

import pytest

from ocrlab.commands import plan
from ocrlab.commands.parameters import CommandError
from ocrlab.commands.plan import (
    choose_profile,
    load_experiments,
    plan_tasks,
    resolve_model,
    run_folder,
)
from ocrlab.study.provenance import code_state, read_record, without_home, write_record
from tests.notebooks import cell, write

FILE = """
00-quickstart:
  cell_timeout_s: 60
04-pixels:
  parameters:
    smoke: {pages: 2}
    cpu: {max_pixels_values: [1, 2]}
  cell_timeout_s: 600
07-limits:
  needs: [gpu]
  cell_timeout_s: 60
"""


@pytest.fixture
def experiments(tmp_path):
    (tmp_path / "experiments.yaml").write_text(FILE, encoding="utf-8")
    write(tmp_path / "00-quickstart.ipynb", "# Read?", cell("model_id = 'tiny'\npages = 3", "parameters"))
    write(
        tmp_path / "04-pixels.ipynb", cell("max_pixels_values = [50176]\npages = 20\nmodel_id = 'tiny'", "parameters")
    )
    write(tmp_path / "07-limits.ipynb", "# Fit?")
    return load_experiments(tmp_path / "experiments.yaml", tmp_path)


def test_the_repository_s_own_file_loads_and_fits_its_notebooks():
    known = load_experiments()
    assert list(known)[:1] == ["00-quickstart"]
    for profile in ("smoke", "cpu"):
        plan_tasks({name: one for name, one in known.items() if one.notebook.is_file()}, profile, None, None, {})


def test_loads_in_the_file_s_order_with_every_profile(experiments):
    assert list(experiments) == ["00-quickstart", "04-pixels", "07-limits"]
    pixels = experiments["04-pixels"]
    assert pixels.parameters == {"smoke": {"pages": 2}, "cpu": {"max_pixels_values": [1, 2]}}
    assert (pixels.needs, pixels.cell_timeout_s) == ([], 600)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a:\n  cell_timeout_s: 1\n  needs: [gpus]",
            "a: needs: 0: Input should be 'gpu', 'model' or 'tiny' (given: 'gpus')",
        ),
        ("a:\n  cell_timeout: 1", "a: cell_timeout_s: Field required (given: {'cell_timeout': 1})"),
        ("a:\n  cell_timeout_s: 1\n  timeout: 1", "a: timeout: Extra inputs are not permitted"),
        ("a:\n  cell_timeout_s: 1\n  parameters: {gpus: {}}", "should be 'smoke', 'cpu' or 'gpu' (given: 'gpus')"),
        ("a:\n  cell_timeout_s: 1\n  parameters: {cpu: [1]}", "cpu: Input should be a valid dictionary (given: [1])"),
        ("a:\n  cell_timeout_s: 1\n  parameters: {cpu: {1: 2}}", "should be a valid string (given: 1)"),
        ("a: {}", "a: cell_timeout_s: Field required"),
        ("a:\n  cell_timeout_s: 1.5", "a: cell_timeout_s: Input should be a valid integer (given: 1.5)"),
        ("a:\n  cell_timeout_s: 0", "a: cell_timeout_s: Input should be greater than 0 (given: 0)"),
        ("a: [1]", "a: Input should be a valid dictionary or instance of Experiment (given: [1])"),
        ("- a", "Input should be a valid dictionary (given: ['a'])"),
        ("", "Input should be a valid dictionary (given: None)"),
        ("a: {", "not YAML"),
        ("a:\n  cell_timeout_s: 1\n  needs: gpu", "a: needs: Input should be a valid list (given: 'gpu')"),
    ],
)
def test_mistakes_in_the_file_name_it(tmp_path, text, message):
    file = tmp_path / "experiments.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(CommandError) as caught:
        load_experiments(file)
    assert str(caught.value).startswith(str(file)) and message in str(caught.value)


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(CommandError, match=r"nowhere\.yaml: cannot be read"):
        load_experiments(tmp_path / "nowhere.yaml")


def test_profile_model_and_overrides_meet_in_the_parameters(experiments):
    tasks = plan_tasks(experiments, "smoke", "Qwen/x", "04-pixels.ipynb, 00-quickstart", {"max_pixels_values": [7]})
    assert {task.experiment.name: task.parameters for task in tasks} == {
        "00-quickstart": {"model_id": "Qwen/x"},
        "04-pixels": {"pages": 2, "max_pixels_values": [7], "model_id": "Qwen/x"},
    }


def test_arguments_that_fit_no_notebook_are_refused(experiments):
    with pytest.raises(CommandError, match=r"ONLY=4-pixels: no notebook '4-pixels'; did you mean 04-pixels\?"):
        plan_tasks(experiments, "cpu", None, "4-pixels", {})
    with pytest.raises(
        CommandError, match="no parameter 'page' in 00-quickstart, 04-pixels, 07-limits; did you mean pages"
    ):
        plan_tasks(experiments, "cpu", None, None, {"page": 3})
    with pytest.raises(CommandError, match="no parameter 'model_id' in 07-limits"):
        plan_tasks(experiments, "cpu", "tiny", "07-limits", {})
    with pytest.raises(CommandError, match=r"04-pixels\.ipynb: pages = 'x' was given; wanted int"):
        plan_tasks(experiments, "cpu", None, "04-pixels", {"pages": "x"})


def test_a_notebook_that_needs_a_gpu_is_skipped_with_the_reason_or_refused_by_name(experiments, monkeypatch):
    monkeypatch.setattr(plan, "gpu_missing", lambda: "torch sees no CUDA GPU")
    assert plan_tasks(experiments, "cpu", None, None, {})[-1].skipped == "needs a GPU: torch sees no CUDA GPU"
    with pytest.raises(CommandError, match="ONLY=07-limits: 07-limits needs a GPU: torch sees no CUDA GPU"):
        plan_tasks(experiments, "cpu", None, "07-limits", {})
    monkeypatch.setattr(plan, "gpu_missing", lambda: "")
    assert plan_tasks(experiments, "cpu", None, None, {})[-1].skipped == ""


def test_the_profile_follows_the_machine_and_says_why(monkeypatch):
    monkeypatch.setattr(plan, "gpu_missing", lambda: "this torch is a CPU build")
    assert str(choose_profile(None)) == "cpu (this torch is a CPU build)"
    assert choose_profile("smoke").value == "smoke"
    with pytest.raises(CommandError, match="PROFILE=gpu: this torch is a CPU build; use PROFILE=cpu"):
        choose_profile("gpu")
    monkeypatch.setattr(plan, "gpu_missing", lambda: "")
    assert [choose_profile(p).value for p in (None, "gpu", "cpu")] == ["gpu", "gpu", "cpu"]


def test_a_model_is_the_embedded_one_a_folder_or_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    assert resolve_model(None) == (None, False) == resolve_model("")
    assert resolve_model("tiny") == ("tiny", False)
    assert resolve_model("mine") == (str(tmp_path / "mine"), False) == resolve_model("./mine")
    assert resolve_model("Qwen/Qwen2-VL-2B-Instruct") == ("Qwen/Qwen2-VL-2B-Instruct", True)
    for wrong in ("./absent", "/absent/folder", "a/b/c", "https://huggingface.co/x", "../absent", "-x", "a b"):
        with pytest.raises(CommandError, match="no such folder, and no Hub id"):
            resolve_model(wrong)


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "a\\b", "..", ".", ".hidden", "", " ", "a ", "a.", "x" * 200, "a\n", "C:x"]
)
def test_run_names_are_folder_names(tmp_path, name):
    if name == "":
        assert run_folder(tmp_path, name, "cpu").name.endswith("-cpu")
        return
    with pytest.raises(CommandError, match="not a folder name"):
        run_folder(tmp_path, name, "cpu")
    assert list(tmp_path.iterdir()) == []


def test_a_named_run_goes_on_and_an_unnamed_one_is_new(tmp_path):
    first, second = (run_folder(tmp_path, None, "smoke") for _ in range(2))
    assert first != second and (first / "notebooks").is_dir()
    assert run_folder(tmp_path, "мой-run_1.0", "cpu") == run_folder(tmp_path, "мой-run_1.0", "cpu")
    assert not list(tmp_path.glob("**/.probe"))


def test_a_results_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "results").write_text("no folder")
    why = "File already exists" if os.name == "nt" else "Not a directory"
    with pytest.raises(CommandError, match=rf"results[/\\]a: cannot be written to \({why}\); free at least 4 MiB"):
        run_folder(tmp_path / "results", "a", "cpu")


@pytest.mark.parametrize(("options", "reason"), [("size=64k", "No space left"), ("ro", "Read-only file system")])
def test_a_full_or_read_only_disk_is_refused_before_anything_runs(mount, options, reason):
    with pytest.raises(
        CommandError, match=rf"mounted/a: cannot be written to \({reason}.*; free at least 4 MiB there, or make"
    ):
        run_folder(mount(options), "a", "cpu")


def test_the_record_is_whole_and_names_no_home(tmp_path, monkeypatch):
    mine, told = str(Path("/home/someone/m")), str(Path("~/m"))
    monkeypatch.setenv("USERPROFILE" if os.name == "nt" else "HOME", str(Path("/home/someone")))
    write_record(tmp_path, {"notebooks": {"a": {"parameters": {"model_id": mine, "n": [1, None]}}}})
    assert read_record(tmp_path) == {"notebooks": {"a": {"parameters": {"model_id": told, "n": [1, None]}}}}
    assert without_home(mine) == told
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]
    (tmp_path / "run.json").write_text("[1")
    assert read_record(tmp_path) == {} == read_record(tmp_path / "absent")


@pytest.mark.skipif(shutil.which("git") is None, reason="there is no git here")
def test_the_commit_is_told_only_of_a_checkout_of_its_own(tmp_path, monkeypatch):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false"]
    assert code_state(tmp_path) == {"commit": None, "dirty": None}
    subprocess.run([*git, "init", "-q"], check=True)
    (tmp_path / "inner").mkdir()
    (tmp_path / "a").write_text("1")
    subprocess.run([*git, "add", "a"], check=True)
    subprocess.run([*git, "commit", "-qm", "m"], check=True)
    monkeypatch.setenv("GIT_DIR", "/nowhere")  # as inside a git hook
    state = code_state(tmp_path)
    assert len(state["commit"]) == 40 and state["dirty"] is False
    (tmp_path / "a").write_text("2")
    assert code_state(tmp_path) == state | {"dirty": True}
    assert code_state(tmp_path / "inner") == {"commit": None, "dirty": None}
