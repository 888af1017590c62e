"""Qwen2-VL-2B-Instruct as its repository on the Hub has it, in everything but width and depth, with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ocrlab.reading.families import FAMILIES
from ocrlab.reading.family import CHAT_TEMPLATE
from tests.conftest import QWEN_GENERATION, QWEN_PREPROCESSOR

MODEL_ID = "Qwen/Qwen2-VL-2B-Instruct"
COMMIT = "895c3a49bc3fa70a340399125c650a463535e71c"
# Flat, as before transformers 4.52: text values at the top, old names for the rotary embedding and the channels.
CONFIG: dict[str, Any] = {
    "architectures": ["Qwen2VLForConditionalGeneration"],
    "model_type": "qwen2_vl",
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
    "vision_token_id": 151654,
    "image_token_id": 151655,
    "video_token_id": 151656,
    "hidden_act": "silu",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "max_window_layers": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
    "sliding_window": 32768,
    "use_sliding_window": False,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.41.2",
    "vision_config": {
        "depth": 2,
        "embed_dim": 64,
        "mlp_ratio": 4,
        "num_heads": 4,
        "in_chans": 3,
        "hidden_size": 64,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "spatial_patch_size": 14,
        "temporal_patch_size": 2,
    },
    "vocab_size": 151936,
}
GENERATION = QWEN_GENERATION | {
    "bos_token_id": 151643,
    "pad_token_id": 151643,
    "eos_token_id": [151645, 151643],
    "temperature": 0.01,
    "transformers_version": "4.37.0",
}


def write_hub_cache(cache: Path) -> Path:
    """Write a Hub cache that holds the checkpoint at one commit; return the snapshot's folder."""
    repo = cache / "models--Qwen--Qwen2-VL-2B-Instruct"
    folder = repo / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    FAMILIES["qwen2_vl"].dummy_tokenizer(CONFIG).save_pretrained(folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    template = {"chat_template": CHAT_TEMPLATE.read_text(encoding="utf-8")}
    files = {
        "config": CONFIG,
        "generation_config": GENERATION,
        "preprocessor_config": QWEN_PREPROCESSOR | {"patch_size": 14},
        "chat_template": template,
    }
    for name, values in files.items():
        (folder / f"{name}.json").write_text(json.dumps(values, indent=2), encoding="utf-8")
    _write_weights(folder)
    return folder


def _write_weights(folder: Path) -> None:
    """Write random bfloat16 weights under the repository's names, in two files with their index."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForImageTextToText

    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder), dtype=torch.bfloat16)
    for name, weight in model.named_parameters():
        if weight.ndim > 1 and "embed_tokens" not in name:
            weight.data *= 8  # louder than the embedding, which through the tied head only repeats the last token
    weights = {
        name.removeprefix("model.").replace("language_model.", "model."): weight.detach().clone()
        for name, weight in model.named_parameters()
    }
    parts = {"model-00001-of-00002.safetensors": {}, "model-00002-of-00002.safetensors": {}}
    first, second = parts
    for name, weight in weights.items():
        parts[second if name.startswith("model.layers.1") else first][name] = weight
    for file, tensors in parts.items():
        save_file(tensors, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, tensors in parts.items() for name in tensors}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
