"""From a checkpoint to a model in memory: its own weights, quantised ones, or true shapes with random weights."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any

from safetensors import SafetensorError

from ocrlab.pages import Page
from ocrlab.reading.checkpoints import Checkpoint, CheckpointError, locate_shapes
from ocrlab.reading.families import InputBuilder
from ocrlab.reading.inputs import page_tokens
from ocrlab.reading.settings import Settings

# transformers imports torchao wherever it is installed, which then warns of each CUDA library that it cannot load.
for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)

MODULES = {"int8": "torchao", "nf4": "bitsandbytes"}
_NF4_BLOCK = 64
#: int8 keeps one scale per row, which is little; nf4 a float32 scale for every 64 weights (bitsandbytes' default).
BYTES_PER_WEIGHT = {"int8": 1.0, "nf4": 0.5 + 4 / _NF4_BLOCK}
_FLASH_MODULES = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}
_SMALL_BYTES = 500_000_000  # below this, loading is over before a progress bar can be read


class Unsupported(RuntimeError):
    """This machine or installation cannot run what was asked; the message says why and what would."""


def refuse_before_loading(settings: Settings, device: str, dtype: str) -> None:
    """Raise Unsupported where the attention or the quantization cannot be had here.

    transformers itself would quietly take a Hub kernel where flash-attn is not installed.
    """
    module, name = MODULES.get(settings.quantization or ""), settings.attn_implementation
    if module is not None and not _installed(module):
        words = f"{module} is not installed; pip install {module}, or leave it out"
        raise Unsupported(f"quantization={settings.quantization!r}: {words}")
    if not name.startswith("flash_attention"):
        return
    module = _FLASH_MODULES.get(name, "flash_attn.cute")
    if not _installed(module):
        raise Unsupported(
            f"{name}: the module {module} is not installed; use attn_implementation='sdpa', or install it"
        )
    if not device.startswith("cuda"):
        raise Unsupported(f"{name}: it runs on CUDA only, and this reader's device is {device}; use 'sdpa'")
    if dtype == "float32":
        raise Unsupported(f"{name}: it computes in bfloat16 or float16 only; set dtype='bfloat16'")


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that it would be in
        return False


def load(settings: Settings, checkpoint: Checkpoint, device: str, dtype: str) -> tuple[Any, InputBuilder]:
    """Return the model in eval mode on its device, and what builds its inputs.

    Raises:
        CheckpointError: the files cannot be loaded; the message names the folder.
        Unsupported: the repository's own code, where it is allowed, needs what is not installed.
    """
    family, folder = checkpoint.family, checkpoint.folder
    if checkpoint.dummy:
        model = _build_dummy(checkpoint, dtype, settings.attn_implementation, device)
        own = (folder / "tokenizer.json").is_file()
        tokenizer = family.load_tokenizer(folder) if own else family.dummy_tokenizer()
        return model, InputBuilder(family, tokenizer, family.dummy_image_processor(checkpoint.config))
    try:
        model, info = _from_pretrained(settings, checkpoint, device, dtype)
        image_processor = family.load_image_processor(folder)
    except ImportError as error:  # only code of the repository's own, which was allowed for this commit
        words = " ".join(str(error).split())
        raise Unsupported(f"{checkpoint.model_id}: its own code cannot be loaded here ({words})") from error
    except (OSError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: cannot be loaded ({error}); download it again") from error
    _refuse_incomplete(checkpoint, info)
    if reason := _misfit(model, settings, device):
        raise Unsupported(reason)
    return model.eval(), InputBuilder(family, family.load_tokenizer(folder), image_processor)


def _from_pretrained(settings: Settings, checkpoint: Checkpoint, device: str, dtype: str) -> tuple[Any, dict[str, Any]]:
    import torch
    from transformers import AutoModelForImageTextToText
    from transformers.utils import logging as progress

    small = sum(file.stat().st_size for file in checkpoint.folder.glob("*.safetensors")) < _SMALL_BYTES
    (progress.disable_progress_bar if small else progress.enable_progress_bar)()
    return AutoModelForImageTextToText.from_pretrained(  # type: ignore[return-value]
        checkpoint.folder,
        dtype=getattr(torch, dtype),
        attn_implementation=settings.attn_implementation,
        quantization_config=quantization_config(settings, dtype),
        device_map=None if device == "cpu" else {"": device},
        use_safetensors=True,
        trust_remote_code=settings.trust_remote_code,
        local_files_only=True,
        output_loading_info=True,
    )


def _refuse_incomplete(checkpoint: Checkpoint, info: dict[str, Any]) -> None:
    """Refuse what transformers only warns of: a weight that the files lack is left at random values."""
    absent = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if absent:
        raise CheckpointError(
            f"{checkpoint.folder}: {len(absent)} weights of the model are not in its files or have another shape, "
            f"{absent[0]} first; download it again, or use the class that it was made for"
        )


def _build_dummy(checkpoint: Checkpoint, dtype: str, attn_implementation: str, device: str) -> Any:
    """Return the model of the checkpoint's config with weights drawn from N(0, 0.02), in eval mode on the device.

    Built under its dtype, not on the meta device: `to_empty` loses the rotary buffers.
    """
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText
    from transformers.initialization import no_init_weights

    values = {k: v for k, v in checkpoint.config.items() if k not in {"model_type", "dtype", "torch_dtype"}}
    config: Any = AutoConfig.for_model(checkpoint.config["model_type"], **values)
    with torch.device(device), no_init_weights():
        model: Any = AutoModelForImageTextToText.from_config(
            config, dtype=getattr(torch, dtype), attn_implementation=attn_implementation
        )
    generator = torch.Generator(device).manual_seed(0)
    noise = (torch.randn(1 << 22, device=device, generator=generator) * 0.02).to(getattr(torch, dtype))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 1:
                weight.fill_(0.0 if name.endswith("bias") else 1.0)
            else:
                for part in weight.view(-1).split(noise.numel()):
                    part.copy_(noise[: part.numel()])
    model.tie_weights()
    text = config.text_config
    ends = {"eos_token_id": text.eos_token_id or 151_645, "pad_token_id": text.pad_token_id or 151_643}
    model.generation_config.update(**ends, do_sample=False)
    return model.eval()


def quantization_config(settings: Settings, dtype: str) -> Any:
    """Return what `from_pretrained` takes as `quantization_config`; None where the weights stay as they are.

    int8 is torchao's weight-only form with a scale per row; nf4 is bitsandbytes' 4-bit form, computing in `dtype`. Both
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


def _misfit(model: Any, settings: Settings, device: str) -> str:
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
    if hasattr(tensor, "__tensor_flatten__"):
        return sum(_bytes(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])
    scales = getattr(getattr(tensor, "quant_state", None), "absmax", None)
    return int(tensor.nbytes) + (0 if scales is None else _bytes(scales))


def token_counter(settings: Settings) -> Callable[[int, int], int]:
    """Return what gives the image tokens of a page from its width and height in pixels, without loading the model.

    The pixel limits of a model that is not here are taken to be its family's defaults.

    Raises:
        CheckpointError: the model's shapes are not known.
    """
    checkpoint = locate_shapes(settings)
    family = checkpoint.family
    if checkpoint.dummy or not (checkpoint.folder / "preprocessor_config.json").is_file():
        processor = family.dummy_image_processor(checkpoint.config)
    else:
        processor = family.load_image_processor(checkpoint.folder)
    low, high = family.limits(processor)
    family.set_limits(processor, settings.min_pixels or low, settings.max_pixels or high)
    return partial(family.count, processor)


def image_tokens_of(settings: Settings, pages: Sequence[Page]) -> list[int]:
    """Return each page's image tokens from its header alone; 0 where a page or the model's sizes are not known."""
    try:
        count = token_counter(settings)
    except CheckpointError:
        return [0] * len(pages)
    return [page_tokens(page, count, settings.max_pixels) for page in pages]
