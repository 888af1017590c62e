"""Faults for the measurements of study to find: planted in a worker's process by a `prepare` function."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ocrlab.reading.isolated import reader_here
from ocrlab.reading.settings import Settings

EAGER = Settings(dtype="float32", attn_implementation="eager", max_new_tokens=8)


def _plant_in_sdpa(fault: Callable[[Tensor], Tensor]) -> None:
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    def attention(*args: Any, **named: Any) -> tuple[Tensor, None]:
        output, weights = sdpa_attention_forward(*args, **named)
        return fault(output), weights

    AttentionInterface.register("sdpa", attention)


def turn_heads() -> None:
    _plant_in_sdpa(lambda output: output.roll(1, dims=2))


def give_nan() -> None:
    _plant_in_sdpa(lambda output: output * float("nan"))


def die() -> None:
    os.abort()


def _swell(module: str, factor: float) -> None:
    """Multiply a module's weight and bias in the reader that is loaded here."""
    part = reader_here(EAGER).model.get_submodule(module)
    with torch.no_grad():
        for value in part.parameters():
            value.mul_(factor)


def swell_queries() -> None:
    _swell("model.language_model.layers.1.self_attn.q_proj", 1024.0)


def swell_mlp() -> None:
    _swell("model.visual.blocks.2.mlp.fc2", 65536.0)
