"""Every attention that a reading may ask for, called directly: (q, k, v, mask, causal) → output.

Tensors are (batch, heads, tokens, width); key and value may have fewer heads. Each function raises what its library
raises, and ImportError where it is not installed.
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Attention = Callable[["Tensor", "Tensor", "Tensor", "Tensor | None", bool], "Tensor"]


def eager(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """Plain products as transformers' eager attention has them: scores in the dtype, softmax in float32."""
    import torch

    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    if causal:
        mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return scores.softmax(-1, dtype=torch.promote_types(torch.float32, scores.dtype)).to(q.dtype) @ v


def sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """torch's scaled_dot_product_attention, with whatever kernel it chooses in the caller's context."""
    import torch

    return torch.nn.functional.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=q.shape[1] != k.shape[1]
    )


def flex_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """torch's FlexAttention: compiled on CUDA, its unfused form elsewhere."""
    import torch
    from torch.nn.attention import flex_attention as flex

    def allowed(batch: Any, _head: Any, row: Any, column: Any) -> Any:
        seen = row >= column if causal else column >= 0
        return seen if mask is None else seen & mask[batch, 0, row, column]

    blocks = flex.create_block_mask(allowed, q.shape[0], None, q.shape[-2], k.shape[-2], device=q.device)
    call: Any = torch.compile(flex.flex_attention) if q.is_cuda else flex.flex_attention
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "flex_attention called without torch.compile")  # meant, off CUDA
        return call(q, k, v, block_mask=blocks, enable_gqa=q.shape[1] != k.shape[1])


def _flash(module: str) -> Attention:
    def call(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        function = importlib.import_module(module).flash_attn_func
        if mask is not None:
            raise NotImplementedError("takes no mask: transformers unpads the batch for it instead")
        output = function(*(t.transpose(1, 2) for t in (q, k, v)), causal=causal)
        return (output[0] if isinstance(output, tuple) else output).transpose(1, 2)

    return call


def hub_kernel(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """`kernels-community/flash-attn2` from the local Hub cache; never downloaded here."""
    kernels = importlib.import_module("kernels")
    if mask is not None:
        raise NotImplementedError("takes no mask: transformers unpads the batch for it instead")
    flash = kernels.get_kernel("kernels-community/flash-attn2")
    output = flash.flash_attn_func(*(t.transpose(1, 2) for t in (q, k, v)), causal=causal)
    return (output[0] if isinstance(output, tuple) else output).transpose(1, 2)


ATTENTIONS: dict[str, Attention] = {
    "eager": eager,
    "sdpa": sdpa,
    "flash_attention_2": _flash("flash_attn"),
    "flash_attention_3": _flash("flash_attn_interface"),
    "flash_attention_4": _flash("flash_attn.cute"),
    "hub_kernel": hub_kernel,
    "flex_attention": flex_attention,
}


def attention(name: str) -> Attention:
    """Return an attention by name, or the function at a dotted path (which is how tests plant a corrupt one)."""
    if name in ATTENTIONS:
        return ATTENTIONS[name]
    module, _, function = name.rpartition(".")
    return getattr(importlib.import_module(module), function)


def pinned(kernel: str | None) -> Any:
    """Return a context in which SDPA may use one kernel alone, or any when none is named."""
    from contextlib import nullcontext

    if kernel is None:
        return nullcontext()
    from torch.nn.attention import SDPBackend, sdpa_kernel

    names = {"math": "MATH", "flash": "FLASH_ATTENTION", "efficient": "EFFICIENT_ATTENTION", "cudnn": "CUDNN_ATTENTION"}
    return sdpa_kernel([getattr(SDPBackend, names[kernel])])


def profiler(**options: Any) -> Any:
    """Return `torch.profiler.profile(**options)` without the lines that it prints at every start."""
    import torch

    os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # read when the first profile of a process begins
    return torch.profiler.profile(**options)


def kernel_name(event: str) -> str:
    """Return which SDPA kernel an operator's name, as the profiler gives it, stands for; empty for another operator."""
    for sign, name in (
        ("_scaled_dot_product_flash_attention", "flash"), ("_scaled_dot_product_efficient_attention", "efficient"),
        ("_scaled_dot_product_cudnn_attention", "cudnn"), ("_scaled_dot_product_attention_math", "math"),
    ):  # fmt: skip
        if sign in event:
            return name
    return ""
