"""Attention functions with a fault built in, for the probes to find."""

from __future__ import annotations

import os
import time

import torch
from torch import Tensor

from ocrlab.machine.kernels import eager


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
