"""From a checkpoint to a model in memory: the embedded reader's, a Hub model's, or true shapes with random weights."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ocrlab.pages import Page
from ocrlab.reading.checkpoints import CHAT_TEMPLATE, Checkpoint, CheckpointError, locate
from ocrlab.reading.inputs import InputBuilder, count_image_tokens, page_tokens
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


_QWEN_SPECIALS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
_FIRST_SPECIAL = 151_643


def build_dummy(checkpoint: Checkpoint, dtype: str, attn_implementation: str, device: str) -> Any:
    """Return the model of the checkpoint's config with weights drawn from N(0, 0.02), in eval mode on the device.

    Built under its dtype, not on the meta device: `to_empty` loses the rotary buffers.
    """
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText
    from transformers.initialization import no_init_weights

    values = {k: v for k, v in checkpoint.config.items() if k not in {"model_type", "dtype", "torch_dtype"}}
    config = AutoConfig.for_model(checkpoint.config["model_type"], **values)
    with torch.device(device), no_init_weights():
        model = AutoModelForImageTextToText.from_config(
            config, dtype=getattr(torch, dtype), attn_implementation=attn_implementation
        )
    generator = torch.Generator(device).manual_seed(0)
    noise = torch.empty(1 << 22, dtype=torch.float32, device=device).normal_(0, 0.02, generator=generator)
    noise = noise.to(getattr(torch, dtype))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 1:
                weight.fill_(0.0 if name.endswith("bias") else 1.0)
            else:
                flat = weight.view(-1)
                for start in range(0, flat.numel(), noise.numel()):
                    part = flat[start : start + noise.numel()]
                    part.copy_(noise[: part.numel()])
    model.tie_weights()
    model.generation_config.eos_token_id = config.text_config.eos_token_id or 151_645
    model.generation_config.pad_token_id = config.text_config.pad_token_id or 151_643
    model.generation_config.do_sample = False
    return model.eval()


def build_dummy_tokenizer() -> Any:
    """Return a byte-level tokenizer with Qwen2-VL's special tokens at their true ids; the words between are unused."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    vocabulary = {symbol: i for i, symbol in enumerate(sorted(ByteLevel.alphabet()))}
    vocabulary |= {f"<unused-{i}>": i for i in range(len(vocabulary), _FIRST_SPECIAL)}
    return Qwen2Tokenizer(
        vocab=vocabulary, merges=[], additional_special_tokens=list(_QWEN_SPECIALS),
        eos_token="<|im_end|>", pad_token="<|endoftext|>", 
        chat_template=CHAT_TEMPLATE.read_text(encoding="utf-8"), padding_side="left",
    )  # fmt: skip


def build_image_processor(config: dict[str, Any]) -> Any:
    """Return the PIL image processor with the config's patches and Qwen2-VL's default pixel limits."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    vision = config["vision_config"]
    cell = vision["patch_size"] * vision["spatial_merge_size"]
    return Qwen2VLImageProcessorPil(
        patch_size=vision["patch_size"], merge_size=vision["spatial_merge_size"],
        temporal_patch_size=vision["temporal_patch_size"],
        size={"shortest_edge": 4 * cell * cell, "longest_edge": 16384 * cell * cell},
    )  # fmt: skip


_SMALL_BYTES = 500_000_000  # below this, loading is over before a progress bar can be read


class Unsupported(RuntimeError):
    """This machine or installation cannot run what was asked; the message says why and what would."""


def refuse_missing_attention(settings: Settings, device: str, dtype: str) -> None:
    """Refuse before loading: transformers would quietly take a Hub kernel where flash-attn is not installed."""
    name = settings.attn_implementation
    if not name.startswith("flash_attention"):
        return
    module = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}.get(
        name, "flash_attn.cute"
    )
    try:
        present = find_spec(module) is not None
    except ModuleNotFoundError:
        present = False
    if not present:
        raise Unsupported(
            f"{name}: the module {module} is not installed; use attn_implementation='sdpa', or install it"
        )
    if not device.startswith("cuda"):
        raise Unsupported(f"{name} runs on CUDA only, and this reader's device is {device}; use 'sdpa'")
    if dtype == "float32":
        raise Unsupported(f"{name} computes in bfloat16 or float16 only; set dtype='bfloat16'")


def load(settings: Settings, checkpoint: Checkpoint, device: str, dtype: str) -> tuple[Any, InputBuilder]:
    """Return the model in eval mode on its device, and what builds its inputs.

    Raises:
        CheckpointError: the files cannot be loaded; the message names the folder.
        Unsupported: the repository's own code, where it is allowed, needs what is not installed.
    """

    if checkpoint.dummy:
        model = build_dummy(checkpoint, dtype, settings.attn_implementation, device)
        own = (checkpoint.folder / "tokenizer.json").is_file()
        tokenizer = _tokenizer(checkpoint) if own else build_dummy_tokenizer()
        image_processor = build_image_processor(checkpoint.config)
    else:
        import torch
        from safetensors import SafetensorError
        from transformers import AutoModelForImageTextToText
        from transformers.utils import logging

        small = sum(file.stat().st_size for file in checkpoint.folder.glob("*.safetensors")) < _SMALL_BYTES
        (logging.disable_progress_bar if small else logging.enable_progress_bar)()
        try:
            loaded: Any = AutoModelForImageTextToText.from_pretrained(
                checkpoint.folder, dtype=getattr(torch, dtype), device_map=None if device == "cpu" else {"": device},
                use_safetensors=True, trust_remote_code=settings.trust_remote_code, local_files_only=True,
                output_loading_info=True, quantization_config=quantization_config(settings, dtype),
                **settings.load_kwargs(),
            )  # fmt: skip
            image_processor = load_image_processor(checkpoint.folder)
        except ImportError as error:  # only code of the repository's own, which was allowed for this commit
            words = " ".join(str(error).split())
            raise Unsupported(f"{checkpoint.model_id}: its own code cannot be loaded here ({words})") from error
        except (OSError, KeyError, SafetensorError) as error:
            raise CheckpointError(f"{checkpoint.folder}: cannot be loaded ({error}); download it again") from error
        model, info = loaded
        _refuse_incomplete(checkpoint, info)
        if reason := misfit(model, settings, device):
            raise Unsupported(reason)
        tokenizer = _tokenizer(checkpoint)
    return model.eval(), InputBuilder(tokenizer, image_processor, model.config.image_token_id)


def load_image_processor(folder: Path) -> Any:
    """Return a checkpoint's own image processor in its PIL form; no code of the checkpoint's is run."""
    from transformers import AutoImageProcessor

    return AutoImageProcessor.from_pretrained(folder, backend="pil", trust_remote_code=False, local_files_only=True)


def _refuse_incomplete(checkpoint: Checkpoint, info: dict[str, Any]) -> None:
    """Refuse what transformers only warns of: a weight that the files lack is left at random values."""
    absent = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if absent:
        raise CheckpointError(
            f"{checkpoint.folder}: {len(absent)} weights of the model are not in its files or have another shape, "
            f"{absent[0]} first; download it again, or use the class that it was made for"
        )


def _tokenizer(checkpoint: Checkpoint) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder, trust_remote_code=False, local_files_only=True)
    if tokenizer.chat_template is None:
        tokenizer.chat_template = CHAT_TEMPLATE.read_text(encoding="utf-8")
    return tokenizer


def image_tokens(settings: Settings, width: int, height: int) -> int:
    """Return how many image tokens a page of this size in pixels will take; errors as `token_counter` raises them."""
    return token_counter(settings)(width, height)


def token_counter(settings: Settings) -> Callable[[int, int], int]:
    """Return what tells a page's image tokens from its width and height in pixels, under these settings.

    The pixel limits of a model that is not here are taken to be Qwen2-VL's.

    Raises:
        CheckpointError: the model's shapes are not known.
    """
    try:
        folder = locate(settings).folder
    except CheckpointError:
        folder = locate(_shape_of(settings)).folder
    processor, own = _processor(folder, settings.model_id)

    def count(width: int, height: int) -> int:
        processor.size = {**own, **settings.pixel_kwargs()}
        return count_image_tokens(processor, width, height)

    return count


def image_tokens_of(settings: Settings, pages: Sequence[Page]) -> list[int]:
    """Return each page's image tokens from its header alone; 0 where a page or the model's sizes cannot be told."""
    try:
        count = token_counter(settings)
    except CheckpointError:
        return [0] * len(pages)
    return [page_tokens(page, count) for page in pages]


@lru_cache(maxsize=8)
def _processor(folder: Path, model_id: str) -> tuple[Any, dict[str, int]]:

    if (folder / "preprocessor_config.json").is_file():
        processor = load_image_processor(folder)
    else:
        processor = build_image_processor(locate(_shape_of(Settings(model_id=model_id))).config)
    return processor, dict(processor.size)


def _shape_of(settings: Settings) -> Settings:
    return Settings(model_id=settings.model_id, weights="dummy")
