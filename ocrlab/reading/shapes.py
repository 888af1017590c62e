"""A model's sizes, from its config alone: what memory and time are predicted from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ocrlab.reading.checkpoints import CheckpointError, locate
from ocrlab.reading.settings import Settings


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


@dataclass(frozen=True)
class Shapes:
    """Vision tower, text layers, and what lies between, in parameters; `cell_pixels` is one image token's area."""

    vision: Tower
    text: Tower
    vocabulary: int
    embedding_parameters: int
    head_parameters: int
    patch_values: int
    merge: int
    cell_pixels: int

    @property
    def parameters(self) -> int:
        """All parameters; a tied head counts once."""
        return self.vision.parameters + self.text.parameters + self.embedding_parameters + self.head_parameters


def shapes_of(settings: Settings) -> Shapes:
    """Return the sizes of the settings' model, with the Hub's cache or the package's configs, downloading nothing.

    Raises:
        CheckpointError: no config is at hand, or the family's memory is not modelled.
    """
    try:
        config = locate(settings).config
    except CheckpointError:
        config = locate(Settings(model_id=settings.model_id, weights="dummy")).config
    if config.get("model_type") != "qwen2_vl":
        raise CheckpointError(
            f"{settings.model_id}: memory and time are modelled for qwen2_vl only, not {config.get('model_type')!r}; "
            f"measure it instead"
        )
    return _shapes(_frozen(config))


def _frozen(value: Any) -> Any:
    if isinstance(value, dict):
        return tuple(sorted((k, _frozen(v)) for k, v in value.items()))
    return ("list", *map(_frozen, value)) if isinstance(value, list) else value


def _thawed(value: Any) -> Any:
    if isinstance(value, tuple) and value and value[0] == "list":
        return [_thawed(v) for v in value[1:]]
    return {k: _thawed(v) for k, v in value} if isinstance(value, tuple) else value


@lru_cache(maxsize=8)
def _shapes(frozen: Any) -> Shapes:
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    config: Any = AutoConfig.for_model(**_thawed(frozen))
    with torch.device("meta"):
        model: Any = AutoModelForImageTextToText.from_config(config)
    text, vision = config.text_config, config.vision_config
    count = {
        part: sum(p.numel() for p in getattr(model.model, part).parameters()) for part in ("visual", "language_model")
    }
    embedding = text.vocab_size * text.hidden_size
    cell = vision.patch_size * vision.spatial_merge_size
    return Shapes(
        Tower(vision.depth, vision.embed_dim, vision.num_heads, vision.num_heads, vision.embed_dim // vision.num_heads,
              int(vision.embed_dim * vision.mlp_ratio), count["visual"]),
        Tower(text.num_hidden_layers, text.hidden_size, text.num_attention_heads, text.num_key_value_heads,
              text.hidden_size // text.num_attention_heads, text.intermediate_size,
              count["language_model"] - embedding),
        text.vocab_size, embedding, 0 if config.tie_word_embeddings else embedding,
        3 * vision.temporal_patch_size * vision.patch_size**2, vision.spatial_merge_size, cell * cell,
    )  # fmt: skip
