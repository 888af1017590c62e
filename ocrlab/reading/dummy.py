"""True shapes with random weights and no download: speed and memory do not depend on the values."""

from __future__ import annotations

from typing import Any

from ocrlab.reading.checkpoints import CHAT_TEMPLATE, Checkpoint

_QWEN_SPECIALS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
_FIRST_SPECIAL = 151_643


def build_dummy(checkpoint: Checkpoint, dtype: str, attn_implementation: str, device: str) -> Any:
    """Return the model of the checkpoint's config with weights drawn from N(0, 0.02), in eval mode on the device.

    Built under its dtype, not on the meta device: `to_empty` loses the rotary buffers.
    """
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText
    from transformers.initialization import no_init_weights

    values = {k: v for k, v in checkpoint.config.items() if k not in {"model_type", "dtype", "torch_dtype"}}
    config = AutoConfig.for_model(checkpoint.config["model_type"], **values)
    with torch.device(device), no_init_weights():
        model = AutoModelForImageTextToText.from_config(
            config, dtype=getattr(torch, dtype), attn_implementation=attn_implementation
        )
    generator = torch.Generator(device).manual_seed(0)
    noise = torch.empty(1 << 22, dtype=torch.float32, device=device).normal_(0, 0.02, generator=generator)
    noise = noise.to(getattr(torch, dtype))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 1:
                weight.fill_(0.0 if name.endswith("bias") else 1.0)
            else:
                flat = weight.view(-1)
                for start in range(0, flat.numel(), noise.numel()):
                    part = flat[start : start + noise.numel()]
                    part.copy_(noise[: part.numel()])
    model.tie_weights()
    model.generation_config.eos_token_id = config.text_config.eos_token_id or 151_645
    model.generation_config.pad_token_id = config.text_config.pad_token_id or 151_643
    model.generation_config.do_sample = False
    return model.eval()


def build_dummy_tokenizer() -> Any:
    """Return a byte-level tokenizer with Qwen2-VL's special tokens at their true ids; the words between are unused."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    vocabulary = {symbol: i for i, symbol in enumerate(sorted(ByteLevel.alphabet()))}
    vocabulary |= {f"<unused-{i}>": i for i in range(len(vocabulary), _FIRST_SPECIAL)}
    return Qwen2Tokenizer(
        vocab=vocabulary, merges=[], additional_special_tokens=list(_QWEN_SPECIALS),
        eos_token="<|im_end|>", pad_token="<|endoftext|>", 
        chat_template=CHAT_TEMPLATE.read_text(encoding="utf-8"), padding_side="left",
    )  # fmt: skip


def build_image_processor(config: dict[str, Any]) -> Any:
    """Return the PIL image processor with the config's patches and Qwen2-VL's default pixel limits."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    vision = config["vision_config"]
    cell = vision["patch_size"] * vision["spatial_merge_size"]
    return Qwen2VLImageProcessorPil(
        patch_size=vision["patch_size"], merge_size=vision["spatial_merge_size"],
        temporal_patch_size=vision["temporal_patch_size"],
        size={"shortest_edge": 4 * cell * cell, "longest_edge": 16384 * cell * cell},
    )  # fmt: skip
