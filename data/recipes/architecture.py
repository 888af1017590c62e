"""The embedded reader's shape: Qwen2-VL's own classes at a few million parameters, with a byte-level tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.recipes.sampler import CYRILLIC, EXTRA
from ocrlab.reading.family import CHAT_TEMPLATE

if TYPE_CHECKING:
    from transformers import Qwen2Tokenizer, Qwen2VLForConditionalGeneration

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

PATCH_SIZE, MERGE_SIZE = 8, 2
CELL = PATCH_SIZE * MERGE_SIZE
MIN_PIXELS, MAX_PIXELS = 4 * CELL**2, 1024 * CELL**2


def build_tokenizer() -> Qwen2Tokenizer:
    """Return a Qwen2 tokenizer of 256 bytes and one token for each Cyrillic letter and printed sign."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    level = ByteLevel(add_prefix_space=False, use_regex=False)
    vocabulary = {symbol: i for i, symbol in enumerate(sorted(ByteLevel.alphabet()))}
    merges: list[tuple[str, str]] = []
    for character in CYRILLIC + CYRILLIC.upper() + EXTRA:
        symbols = level.pre_tokenize_str(character)[0][0]
        for end in range(2, len(symbols) + 1):
            if symbols[:end] not in vocabulary:
                merges.append((symbols[: end - 1], symbols[end - 1]))
                vocabulary[symbols[:end]] = len(vocabulary)
    return Qwen2Tokenizer(
        vocab=vocabulary,
        merges=merges,  # type: ignore[arg-type]
        model_max_length=4096,
        additional_special_tokens=list(SPECIAL_TOKENS),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE.read_text(encoding="utf-8"),
        padding_side="left",
    )


def build_model(tokenizer: Qwen2Tokenizer) -> Qwen2VLForConditionalGeneration:
    """Return the untrained reader in float32, greedy by its own generation config."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    ids: dict[str, Any] = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    text = {
        "vocab_size": -(-len(tokenizer) // 16) * 16,
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_hidden_layers": 3,
        "max_window_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        # Interleaved thirds give width every band of frequencies; three plain sections leave it the lowest.
        "rope_parameters": {"rope_type": "default", "rope_theta": 200.0, "mrope_section": [1, 1, 2] * 4},
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
    }
    vision = {
        "depth": 4,
        "embed_dim": 160,
        "hidden_size": 192,
        "num_heads": 5,
        "mlp_ratio": 4,
        "hidden_act": "quick_gelu",
        "patch_size": PATCH_SIZE,
        "spatial_merge_size": MERGE_SIZE,
        "temporal_patch_size": 2,
        "rope_parameters": {"rope_type": "axial", "rope_theta": 100.0},
    }
    config = Qwen2VLConfig(
        text_config=text,
        vision_config=vision,
        tie_word_embeddings=True,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    model = Qwen2VLForConditionalGeneration(config)
    generation = model.generation_config
    generation.eos_token_id, generation.pad_token_id = ids["<|im_end|>"], ids["<|endoftext|>"]
    generation.bos_token_id, generation.do_sample = None, False
    return model


def save_checkpoint(model: Qwen2VLForConditionalGeneration, tokenizer: Qwen2Tokenizer, folder: Path) -> None:
    """Write the checkpoint in Hub layout: bfloat16 safetensors, tokenizer, template, image processor."""
    import copy

    import torch
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    folder.mkdir(parents=True, exist_ok=True)
    stored: Any = copy.deepcopy(model)
    stored.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = {"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS}
    Qwen2VLImageProcessorPil(
        patch_size=PATCH_SIZE, merge_size=MERGE_SIZE, temporal_patch_size=2, size=size
    ).save_pretrained(folder)
    for file in folder.iterdir():
        file.chmod(0o644)  # safetensors are written for the owner alone
