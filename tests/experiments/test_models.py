"""The notebook `models` reads with several models, leaves out what does not fit with the figure, and names the best."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from ocrlab.machine import hardware
from ocrlab.machine.hardware import Machine
from ocrlab.paths import MODELS
from ocrlab.study.records import load_rows
from tests.experiments.cells import Cells

pytestmark = pytest.mark.filterwarnings("error::UserWarning", "error::RuntimeWarning", "error::FutureWarning")
SMALL = Machine("a small card", 2**30, 1e11, 1e12, "planted", "cpu")


def learned(folder: Path, monkeypatch: pytest.MonkeyPatch, **given: object) -> Cells:
    monkeypatch.setenv("OCRLAB_RUN_FOLDER", str(folder))
    monkeypatch.setattr(hardware, "measured_machine", lambda *_: SMALL)
    cells = Cells("models")
    parameters = next(source for source in cells.code if source.startswith("model_id"))
    cells.run(parameters).update(
        {"page_set": "lines", "pages": 12, "max_new_tokens": 64, "speed_pages": 1, "speed_tokens": 2} | given
    )
    for source in cells.code[cells.code.index(parameters) + 1 :]:
        cells.run(source)
    return cells


@pytest.fixture
def worse(tmp_path: Path) -> Path:
    """The embedded reader with what its later layers add taken out: it writes, and not what is there."""
    folder = tmp_path / "worse"
    shutil.copytree(MODELS / "tiny", folder)
    weights = load_file(folder / "model.safetensors")
    names = sorted(name for name in weights if name.endswith(("down_proj.weight", "o_proj.weight")))[2:]
    save_file(weights | {name: weights[name] * 0 for name in names}, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_the_better_model_is_named_and_what_does_not_fit_is_grey_with_its_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, worse: Path
) -> None:
    others = ["tiny", "Qwen/Qwen2-VL-2B-Instruct"]
    found = learned(tmp_path / "run", monkeypatch, model_id=str(worse), others=others)
    known = found["known"].set_index("model")
    assert known["fits"].to_dict() == {
        "worse": True,
        "tiny": True,
        "Qwen2-VL-2B-Instruct": False,
        "small-glm-ocr": None,
    }
    assert known["peak_bytes"]["Qwen2-VL-2B-Instruct"] > 4 * 2**30
    assert set(load_rows(tmp_path / "run", "models")["model_id"]) == {str(worse), "tiny"}, (
        "what does not fit stays away"
    )
    assert "Read with tiny: CER 0" in found.said and "Too large for this machine: Qwen2-VL-2B-Instruct." in found.said
    words = [text.get_text() for text in found["left"].texts]
    assert words and words[0].startswith("does not fit: ") and "GiB predicted" in words[0]
    costs = found["costs"]
    assert costs["weights"].to_dict() == {"worse": "its own", "tiny": "its own", "small-glm-ocr": "random"}
    assert (costs["tpot_s"] > 0).all() and costs["image_tokens"]["small-glm-ocr"] < costs["image_tokens"]["tiny"]
    findings = [json.loads(line) for line in (tmp_path / "run" / "findings" / "models.jsonl").open()]
    assert [one["model"] for one in findings] == ["worse", "tiny", "Qwen2-VL-2B-Instruct", "small-glm-ocr"]


def test_where_no_model_fits_the_answer_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.experiments.test_models.SMALL", replace(SMALL, memory_bytes=2**20))
    found = learned(tmp_path, monkeypatch, shapes=[])
    assert "Too large for this machine: tiny." in found.said
