"""`transformers serve` without torchvision: its own server, with the image path of the reader in this process.

The stock command loads `AutoProcessor`, which insists on a video processor and so on torchvision. Here Qwen2-VL's
processor is registered with the PIL image processor and no video; all else is transformers' own code.
"""

from __future__ import annotations

import os
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ocrlab import paths
from ocrlab.machine.describe import choose_device, choose_dtype
from ocrlab.reading.checkpoints import locate
from ocrlab.reading.families import FAMILIES
from ocrlab.reading.loading import Unsupported
from ocrlab.reading.settings import Settings

#: Modules that `transformers serve` imports; the extra `serve` installs them.
NEEDED = ("openai", "fastapi", "uvicorn")
HOST = "127.0.0.1"


def missing_modules() -> str:
    """Return what is missing for serving and the remedy, in words; empty where nothing is."""
    absent = [name for name in NEEDED if find_spec(name) is None]
    return f"serving needs {', '.join(absent)}; install the extra: pip install 'ocrlab[serve]'" if absent else ""


def serve(model: str, port: int, *, device: str, dtype: str, attention: str, with_parent: bool = False) -> None:
    """Serve a model on this computer only until the process is ended; `model` is `tiny`, a folder or a Hub id.

    `with_parent` ends it when standard input closes, which happens when the process that started it is gone.

    A folder is served under its last name, with device and dtype resolved as for a reader in this process (stock
    `transformers serve` takes the dtype of the weights' file).

    Raises:
        Unsupported: a package that serving needs is missing, or the device is not here.
        CheckpointError: the model cannot be had or must not be loaded.
    """
    if reason := missing_modules():
        raise Unsupported(reason)
    try:
        device = choose_device(device).value
    except ValueError as error:
        raise Unsupported(str(error)) from error
    dtype = choose_dtype(dtype, device).value
    locate(Settings(model_id=model))  # the same refusals as for a reader: pickled weights, code, other families
    from transformers.cli.serve import Serve

    folder = paths.MODELS / model if model == "tiny" else Path(model).expanduser().resolve()
    if folder.is_dir():  # by its last name from the folder above: no path becomes a model's name
        os.chdir(folder.parent)
        model = folder.name
    if with_parent:
        threading.Thread(target=_end_with_input, daemon=True).start()
    register_processor()
    Serve(force_model=model, device=device, dtype=dtype, attn_implementation=attention, host=HOST, port=port)


def register_processor() -> None:
    """Make `AutoProcessor` give Qwen2-VL's processor with the PIL image processor and without videos."""
    from transformers import AutoConfig, AutoImageProcessor, AutoProcessor, AutoTokenizer
    from transformers.models.qwen2_vl.processing_qwen2_vl import Qwen2VLProcessor
    from transformers.processing_utils import ProcessorMixin

    class Processor(Qwen2VLProcessor):
        def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None) -> None:
            self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
            self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
            self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
            ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

        @classmethod
        def from_pretrained(cls, name: str, revision: str = "main", **_: Any) -> Any:  # type: ignore[override]
            tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
            images = AutoImageProcessor.from_pretrained(name, revision=revision, backend="pil")
            return cls(images, tokenizer, tokenizer.chat_template)

    for model_type, family in FAMILIES.items():
        if family.served_without_videos:
            AutoProcessor.register(type(AutoConfig.for_model(model_type)), Processor, exist_ok=True)


def _end_with_input() -> None:
    while os.read(0, 4096):  # sys.stdin would be locked when the process ends by itself
        pass
    os._exit(0)
