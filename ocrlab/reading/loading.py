"""From a checkpoint to a model in memory: the embedded reader's, a Hub model's, or true shapes with random weights."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ocrlab.reading.checkpoints import CHAT_TEMPLATE, Checkpoint, CheckpointError
from ocrlab.reading.inputs import InputBuilder
from ocrlab.reading.quantization import misfit, quantization_config
from ocrlab.reading.settings import Settings

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
    from ocrlab.reading import dummy

    if checkpoint.dummy:
        model = dummy.build_dummy(checkpoint, dtype, settings.attn_implementation, device)
        own = (checkpoint.folder / "tokenizer.json").is_file()
        tokenizer = _tokenizer(checkpoint) if own else dummy.build_dummy_tokenizer()
        image_processor = dummy.build_image_processor(checkpoint.config)
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
