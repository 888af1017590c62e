"""Weights in 8 or 4 bits by torchao or bitsandbytes: what loading is given, and what it came to."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import Any

from ocrlab.reading.settings import Settings

# transformers imports torchao wherever it is installed, which then warns of each CUDA library that it cannot load.
for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)

MODULES = {"int8": "torchao", "nf4": "bitsandbytes"}
_NF4_BLOCK = 64
BYTES_A_WEIGHT = {"int8": 1.0, "nf4": 0.5 + 4 / _NF4_BLOCK}
"""int8 keeps one scale a row, which is little; nf4 a float32 scale for every 64 weights (bitsandbytes' default)."""


def missing_library(settings: Settings) -> str:
    """Return why the asked quantization cannot be had in this installation, or an empty text."""
    module = MODULES.get(settings.quantization or "")
    if module is None or find_spec(module) is not None:
        return ""
    return f"quantization={settings.quantization!r}: {module} is not installed; pip install {module}, or leave it out"


def quantization_config(settings: Settings, dtype: str) -> Any:
    """Return what `from_pretrained` takes as `quantization_config`; None where the weights stay as they are.

    int8 is torchao's weight-only form with a scale a row; nf4 is bitsandbytes' 4-bit form, computing in `dtype`. Both
    take the linear layers of the vision tower and of the text layers, and leave the output head alone.
    """
    if settings.quantization is None:
        return None
    if settings.quantization == "int8":
        from torchao.quantization import Int8WeightOnlyConfig
        from transformers import TorchAoConfig

        return TorchAoConfig(Int8WeightOnlyConfig())
    import torch
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=getattr(torch, dtype)
    )


def misfit(model: Any, settings: Settings, device: str) -> str:
    """Return why the quantised model cannot compute on its device, or an empty text."""
    import torch

    if settings.quantization != "nf4" or device != "cpu":
        return ""
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and _kind(module.weight) == "nf4" and module.in_features % _NF4_BLOCK:
            return (
                f"nf4 on a CPU: bitsandbytes takes rows of a multiple of {_NF4_BLOCK} weights there, and {name} has "
                f"{module.in_features}; use quantization='int8', or a CUDA device"
            )
    return ""


def quantization_of(model: Any) -> str | None:
    """Return what the linear layers' weights really are: int8, nf4, another kind's class name, or None as they were.

    Parts that differ are joined by a plus; a layer that was left alone counts as "none" where others were not.
    """
    import torch

    head = model.get_output_embeddings()
    kinds = {_kind(m.weight) for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head}
    return None if kinds == {"none"} else "+".join(sorted(kinds))


def _kind(weight: Any) -> str:
    state = getattr(weight, "quant_state", None)
    if state is not None:
        return str(state.quant_type)
    name = type(weight).__name__
    return {"Parameter": "none", "Int8Tensor": "int8"}.get(name, name)


def stored_bytes(model: Any) -> int:
    """Return the bytes that the parameters really hold, scales of quantised ones included."""
    return sum(_bytes(parameter) for parameter in model.parameters())


def _bytes(tensor: Any) -> int:
    parts = getattr(tensor, "__tensor_flatten__", None)
    if parts is not None:
        return sum(_bytes(getattr(tensor, name)) for name in parts()[0])
    scales = getattr(getattr(tensor, "quant_state", None), "absmax", None)
    return int(tensor.numel() * tensor.element_size()) + (0 if scales is None else _bytes(scales))
