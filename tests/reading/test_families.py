"""Qwen2.5-VL and Qwen3-VL go through the same door: small random checkpoints of their own classes, as on the Hub."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from ocrlab import paths
from ocrlab.pages import load_pages
from ocrlab.reading.open import open_reader
from ocrlab.reading.settings import Settings

TINY = json.loads((paths.MODELS / "tiny" / "config.json").read_text(encoding="utf-8"))
IDS = {
    name: TINY[name] for name in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
}
TEXT = {
    "vocab_size": TINY["text_config"]["vocab_size"], "hidden_size": 64, "intermediate_size": 96,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048,
    "bos_token_id": None, "eos_token_id": TINY["text_config"]["eos_token_id"],
    "pad_token_id": TINY["text_config"]["pad_token_id"],
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen2_5_vl": {
        "text_config": TEXT
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}},
        "vision_config": {
            "depth": 2, "hidden_size": 64, "intermediate_size": 96, "num_heads": 2, "out_hidden_size": 64,
            "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 112,
            "fullatt_block_indexes": [1],
        },
    },
    "qwen3_vl": {
        "text_config": TEXT | {
            "head_dim": 16,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3], "mrope_interleaved": True,
            },
        },
        "vision_config": {
            "depth": 2, "hidden_size": 64, "intermediate_size": 96, "num_heads": 2, "out_hidden_size": 64,
            "patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2, "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0],
        },
    },
}  # fmt: skip


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
