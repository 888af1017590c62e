"""Attention functions with a fault built in, for the probes to find."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ocrlab.machine.attention import eager


def corrupt(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """Right but for one head whose neighbour's output it repeats."""
    output = eager(q, k, v, mask, causal)
    output[:, 3] = output[:, 2]
    return output


def nan(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    output = eager(q, k, v, mask, causal)
    output[0, 0, -1, 0] = float("nan")
    return output


def slow(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    time.sleep(60)
    return q


def deadly(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    os.abort()


def sloppy(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """Computes in bfloat16 whatever it is given, as TF32 left on would nearly do."""
    low = torch.bfloat16
    return eager(q.to(low), k.to(low), v.to(low), mask, causal).to(q.dtype)


def _plant_in_sdpa(fault: Callable[[Tensor], Tensor]) -> None:
    """Let transformers' sdpa attention go wrong late: only from the 150th token of a sequence on, while it decodes."""
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    def attention(module: Any, query: Tensor, key: Tensor, *rest: Any, **named: Any) -> tuple[Tensor, None]:
        output, weights = sdpa_attention_forward(module, query, key, *rest, **named)
        late = query.shape[-2] == 1 and key.shape[-2] > 150
        return (fault(output) if late else output), weights

    AttentionInterface.register("sdpa", attention)


def plant_turned_heads() -> None:
    _plant_in_sdpa(lambda output: output.roll(1, dims=2))


def plant_nan() -> None:
    _plant_in_sdpa(lambda output: output * float("nan"))


def plant_death() -> None:
    _plant_in_sdpa(lambda output: os.abort())
