"""The table of families: one place to add an entry, and models that it does not read are refused by name."""

from __future__ import annotations

import ast
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from ocrlab import paths
from ocrlab.pages import load_pages
from ocrlab.reading import loading
from ocrlab.reading.checkpoints import CheckpointError, load_models, locate
from ocrlab.reading.families import FAMILIES as TABLE
from ocrlab.reading.family import Family
from ocrlab.reading.limits import predict
from ocrlab.reading.loading import Unsupported, image_tokens_of
from ocrlab.reading.reader import in_this_process, open_reader
from ocrlab.reading.settings import SettingNotApplied, Settings
from tests.conftest import edit_json
from tests.reading import tiny_checkpoints
from tests.test_project import _code_lines as code_lines

TINY = json.loads((paths.MODELS / "tiny" / "config.json").read_text(encoding="utf-8"))
IDS = {
    name: TINY[name] for name in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
}
TEXT = {
    "vocab_size": TINY["text_config"]["vocab_size"],
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "bos_token_id": None,
    "eos_token_id": TINY["text_config"]["eos_token_id"],
    "pad_token_id": TINY["text_config"]["pad_token_id"],
}


class Fixed(Family):
    """A family unlike Qwen-VL: one size of image, no chat template, a preamble around what it reads."""

    def text(self, tokenizer: Any, prompt: str, system_prompt: str | None = None) -> str:
        return f"USER: {self.image_token} {prompt} ASSISTANT:"

    def limits(self, image_processor: Any) -> tuple[int, int]:
        return (image_processor.crop_size["height"] * image_processor.crop_size["width"],) * 2

    def set_limits(self, image_processor: Any, low: int, high: int) -> None:
        pass

    def cell_pixels(self, image_processor: Any) -> int:
        return self.cell_sides[0] ** 2

    def count(self, image_processor: Any, width: int, height: int) -> int:
        return self.limits(image_processor)[0] // self.cell_sides[0] ** 2

    def clean(self, text: str) -> str:
        return f"cleaned: {text}"


@pytest.fixture
def llava(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A random LLaVA of 16 image tokens a page, and its entry in the table: nothing else in the package knows it."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    vision = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = AutoConfig.for_model(
        "llava",
        text_config=TEXT | {"model_type": "llama"},
        vision_config=vision | {"model_type": "clip_vision_model", "image_size": 32, "patch_size": 8},
        image_token_index=IDS["image_token_id"],
        image_seq_length=16,
    )
    torch.manual_seed(0)
    AutoModelForImageTextToText.from_config(config).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(paths.MODELS / "tiny" / name, tmp_path)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32).save_pretrained(tmp_path)
    monkeypatch.setitem(TABLE, "llava", Fixed(cell_sides=(8,), vision="model.vision_tower", takes_token_types=False))
    return tmp_path


def test_an_entry_in_the_table_is_all_that_a_new_family_needs(llava: Path) -> None:
    settings = Settings(model_id=str(llava), max_new_tokens=6, min_new_tokens=6)
    page = load_pages("lines", limit=1)[0]
    with open_reader(settings) as reader:
        reading = reader.read(page)
        assert reader.actual["actual_max_pixels"] == 32 * 32 and reader.size_of(page) == 16
    assert (reading.status, reading.tokens, reading.image_tokens) == ("ok", 6, 16), reading.reason
    assert reading.text.startswith("cleaned: ") and reading.vision_s
    assert image_tokens_of(settings, [page]) == [16]
    with pytest.raises(SettingNotApplied, match="max_pixels: asked for 4096, but 1024 is in force"):
        open_reader(replace(settings, max_pixels=4096))
    with pytest.raises(SettingNotApplied, match=r"system_prompt: asked for 'Be exact', .* put its words into prompt"):
        open_reader(replace(settings, system_prompt="Be exact"))
    with pytest.raises(CheckpointError, match="not modelled for llava"):
        predict(settings, 16)


def test_a_model_of_another_family_is_refused_with_the_way_that_is_left(checkpoint: Path) -> None:
    edit_json(checkpoint / "config.json", lambda c: c | {"model_type": "llava_next"})
    with pytest.raises(CheckpointError, match=r"'llava_next' is not one .*qwen2_vl.* vLLM, .*model_id='endpoint:http"):
        open_reader(Settings(model_id=str(checkpoint)))


@pytest.mark.parametrize("model_id", ["rednote-hilab/dots.ocr", "rednote-hilab/dots.mocr"])
def test_models_for_a_server_are_named_with_their_command(model_id: str) -> None:
    with pytest.raises(CheckpointError, match=f"{model_id}: cannot be read in this process: .* vllm serve {model_id}"):
        open_reader(Settings(model_id=model_id))


def test_what_needs_torchvision_is_refused_by_name_where_it_does_not_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = [name for name, family in TABLE.items() if family.needs]
    assert named == ["minicpm_ocr"] and {TABLE[name].needs for name in named} == {"torchvision"}
    tiny_checkpoints.write("minicpm_ocr", tmp_path)

    def beside_a_cpu_build(module: str) -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(loading, "import_module", beside_a_cpu_build)
    words = r"minicpm_ocr needs torchvision, .*nms does not exist.*'ocrlab\[models\]'.* or read it from a server"
    with pytest.raises(Unsupported, match=words):
        open_reader(Settings(model_id=str(tmp_path)))
    assert image_tokens_of(Settings(model_id=str(tmp_path)), load_pages("lines", limit=1)) == [0]
    monkeypatch.undo()
    tiny_checkpoints.stand_in_for_torchvision(monkeypatch)
    files = tmp_path / "preprocessor_config.json"
    edit_json(files, lambda c: c | {"small_image_upsize": "adaptive"})
    with pytest.raises(SettingNotApplied, match="small_image_upsize='adaptive' is not read"):
        open_reader(Settings(model_id=str(tmp_path)))


def test_code_that_a_repository_brings_is_neither_run_nor_a_reason_where_transformers_has_the_family(
    tmp_path: Path,
) -> None:
    tiny_checkpoints.write("paddleocr_vl", tmp_path)
    edit_json(tmp_path / "config.json", lambda c: c | {"auto_map": {"AutoModelForImageTextToText": "evil.Model"}})
    (tmp_path / "evil.py").write_text("raise SystemExit('run')", encoding="utf-8")
    with open_reader(Settings(model_id=str(tmp_path), max_new_tokens=1)) as reader:
        assert type(in_this_process(reader).model).__name__ == "PaddleOCRVLForConditionalGeneration"


def test_an_older_transformers_is_named(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.CONFIG_MAPPING", {})
    with pytest.raises(Unsupported, match="does not have qwen2_vl yet; pip install -U transformers"):
        open_reader(Settings(model_id=str(checkpoint)))


@pytest.mark.parametrize("name", [name for name in TABLE if name != "qwen2_vl"])
def test_without_one_entry_the_others_stay(name: str, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(TABLE, name)
    assert locate(Settings(model_id="tiny")).family is TABLE["qwen2_vl"]
    edit_json(checkpoint / "config.json", lambda c: c | {"model_type": name})
    with pytest.raises(CheckpointError, match=f"model_type '{name}' is not one that the reader knows"):
        locate(Settings(model_id=str(checkpoint)))


def test_known_models_are_asked_what_they_were_trained_on(checkpoint: Path, tmp_path: Path) -> None:
    known = load_models()
    assert {one["family"] for one in known.values()} <= set(TABLE)
    assert all(
        set(one) <= {"model_id", "family", "prompt", "max_pixels", "licence", "parameters", "note"}
        for one in known.values()
    )
    named = Path(shutil.copytree(checkpoint, tmp_path / "olmOCR-2-7B-1025"))
    edit_json(
        named / "preprocessor_config.json",
        lambda c: c | {"max_pixels": None, "size": {"shortest_edge": 256, "longest_edge": 9_000_000}},
    )
    with open_reader(Settings(model_id=str(named), max_new_tokens=1)) as reader:
        assert reader.actual["actual_prompt"].startswith("Attached is one page of a document")
        assert reader.actual["actual_max_pixels"] == known["olmocr-2-7b-1025"]["max_pixels"]
        reader.apply(replace(reader.settings, prompt="Words.", max_pixels=4096))
        assert "actual_prompt" not in reader.actual and reader.actual["actual_max_pixels"] == 4096


def test_readme_has_every_family_and_model() -> None:
    text = (paths.ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in TABLE if f"`{name}`" not in text] == []
    models = {
        one["model_id"] for one in load_models().values() if not one["model_id"].startswith(("Qwen/", "lightonai/"))
    }
    assert [one for one in sorted(models) if one not in text] == []
    for name, family in TABLE.items():
        assert not family.prompt or f"`{family.prompt}`" in text or name == "got_ocr2", name


def test_a_family_takes_forty_lines_at_most() -> None:
    source = (paths.ROOT / "ocrlab" / "reading" / "families.py").read_text(encoding="utf-8")
    tree = ast.parse(source)
    classes = {
        node.name: ast.get_source_segment(source, node) or "" for node in tree.body if isinstance(node, ast.ClassDef)
    }
    table = next(
        node.value for node in tree.body if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Dict)
    )
    for key, value in zip(table.keys, table.values, strict=True):
        assert isinstance(key, ast.Constant) and isinstance(value, ast.Call) and isinstance(value.func, ast.Name)
        own = code_lines(classes[value.func.id]) if value.func.id not in {"Family", "OcrFamily", "Tiles"} else 0
        assert own + code_lines(ast.get_source_segment(source, value) or "") <= 40, key.value


def test_no_other_file_names_a_family() -> None:
    for file in (paths.ROOT / "ocrlab").rglob("*.py"):
        strings = {
            n.value for n in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(n, ast.Constant)
        }
        assert file.name == "families.py" or "training" in file.parts or not strings & set(TABLE), file


def test_a_template_that_refuses_a_system_prompt(tmp_path: Path) -> None:
    for file in (paths.MODELS / "tiny").iterdir():
        shutil.copy(file, tmp_path)
    template = tmp_path / "chat_template.jinja"
    refusal = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    template.write_text(refusal + template.read_text(encoding="utf-8"), encoding="utf-8")
    settings = Settings(model_id=str(tmp_path), max_new_tokens=1)
    with open_reader(settings) as reader:
        assert reader.read(load_pages("lines", limit=1)[0]).tokens == 1
        with pytest.raises(SettingNotApplied, match="no place for it"):
            reader.apply(replace(settings, system_prompt="Be exact"))
