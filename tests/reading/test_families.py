"""Qwen2.5-VL and Qwen3-VL go through the same door: small random checkpoints of their own classes, as on the Hub."""

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
from ocrlab.reading.checkpoints import CheckpointError
from ocrlab.reading.families import FAMILIES as TABLE
from ocrlab.reading.family import Family
from ocrlab.reading.limits import predict
from ocrlab.reading.loading import image_tokens_of
from ocrlab.reading.reader import open_reader
from ocrlab.reading.settings import SettingNotApplied, Settings

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
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen2_5_vl": {
        "text_config": TEXT
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}},
        "vision_config": {
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_heads": 2,
            "out_hidden_size": 64,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [1],
        },
    },
    "qwen3_vl": {
        "text_config": TEXT
        | {
            "head_dim": 16,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "mrope_section": [2, 3, 3],
                "mrope_interleaved": True,
            },
        },
        "vision_config": {
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_heads": 2,
            "out_hidden_size": 64,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0],
        },
    },
}


class Fixed(Family):
    """A family unlike Qwen-VL: one size of image, no chat template, a preamble around what it reads."""

    def text(self, tokenizer: Any, prompt: str, system_prompt: str | None = None) -> str:
        return f"USER: {self.image_token} {prompt} ASSISTANT:"

    def limits(self, image_processor: Any) -> tuple[int, int]:
        return (image_processor.crop_size["height"] * image_processor.crop_size["width"],) * 2

    def set_limits(self, image_processor: Any, low: int, high: int) -> None:
        pass

    def cell_side(self, image_processor: Any) -> int:
        return self.cell_sides[0]

    def count(self, image_processor: Any, width: int, height: int) -> int:
        return self.limits(image_processor)[0] // self.cell_sides[0] ** 2

    def more_tensors(self, ids: torch.Tensor, image_token_id: int) -> dict[str, torch.Tensor]:
        return {}

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
    monkeypatch.setitem(TABLE, "llava", Fixed(cell_sides=(8,), vision="model.vision_tower"))
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


def test_no_other_file_names_a_family() -> None:
    for file in (paths.ROOT / "ocrlab").rglob("*.py"):
        strings = {
            n.value for n in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(n, ast.Constant)
        }
        assert file.name == "families.py" or "training" in file.parts or not strings & set(TABLE), file


@pytest.fixture(params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    config = AutoConfig.for_model(request.param, tie_word_embeddings=True, **IDS, **FAMILIES[request.param])
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config)
    model.save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(paths.MODELS / "tiny" / name, tmp_path)
    vision = FAMILIES[request.param]["vision_config"]
    preprocessor = json.loads((paths.MODELS / "tiny" / "preprocessor_config.json").read_text(encoding="utf-8"))
    preprocessor |= {"patch_size": vision["patch_size"], "image_processor_type": "Qwen2VLImageProcessorFast"}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(preprocessor), encoding="utf-8")
    return tmp_path


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


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_other_families_read_single_pages_and_batches_alike(family: Path, attention: Any) -> None:
    settings = Settings(
        model_id=str(family), attn_implementation=attention, max_pixels=65536, max_new_tokens=6, min_new_tokens=6
    )
    pages = load_pages("lines", limit=3)
    with open_reader(settings) as reader:
        assert reader.actual["actual_vision_attn_implementation"] == attention
        single = reader.read(pages)
    with open_reader(Settings(**settings.as_dict() | {"batch_size": 3})) as reader:
        batched = reader.read(pages)
    assert [r.status for r in single + batched] == ["ok"] * 6
    assert [r.token_ids for r in single] == [r.token_ids for r in batched]
    assert all(r.vision_s and r.image_tokens for r in single)


def test_dummy_weights_of_other_families(family: Path) -> None:
    (family / "model.safetensors").unlink()
    settings = Settings(model_id=str(family), weights="dummy", max_new_tokens=4, min_new_tokens=4)
    with open_reader(settings) as reader:
        assert reader.read(load_pages("lines", limit=1)[0]).tokens == 4
