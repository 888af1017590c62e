"""Will it fit, and how fast can it be at best? Memory and time floors from sizes, before anything is loaded.

Weights are counted for every family, on the meta device. Peaks are known for Qwen2-VL, Qwen2.5-VL and Qwen3-VL: the
terms follow transformers' code at its peak moments, one by one; each says what is alive then. Where batches are read,
the vision tower takes its images one after another in eager and sdpa, and all rows are held at once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import psutil

from ocrlab.machine.hardware import CONTEXT_BYTES, Machine
from ocrlab.reading.checkpoints import Checkpoint, CheckpointError, locate_shapes
from ocrlab.reading.family import resolved
from ocrlab.reading.loading import BYTES_PER_WEIGHT, SPARES_VISION
from ocrlab.reading.settings import Settings

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
#: Text tokens around an image: the chat template and a short prompt.
PROMPT_TOKENS = 32
_SURELY_FIT = 2048
#: What BLAS and the allocator add in a process on a CPU, by the dtype's size; measured here (LOG.md).
CPU_BUFFERS_BYTES = {4: 3 * 2**20, 2: 7 * 2**20}


class PeakNotModelled(CheckpointError):
    """A model whose weights can be counted and whose peak memory and time cannot be predicted."""


@dataclass(frozen=True)
class Tower:
    """A stack of layers: their number and width, heads, heads of keys and values, widths of a head and of the MLP.

    `mlp_tensors` of the MLP's width are held at once.
    """

    layers: int
    width: int
    heads: int
    key_heads: int
    head_width: int
    mlp_width: int
    mlp_tensors: int


@dataclass(frozen=True)
class Weights:
    """A model's parameters by what holds them, and how many of a tower's are in linear layers, for quantization.

    A tied head has none of its own; all that is neither vision tower nor embedding nor head counts as text.
    """

    vision: int
    text: int
    embedding: int
    head: int
    vision_linear: int
    text_linear: int

    @property
    def total(self) -> int:
        """All parameters that transformers holds; a checkpoint's files may have more, such as layers for training."""
        return self.vision + self.text + self.embedding + self.head

    def bytes_in(self, dtype: str, quantization: str | None = None) -> int:
        """Return the bytes in memory; embedding and head keep the dtype, and so does a vision tower that is spared.

        `auto` is taken for bfloat16, as by `predict`.
        """
        linear = self.text_linear + (0 if quantization in SPARES_VISION else self.vision_linear)
        return round(held_bytes(self.total, linear, BYTES.get(dtype, 2), quantization))


def held_bytes(parameters: int, linear: int, size: int, quantization: str | None) -> float:
    """Return the bytes of parameters of `size` bytes each, of which the linear ones are quantised where any are."""
    return parameters * size - linear * (size - BYTES_PER_WEIGHT.get(quantization or "", size))


@dataclass(frozen=True)
class Shapes:
    """Vision tower, text layers and weights; `cell_pixels` is one image token's area.

    `learned_positions` says whether the tower adds positions of its own to its patches, in float32, and
    `deepstack_levels` how many more sets of image tokens wait for the first text layers.
    """

    vision: Tower
    text: Tower
    weights: Weights
    vocabulary: int
    patch_values: int
    merge: int
    cell_pixels: int
    learned_positions: bool
    deepstack_levels: int


def weights_of(settings: Settings) -> Weights:
    """Return the parameters of the settings' model, of whatever family, downloading nothing.

    Raises:
        CheckpointError: no config is at hand.
    """
    checkpoint = locate_shapes(settings)
    return _weights(json.dumps(checkpoint.config), checkpoint.family.vision)


def shapes_of(settings: Settings, checkpoint: Checkpoint | None = None) -> Shapes:
    """Return the sizes of the settings' model, with the Hub's cache or the package's configs, downloading nothing.

    A loaded model's `checkpoint` is not looked for again.

    Raises:
        CheckpointError: no config is at hand; PeakNotModelled: the family's peaks are not known.
    """
    checkpoint = checkpoint or locate_shapes(settings)
    if not checkpoint.family.memory_modelled:
        raise PeakNotModelled(
            f"{settings.model_id}: memory and time are not modelled for {checkpoint.config['model_type']}; "
            f"measure it instead"
        )
    return _shapes(json.dumps(checkpoint.config), checkpoint.family.vision)


@lru_cache(maxsize=8)
def _built(config_json: str) -> Any:
    """Return the config's model on the meta device, which holds shapes and no values."""
    import torch
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(resolved(json.loads(config_json)))


@lru_cache(maxsize=32)
def _weights(config_json: str, vision: str) -> Weights:
    from torch import nn

    model = _built(config_json)
    inside = tuple(model.get_submodule(vision).modules())
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings().weight
    linear = {m for m in model.modules() if isinstance(m, nn.Linear) and m is not head}
    seen = sum(p.numel() for p in model.get_submodule(vision).parameters())
    own = 0 if head is None or head.weight is embedding else head.weight.numel()
    text = sum(p.numel() for p in model.parameters()) - seen - embedding.numel() - own
    in_vision, in_all = (sum(m.weight.numel() for m in some) for some in (linear & set(inside), linear))
    return Weights(seen, text, embedding.numel(), own, in_vision, in_all - in_vision)


@lru_cache(maxsize=8)
def _shapes(config_json: str, family_vision: str) -> Shapes:
    config = _built(config_json).config
    text, vision = config.text_config, config.vision_config
    width, heads = getattr(vision, "embed_dim", vision.hidden_size), vision.num_heads
    mlp = getattr(vision, "intermediate_size", None) or int(width * vision.mlp_ratio)
    # Quick GELU and SiLU's product hold one tensor more than GELU.
    tensors = 2 if vision.hidden_act.startswith("gelu") else 3
    visual = Tower(vision.depth, width, heads, heads, width // heads, mlp, tensors)
    width, heads, keys = text.hidden_size, text.num_attention_heads, text.num_key_value_heads
    head_width = getattr(text, "head_dim", None) or width // heads
    language = Tower(text.num_hidden_layers, width, heads, keys, head_width, text.intermediate_size, 3)
    patch, merge = vision.patch_size, vision.spatial_merge_size
    return Shapes(
        visual,
        language,
        _weights(config_json, family_vision),
        vocabulary=text.vocab_size,
        patch_values=3 * vision.temporal_patch_size * patch**2,
        merge=merge,
        cell_pixels=(patch * merge) ** 2,
        learned_positions=hasattr(vision, "num_position_embeddings"),
        deepstack_levels=len(getattr(vision, "deepstack_visual_indexes", ())),
    )


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


def predict(
    settings: Settings,
    image_tokens: int,
    machine: Machine | None = None,
    dtype: str = "",
    checkpoint: Checkpoint | None = None,
) -> Prediction:
    """Return memory (and floors, for a machine) of reading pages of `image_tokens` tokens each with the settings.

    `dtype` replaces `dtype="auto"` (default: bfloat16), `checkpoint` is a loaded model's. Raises CheckpointError where
    the sizes are not known.
    """
    shapes = shapes_of(settings, checkpoint)
    dtype = dtype or ("bfloat16" if settings.dtype == "auto" else settings.dtype)
    size = BYTES[dtype]
    on_cpu = settings.device == "cpu" or (machine is not None and machine.device == "cpu")
    memory = _memory(settings, shapes, image_tokens, dtype, on_cpu)
    if machine is None:
        return Prediction(memory)
    floors = _floors(settings, shapes, image_tokens, size, machine)
    context = 0 if machine.device == "cpu" else CONTEXT_BYTES
    return Prediction(memory, floors, machine.memory_bytes - context - memory.peak_bytes)


def refuse_too_large(
    settings: Settings, image_tokens: int, device: str, dtype: str, checkpoint: Checkpoint | None = None
) -> None:
    """Raise MemoryError where a batch is predicted to take more than a device's memory, with the budget that fits.

    Not everywhere does asking for too much fail: a driver on Windows spills into the system's memory, and a page takes
    an hour. Batches below `_SURELY_FIT` image tokens and families whose peaks are not modelled pass.
    """
    if settings.batch_size * image_tokens < _SURELY_FIT:
        return
    if device.startswith("cuda"):
        import torch

        memory_bytes = torch.cuda.get_device_properties(device).total_memory
    else:
        memory_bytes = psutil.virtual_memory().total

    def peak(tokens: int) -> int:
        return predict(settings, tokens, dtype=dtype, checkpoint=checkpoint).memory.peak_bytes

    try:
        wanted, cell = peak(image_tokens), shapes_of(settings, checkpoint).cell_pixels
    except CheckpointError:
        return
    if wanted > memory_bytes:
        fits = next((n for n in range(image_tokens, 0, -image_tokens // 50) if peak(n) <= memory_bytes), 0)
        way = f"max_pixels={fits * cell} fits" if fits else "no page fits"
        raise MemoryError(
            f"predicted, and not tried: {image_tokens:,} image tokens per page, {settings.batch_size} in a batch, take "
            f"{wanted / 2**30:.1f} GiB, and the device has {memory_bytes / 2**30:.1f}; {way}"
        )


def _memory(settings: Settings, shapes: Shapes, image_tokens: int, dtype: str, on_cpu: bool) -> Memory:
    pages, size = settings.batch_size, BYTES[dtype]
    patches = image_tokens * shapes.merge**2
    tokens = image_tokens + PROMPT_TOKENS
    longest = tokens + settings.max_new_tokens
    text = shapes.text
    cached = pages * (settings.num_beams or 1) * longest
    score = score_bytes(settings, dtype, on_cpu)
    return Memory(
        weights_bytes=shapes.weights.bytes_in(dtype, settings.quantization),
        inputs_bytes=pages * patches * shapes.patch_values * 4 + (CPU_BUFFERS_BYTES[size] if on_cpu else 0),
        vision_bytes=_vision_bytes(shapes, patches, pages, size, score),
        prefill_bytes=_prefill_bytes(text, tokens, pages, size, score)
        + 2 * pages * image_tokens * shapes.deepstack_levels * text.width * size,  # split and joined again
        kv_cache_bytes=2 * text.layers * text.key_heads * text.head_width * cached * size,
        logits_bytes=pages * (settings.num_beams or 1) * shapes.vocabulary * (size + 4),
    )


def score_bytes(settings: Settings, dtype: str, on_cpu: bool) -> int:
    """Return the bytes that an attention holds for each pair of tokens and head at its peak; 0 where it streams.

    eager: products in the dtype, their softmax in float32, its copy in the dtype. Low-precision products are turned
    into float32 first, but for float16 on a card, where torch's softmax takes them as they are (ATen's SoftMax.cpp;
    LOG.md has bfloat16 on a card, measured). SDPA's math kernel computes in float32 and marks rows that see nothing.
    """
    if settings.attn_implementation == "eager":
        return 10 if dtype == "bfloat16" or (dtype == "float16" and on_cpu) else 8
    return 9 if settings.sdpa_kernel == "math" else 0


def _vision_bytes(shapes: Shapes, patches: int, pages: int, size: int, score: int) -> int:
    """The most of three moments in a block (turning queries and keys, attention, the MLP) and of the start.

    Alive throughout: the patches in the model's dtype, sines and cosines in float32, the residual before and after and
    what went into the norm, learned positions in float32, and in the end what waits for the text layers. Scores are of
    one page at a time.
    """
    tower, learned = shapes.vision, shapes.learned_positions
    rows, width = pages * patches, tower.width
    always = (shapes.patch_values * size if size < 4 else 0) + 2 * tower.head_width * 4 + 2 * width * size
    always += learned * 4 * width + shapes.deepstack_levels * shapes.text.width * size // shapes.merge**2
    # qkv; queries and keys in float32, the first result, and the second's two products and sum.
    turning = 3 * width * size + width * (2 * 4 * (size < 4) + 4 * 4)
    # The activation's tensors, quick GELU's being the first product, its scaled copy and the sigmoid.
    mlp = width * size + tower.mlp_tensors * tower.mlp_width * size
    # Four neighbours' positions, and weighed in float32.
    start = learned * 4 * width * (size + 4)
    attention = rows * 5 * width * size + tower.heads * patches**2 * score
    return rows * always + max(rows * turning, rows * mlp, rows * start, attention)


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
    weights = shapes.weights
    vision_flops = 2 * weights.vision * patches + 4 * vision.layers * patches**2 * vision.width
    text_flops = 2 * weights.text * tokens + 2 * text.layers * tokens**2 * text.heads * text.head_width
    head = weights.head or weights.embedding
    kv = 2 * text.layers * text.key_heads * text.head_width * (tokens + settings.max_new_tokens / 2) * size
    read = held_bytes(weights.text, weights.text_linear, size, settings.quantization) + head * size + pages * kv
    return Floors(
        vision_s=pages * vision_flops / machine.matmul_flops_s,
        prefill_s=pages * text_flops / machine.matmul_flops_s,
        tpot_s=read / machine.bandwidth_bytes_s,
    )
