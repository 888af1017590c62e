"""Will it fit, and how fast can it be at best? Memory and time floors from sizes, before anything is loaded.

The terms follow transformers' Qwen2-VL code at its peak moments, one by one; each says what is alive then. Where
batches are read, the vision tower takes its images one after another in eager and sdpa, and all rows are held at once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ocrlab.machine.hardware import CONTEXT_BYTES, Machine
from ocrlab.reading.checkpoints import CheckpointError, locate_shapes
from ocrlab.reading.loading import BYTES_PER_WEIGHT, SPARES_VISION
from ocrlab.reading.settings import Settings

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
#: Text tokens around an image: the chat template and a short prompt.
PROMPT_TOKENS = 32
#: What BLAS and the allocator add in a process on a CPU, by the dtype's size; measured here (LOG.md).
CPU_BUFFERS_BYTES = {4: 3 * 2**20, 2: 7 * 2**20}


@dataclass(frozen=True)
class Tower:
    """A stack of layers: their number and width, heads, heads of keys and values, widths of a head and of the MLP."""

    layers: int
    width: int
    heads: int
    key_heads: int
    head_width: int
    mlp_width: int
    parameters: int
    sees: bool


@dataclass(frozen=True)
class Shapes:
    """Vision tower, text layers, and what lies between, in parameters; a tied head has none of its own.

    `cell_pixels` is one image token's area.
    """

    vision: Tower
    text: Tower
    vocabulary: int
    embedding_parameters: int
    head_parameters: int
    patch_values: int
    merge: int
    cell_pixels: int


def shapes_of(settings: Settings) -> Shapes:
    """Return the sizes of the settings' model, with the Hub's cache or the package's configs, downloading nothing.

    Raises:
        CheckpointError: no config is at hand, or the family's memory is not modelled.
    """
    checkpoint = locate_shapes(settings)
    if not checkpoint.family.memory_modelled:
        raise CheckpointError(
            f"{settings.model_id}: memory and time are not modelled for {checkpoint.config['model_type']}; "
            f"measure it instead"
        )
    return _shapes(json.dumps(checkpoint.config))


@lru_cache(maxsize=8)
def _shapes(config_json: str) -> Shapes:
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    config: Any = AutoConfig.for_model(**json.loads(config_json))
    with torch.device("meta"):
        model: Any = AutoModelForImageTextToText.from_config(config)
    text, vision = config.text_config, config.vision_config
    towers = {"visual": model.model.visual, "language_model": model.model.language_model}
    count = {name: sum(p.numel() for p in tower.parameters()) for name, tower in towers.items()}
    width, heads = vision.embed_dim, vision.num_heads
    visual = Tower(
        vision.depth, width, heads, heads, width // heads, int(width * vision.mlp_ratio), count["visual"], True
    )
    width, heads, keys = text.hidden_size, text.num_attention_heads, text.num_key_value_heads
    embedding = text.vocab_size * width
    layers = count["language_model"] - embedding
    language = Tower(text.num_hidden_layers, width, heads, keys, width // heads, text.intermediate_size, layers, False)
    head = 0 if config.tie_word_embeddings else embedding
    patch, merge = vision.patch_size, vision.spatial_merge_size
    values = 3 * vision.temporal_patch_size * patch**2
    return Shapes(visual, language, text.vocab_size, embedding, head, values, merge, (patch * merge) ** 2)


@dataclass(frozen=True)
class Memory:
    """Bytes by what holds them. Phases do not overlap, so `peak_bytes` is the most at one moment and not their sum."""

    weights_bytes: int
    inputs_bytes: int
    vision_bytes: int
    prefill_bytes: int
    kv_cache_bytes: int
    logits_bytes: int

    @property
    def peak_bytes(self) -> int:
        """Weights and the most that a reading holds above them."""
        decode = self.prefill_bytes + self.kv_cache_bytes + self.logits_bytes
        return self.weights_bytes + self.inputs_bytes + max(self.vision_bytes, decode)


@dataclass(frozen=True)
class Floors:
    """Seconds that a machine needs at least, by its bandwidth and matmul rate."""

    vision_s: float
    prefill_s: float
    tpot_s: float


@dataclass(frozen=True)
class Prediction:
    """Memory, and with a machine its floors and whether it fits; `margin_bytes` is what would be left on the card."""

    memory: Memory
    floors: Floors | None = None
    margin_bytes: int | None = None

    @property
    def fits(self) -> bool | None:
        """Whether it fits, a CUDA context included; None without a machine."""
        return None if self.margin_bytes is None else self.margin_bytes >= 0


def predict(settings: Settings, image_tokens: int, machine: Machine | None = None, dtype: str = "") -> Prediction:
    """Return memory (and floors, for a machine) of reading pages of `image_tokens` tokens each with the settings.

    `dtype` replaces `dtype="auto"` (default: bfloat16). Raises CheckpointError where the sizes are not known.
    """
    shapes = shapes_of(settings)
    dtype = dtype or ("bfloat16" if settings.dtype == "auto" else settings.dtype)
    size = BYTES[dtype]
    on_cpu = settings.device == "cpu" or (machine is not None and machine.device == "cpu")
    memory = _memory(settings, shapes, image_tokens, dtype, on_cpu)
    if machine is None:
        return Prediction(memory)
    floors = _floors(settings, shapes, image_tokens, size, machine)
    context = 0 if machine.device == "cpu" else CONTEXT_BYTES
    return Prediction(memory, floors, machine.memory_bytes - context - memory.peak_bytes)


def _memory(settings: Settings, shapes: Shapes, image_tokens: int, dtype: str, on_cpu: bool) -> Memory:
    pages, size = settings.batch_size, BYTES[dtype]
    patches = image_tokens * shapes.merge**2
    tokens = image_tokens + PROMPT_TOKENS
    longest = tokens + settings.max_new_tokens
    text = shapes.text
    cached = pages * (settings.num_beams or 1) * longest
    score = score_bytes(settings, dtype, on_cpu)
    return Memory(
        weights_bytes=_weight_bytes(settings, shapes.vision, size)
        + _weight_bytes(settings, shapes.text, size)
        + (shapes.embedding_parameters + shapes.head_parameters) * size,
        inputs_bytes=pages * patches * shapes.patch_values * 4 + (CPU_BUFFERS_BYTES[size] if on_cpu else 0),
        vision_bytes=_vision_bytes(shapes.vision, patches, pages, size, score, shapes.patch_values),
        prefill_bytes=_prefill_bytes(text, tokens, pages, size, score),
        kv_cache_bytes=2 * text.layers * text.key_heads * text.head_width * cached * size,
        logits_bytes=pages * (settings.num_beams or 1) * shapes.vocabulary * (size + 4),
    )


def _weight_bytes(settings: Settings, tower: Tower, size: int) -> int:
    """Bytes of a tower's weights: nearly all of them are in linear layers, which quantization takes."""
    spared = tower.sees and settings.quantization in SPARES_VISION
    return round(tower.parameters * (size if spared else BYTES_PER_WEIGHT.get(settings.quantization or "", size)))


def score_bytes(settings: Settings, dtype: str, on_cpu: bool) -> int:
    """Return the bytes that an attention holds for each pair of tokens and head at its peak; 0 where it streams.

    eager: products in the dtype, their softmax in float32, its copy in the dtype. Low-precision products are turned
    into float32 first, but for float16 on a card, where torch's softmax takes them as they are (ATen's SoftMax.cpp;
    LOG.md has bfloat16 on a card, measured). SDPA's math kernel computes in float32 and marks rows that see nothing.
    """
    if settings.attn_implementation == "eager":
        return 10 if dtype == "bfloat16" or (dtype == "float16" and on_cpu) else 8
    return 9 if settings.sdpa_kernel == "math" else 0


def _vision_bytes(tower: Tower, patches: int, pages: int, size: int, score: int, values: int) -> int:
    """The most of three moments in a block: turning queries and keys, attention, the MLP.

    Alive throughout: the patches in the model's dtype, sines and cosines in float32, the residual before and after and
    what went into the norm. Scores are of one page at a time.
    """
    rows, width = pages * patches, tower.width
    always = (values * size if size < 4 else 0) + 2 * tower.head_width * 4 + 2 * width * size
    # qkv; queries and keys in float32, the first result, and the second's two products and sum.
    turning = 3 * width * size + width * (2 * 4 * (size < 4) + 4 * 4)
    # The first product, its scaled copy and the sigmoid of quick GELU.
    mlp = width * size + 3 * tower.mlp_width * size
    attention = rows * 5 * width * size + tower.heads * patches**2 * score
    return rows * always + max(rows * turning, rows * mlp, attention)


def _prefill_bytes(tower: Tower, tokens: int, pages: int, size: int, score: int) -> int:
    """The most of two moments in a layer: the MLP's gate, value and product, or attention."""
    rows = pages * tokens
    always = 3 * tower.width * size
    qkv = (tower.heads + 2 * tower.key_heads) * tower.head_width * size
    attention = rows * 2 * qkv + pages * tower.heads * tokens**2 * score
    return rows * always + max(rows * 3 * tower.mlp_width * size, attention)


def _floors(settings: Settings, shapes: Shapes, image_tokens: int, size: int, machine: Machine) -> Floors:
    """Count two operations a weight and token, four a pair of tokens and width in attention, half of that if causal."""
    pages = settings.batch_size
    patches, tokens = image_tokens * shapes.merge**2, image_tokens + PROMPT_TOKENS
    vision, text = shapes.vision, shapes.text
    vision_flops = 2 * vision.parameters * patches + 4 * vision.layers * patches**2 * vision.width
    text_flops = 2 * text.parameters * tokens + 2 * text.layers * tokens**2 * text.heads * text.head_width
    head = shapes.head_parameters or shapes.embedding_parameters
    kv = 2 * text.layers * text.key_heads * text.head_width * (tokens + settings.max_new_tokens / 2) * size
    read = _weight_bytes(settings, text, size) + head * size + pages * kv
    return Floors(
        vision_s=pages * vision_flops / machine.matmul_flops_s,
        prefill_s=pages * text_flops / machine.matmul_flops_s,
        tpot_s=read / machine.bandwidth_bytes_s,
    )
