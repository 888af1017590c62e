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
