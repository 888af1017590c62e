"""From a checkpoint to a model in memory: its own weights, quantised ones, or true shapes with random weights."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from safetensors import SafetensorError

from ocrlab.pages import Page
from ocrlab.reading.checkpoints import Checkpoint, CheckpointError, locate_shapes
from ocrlab.reading.families import USUAL_SIDE
from ocrlab.reading.family import Family, InputBuilder, resolved
from ocrlab.reading.inputs import page_tokens
from ocrlab.reading.settings import SettingNotApplied, Settings

# transformers imports torchao wherever it is installed, which then warns of each CUDA library that it cannot load.
for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)

MODULES = {"int8": "torchao", "nf4": "bitsandbytes"}
_NF4_BLOCK = 64
COMPILED_TOKENS = 65_536
#: int8 keeps one scale per row, which is little; nf4 a float32 scale for every 64 weights (bitsandbytes' default).
BYTES_PER_WEIGHT = {"int8": 1.0, "nf4": 0.5 + 4 / _NF4_BLOCK}
#: Whose linear layers in the vision tower stay as they are: 4 bits there break Qwen2-VL-2B (unsloth, dynamic 4-bit).
SPARES_VISION = {"nf4"}
_FLASH_MODULES = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}
_SMALL_BYTES = 500_000_000  # below this, loading is over before a progress bar can be read


class Unsupported(RuntimeError):
    """This machine or installation cannot run what was asked; the message says why and what would."""


def refuse_compiled(settings: Settings, device: str) -> None:
    """Raise Unsupported where compiled SDPA would see 65,536 tokens or more on sm_120, which gave NaN.

    Reference: pytorch/pytorch#171389. A page counts its most image tokens, where max_pixels says so, and its text.
    """
    import torch

    tokens = settings.batch_size * (settings.max_new_tokens + (settings.max_pixels or 0) // USUAL_SIDE**2)
    compiled = settings.compile and settings.attn_implementation == "sdpa" and device.startswith("cuda")
    if compiled and tokens >= COMPILED_TOKENS and torch.cuda.get_device_capability(device)[0] == 12:
        raise Unsupported(
            f"compile=True: on sm_120 compiled SDPA gives NaN from {COMPILED_TOKENS:,} tokens in a batch on (pytorch/"
            f"pytorch#171389), and {tokens:,} may come; lower batch_size, or leave compile out"
        )


def refuse_before_loading(settings: Settings, device: str, dtype: str) -> None:
    """Raise Unsupported where the attention, the quantization or a compiled batch cannot be had here.

    transformers itself would quietly take a Hub kernel where flash-attn is not installed.
    """
    refuse_compiled(settings, device)
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
        Unsupported: the repository's own code, where it is allowed, or its image processor needs what is not installed.
    """
    family, folder = checkpoint.family, checkpoint.folder
    if settings.quantization and (stored := stored_as(checkpoint.config)):
        raise Unsupported(
            f"quantization={settings.quantization!r}: the weights of {checkpoint.model_id} are stored as {stored} "
            f"already; leave it out"
        )
    try:
        image_processor = image_processor_of(checkpoint)
        own = not checkpoint.dummy or (folder / "tokenizer.json").is_file()
        tokenizer = family.load_tokenizer(folder) if own else family.dummy_tokenizer(checkpoint.config)
        builder = InputBuilder(family, tokenizer, image_processor, checkpoint.known.get("prompt"))
        if checkpoint.dummy:
            return _build_dummy(checkpoint, tokenizer, dtype, settings.attn_implementation, device), builder
        model, info = _from_pretrained(settings, checkpoint, device, dtype)
    except ImportError as error:  # of a quantization's library, or of code that was allowed for this commit
        stored, words = stored_as(checkpoint.config), " ".join(str(error).split())
        what = f"its weights are stored as {stored}, which" if stored else "its own code"
        raise Unsupported(f"{checkpoint.model_id}: {what} cannot be loaded here ({words})") from error
    except (OSError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: cannot be loaded ({error}); download it again") from error
    _refuse_incomplete(checkpoint, info)
    if reason := _misfit(model, settings, device):
        raise Unsupported(reason)
    return model.eval(), builder


def image_processor_of(checkpoint: Checkpoint) -> Any:
    """Return the checkpoint's image processor under the pixels that are its own, or those known of such a model.

    Raises:
        Unsupported: it does not exist without a module that is not here.
    """
    import transformers

    family, folder, most = checkpoint.family, checkpoint.folder, checkpoint.known.get("max_pixels")
    if (kind := checkpoint.config["model_type"]) not in transformers.CONFIG_MAPPING:
        words = f"transformers {transformers.__version__} does not have {kind} yet; pip install -U transformers"
        raise Unsupported(f"{checkpoint.model_id}: {words}")
    if family.needs and (reason := _absent(family.needs)):
        raise Unsupported(
            f"{checkpoint.model_id}: the image processor of {kind} needs {family.needs}, "
            f"which cannot be imported ({reason}); beside a CUDA build of torch, pip install 'ocrlab[models]' brings "
            f"it, beside a CPU build no such build is on the registry; or read it from a server: "
            f"model_id='endpoint:http://127.0.0.1:8000/v1#NAME'"
        )
    files = any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json"))
    if checkpoint.dummy or not files:
        image_processor = family.dummy_image_processor(checkpoint.config)
    else:
        image_processor = family.load_image_processor(folder, checkpoint.config)
    if most is not None:
        family.ask_limits(image_processor, None, most, family.limits(image_processor))
    return image_processor


def _absent(module: str) -> str:
    """Return why a module cannot be imported; torchvision may be there, and made for another torch."""
    try:
        import_module(module)
    except (ImportError, RuntimeError, OSError) as error:
        return " ".join(str(error).split())[:120]
    return ""


def stored_as(config: dict[str, Any]) -> str:
    """Return how a checkpoint's weights come quantised, such as "gptq, 4 bits"; an empty text where they do not."""
    own = config.get("quantization_config") or {}
    bits = own.get("bits") or own.get("w_bit")
    return ", ".join([str(own["quant_method"]), *([f"{bits} bits"] if bits else [])]) if own else ""


def _from_pretrained(settings: Settings, checkpoint: Checkpoint, device: str, dtype: str) -> tuple[Any, dict[str, Any]]:
    import torch
    from transformers import AutoModelForImageTextToText
    from transformers.utils import logging as progress

    small = sum(file.stat().st_size for file in checkpoint.folder.glob("*.safetensors")) < _SMALL_BYTES
    (progress.disable_progress_bar if small else progress.enable_progress_bar)()
    # Given as None it would wipe out what the checkpoint's own config says.
    asked = quantization_config(settings, dtype, checkpoint.family)
    quantization = {} if asked is None else {"quantization_config": asked}
    return AutoModelForImageTextToText.from_pretrained(  # type: ignore[return-value]
        checkpoint.folder,
        dtype=getattr(torch, dtype),
        attn_implementation=_attention(checkpoint.family, settings.attn_implementation),
        **quantization,
        device_map=None if device == "cpu" else {"": device},
        use_safetensors=True,
        trust_remote_code=settings.trust_remote_code,
        local_files_only=True,
        output_loading_info=True,
    )


def _attention(family: Family, asked: str) -> str | dict[str, str]:
    """Return the attention for the model, by its parts where the vision part has not the one that is asked for."""
    vision = family.attention(asked)
    return asked if vision == asked else {"": vision, "vision_config": vision, "text_config": asked}


def _refuse_incomplete(checkpoint: Checkpoint, info: dict[str, Any]) -> None:
    """Refuse what transformers only warns of: a weight that the files lack is left at random values."""
    absent = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if absent:
        raise CheckpointError(
            f"{checkpoint.folder}: {len(absent)} weights of the model are not in its files or have another shape, "
            f"{absent[0]} first; download it again, or use the class that it was made for"
        )


def _build_dummy(checkpoint: Checkpoint, tokenizer: Any, dtype: str, attn_implementation: str, device: str) -> Any:
    """Return the model of the checkpoint's config with weights drawn from N(0, 0.02), in eval mode on the device.

    Built under its dtype, not on the meta device: `to_empty` loses the rotary buffers.
    """
    import torch
    from transformers import AutoModelForImageTextToText
    from transformers.initialization import no_init_weights

    config = resolved(checkpoint.config)
    with torch.device(device), no_init_weights():
        model: Any = AutoModelForImageTextToText.from_config(
            config,
            dtype=getattr(torch, dtype),
            attn_implementation=_attention(checkpoint.family, attn_implementation),
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
    ends = {name: getattr(text, name, None) or getattr(tokenizer, name) for name in ("eos_token_id", "pad_token_id")}
    model.generation_config.update(**ends, do_sample=False)
    return model.eval()


def quantization_config(settings: Settings, dtype: str, family: Family) -> Any:
    """Return what `from_pretrained` takes as `quantization_config`; None where the weights stay as they are.

    int8 is torchao's weight-only form with a scale per row, for the linear layers of vision tower and text; nf4 is
    bitsandbytes' 4-bit form, computing in `dtype`, for those of the text alone. Both leave the output head as it is.
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
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=getattr(torch, dtype),
        llm_int8_skip_modules=[family.vision, "lm_head"],  # the name of all kinds of bitsandbytes
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
    """Return what the linear layers' weights really are: int8, nf4, how a checkpoint stored them, another kind's class
    name, or None where they compute in the dtype, as those of an FP8 checkpoint on a CPU do.

    Kinds that differ are joined by a plus; `left_out` names what stayed as it was.
    """
    kinds = {_kind(layer.weight) for layer in _linear(model).values()} - {"none"}
    return "+".join(sorted(kinds)) or stored_as(model.config.to_dict()) or None


def left_out(model: Any, family: Family) -> list[str] | None:
    """Return the linear layers that quantization left as they were, a whole tower by its name; None where all were.

    The output head, which is always left as it was, is not named.
    """
    kinds = {name: _kind(layer.weight) for name, layer in _linear(model).items()}
    found = [name for name, kind in kinds.items() if kind == "none"]
    if quantization_of(model) is None:
        return None
    for tower in (family.vision, family.language):
        inside = [name for name in kinds if name.startswith(f"{tower}.")]
        if inside and set(inside) <= set(found):
            found = [tower, *(name for name in found if name not in inside)]
    return found


def _linear(model: Any) -> dict[str, Any]:
    import torch

    head = model.get_output_embeddings()
    return {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and m is not head}


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
        Unsupported, SettingNotApplied: its image processor is not to be had, or cannot have such limits.
    """
    checkpoint = locate_shapes(settings)
    family, processor = checkpoint.family, image_processor_of(checkpoint)
    family.ask_limits(processor, settings.min_pixels, settings.max_pixels, family.limits(processor))
    return partial(family.count, processor)


def image_tokens_of(settings: Settings, pages: Sequence[Page]) -> list[int]:
    """Return each page's image tokens from its header alone; 0 where a page or the model's sizes are not known."""
    try:
        count = token_counter(settings)
    except (CheckpointError, Unsupported, SettingNotApplied):
        return [0] * len(pages)
    return [page_tokens(page, count, settings.max_pixels) for page in pages]
