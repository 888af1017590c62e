"""Code from a repository runs only for a pinned commit that was asked for; what it lacks is a reason, not a crash."""

from __future__ import annotations

from pathlib import Path

import pytest

from ocrlab.pages import load_pages
from ocrlab.reading.checkpoints import CheckpointError, locate
from ocrlab.reading.settings import SettingError, Settings, load_preset
from ocrlab.study.experiment import run_experiment
from tests.conftest import edit_json

MODEL = "Qwen/Qwen2-VL-2B-Instruct"
OWN = """
{extra}
from transformers import Qwen2VLForConditionalGeneration as Base

class Qwen2VLForConditionalGeneration(Base):
    marked = True
"""


@pytest.fixture
def own_code(hub_cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The cached model brings a class of its own, as dots.ocr does."""
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = snapshot(tmp_path, hub_cache)
    edit_json(
        folder / "config.json",
        lambda c: c | {"auto_map": {"AutoModelForImageTextToText": "own.Qwen2VLForConditionalGeneration"}},
    )
    (folder / "own.py").write_text(OWN.format(extra=""), encoding="utf-8")
    _name_weights_as_modules(folder / "model.safetensors")
    return hub_cache


def _name_weights_as_modules(file: Path) -> None:
    """Give weights their modules' names: transformers turns older names for its own classes only."""
    from safetensors.torch import load_file, save_file

    named = {}
    for name, weight in load_file(file).items():
        named[
            name.replace("visual.", "model.visual.")
            if name.startswith("visual.")
            else name.replace("model.", "model.language_model.", 1)
            if name.startswith("model.")
            else name
        ] = weight
    save_file(named, file, metadata={"format": "pt"})


def snapshot(tmp_path: Path, commit: str) -> Path:
    return tmp_path / "hub" / "models--Qwen--Qwen2-VL-2B-Instruct" / "snapshots" / commit


def test_it_needs_the_full_commit() -> None:
    for revision in (None, "main", "895c3a4"):
        with pytest.raises(SettingError, match="one commit only"):
            Settings(model_id=MODEL, revision=revision, trust_remote_code=True)


def test_without_the_flag_it_is_refused_and_nothing_runs(own_code: str) -> None:
    with pytest.raises(CheckpointError, match=r"auto_map.*trust_remote_code=True"):
        locate(Settings(model_id=MODEL, revision=own_code))


def test_with_flag_and_commit_the_own_class_reads(own_code: str) -> None:
    from ocrlab.reading.reader import open_reader

    asked = Settings(
        model_id=MODEL, revision=own_code, trust_remote_code=True, dtype="float32", max_new_tokens=40, max_pixels=65536
    )
    with open_reader(asked) as reader:
        assert type(reader.model).marked  # type: ignore[attr-defined]
        assert reader.read(load_pages("lines")[0]).status == "ok"


def test_what_its_code_lacks_is_the_rows_reason(own_code: str, tmp_path: Path) -> None:
    text = OWN.format(extra="import a_package_that_is_not_here")
    (snapshot(tmp_path, own_code) / "own.py").write_text(text, encoding="utf-8")
    asked = Settings(model_id=MODEL, revision=own_code, trust_remote_code=True, max_new_tokens=8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))  # for the reading process
        rows = run_experiment("own", [asked], load_pages("lines")[:2], folder=tmp_path)
    assert rows["status"].tolist() == ["unsupported"] * 2
    assert "a_package_that_is_not_here" in rows["reason"][0]


def test_a_folder_is_never_trusted(checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match="not for a folder"):
        locate(Settings(model_id=str(checkpoint), revision="0" * 40, trust_remote_code=True))


def test_dots_ocr_gives_rows_with_the_reason_and_what_works_instead(tmp_path: Path) -> None:
    preset = load_preset("dots-ocr")
    assert len(preset.revision or "") == 40 and preset.trust_remote_code
    rows = run_experiment("dots", [preset], load_pages("lines")[:1], folder=tmp_path)
    assert rows["status"].tolist() == ["unsupported"]
    assert "transformers 4.55" in rows["reason"][0] and "vllm serve" in rows["reason"][0]


def test_a_folder_of_dots_ocr_is_known_by_its_type(checkpoint: Path) -> None:
    edit_json(checkpoint / "config.json", lambda c: c | {"model_type": "dots_ocr"})
    with pytest.raises(CheckpointError, match="vllm serve"):
        locate(Settings(model_id=str(checkpoint)))
