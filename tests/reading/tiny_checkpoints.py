"""Small random checkpoints of each family's true class and processor, made from transformers' own config classes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from ocrlab.reading.families import FAMILIES as TABLE

#: Words that the families' templates and processors need, at ids well after the 256 bytes.
WORDS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"),
    *("<|video_pad|>", "<|image|>", "<|video|>", "<|IMAGE_PLACEHOLDER|>", "<image>", "<img>", "</img>", "<imgpad>"),
    *(
        "<IMG_CONTEXT>",
        "<image-start>",
        "<image-end>",
        "<fake_token_around_image>",
        "<global-img>",
        "<text>",
        "</text>",
    ),
    *(f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)),
    *("<loc_1>", "<loc_2>", "<fcel>", "<nl>", "<otsl>", "</otsl>"),
)
FIRST = 272
IDS = {word: FIRST + i for i, word in enumerate(WORDS)}
VOCABULARY = 352
TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 2048,
    "bos_token_id": None,
    "eos_token_id": IDS["<|im_end|>"],
    "pad_token_id": IDS["<|endoftext|>"],
}
VISION: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96, "out_hidden_size": 64}
BLOCKS = {"depth": 2, "num_heads": 2, "spatial_merge_size": 2, "temporal_patch_size": 2}
LAYERS = {"num_hidden_layers": 2, "num_attention_heads": 2}
SAM = VISION | LAYERS | {"image_size": 64, "patch_size": 16, "output_channels": 32, "initializer_range": 0.02}


def _rope(**more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]} | more}


def _qwen(text: dict[str, Any], vision: dict[str, Any]) -> dict[str, Any]:
    return {
        "image_token_id": IDS["<|image_pad|>"],
        "video_token_id": IDS["<|video_pad|>"],
        "vision_start_token_id": IDS["<|vision_start|>"],
        "vision_end_token_id": IDS["<|vision_end|>"],
        "text_config": TEXT | text,
        "vision_config": VISION | BLOCKS | vision,
    }


HYBRID = (
    _rope(mrope_interleaved=True, partial_rotary_factor=1.0)
    | {"layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 2}
    | {"linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 16}
)
CONFIGS: dict[str, dict[str, Any]] = {
    "qwen2_vl": _qwen(_rope(), {"embed_dim": 64, "hidden_size": 64, "patch_size": 14, "mlp_ratio": 2}),
    "qwen2_5_vl": _qwen(_rope(), {"patch_size": 14, "window_size": 112, "fullatt_block_indexes": [1]}),
    "qwen3_vl": _qwen(
        _rope(mrope_interleaved=True),
        {"patch_size": 16, "num_position_embeddings": 64, "deepstack_visual_indexes": [0]},
    ),
    "qwen3_5": _qwen(
        HYBRID,
        {"patch_size": 16, "num_position_embeddings": 64},
    ),
    "glm_ocr": {
        "image_token_id": IDS["<|image|>"],
        "video_token_id": IDS["<|video|>"],
        "text_config": TEXT | _rope(partial_rotary_factor=1.0),
        "vision_config": VISION | BLOCKS | {"patch_size": 14},
    },
    "paddleocr_vl": {
        "image_token_id": IDS["<|IMAGE_PLACEHOLDER|>"],
        "text_config": TEXT | _rope(),
        "vision_config": VISION | LAYERS | {"image_size": 56, "patch_size": 14, "spatial_merge_size": 2},
    },
    "lighton_ocr": {
        "image_token_id": IDS["<|image_pad|>"],
        "text_config": TEXT | {"model_type": "qwen3"},
        "vision_config": {"model_type": "pixtral", "hidden_size": 64, "intermediate_size": 96, "head_dim": 32}
        | LAYERS
        | {"patch_size": 14, "image_size": 560},
    },
    "hunyuan_vl": {
        "image_token_id": IDS["<image>"],
        "im_start_id": IDS["<image-start>"],
        "im_end_id": IDS["<image-end>"],
        "text_config": TEXT | _rope(mrope_section=[2, 2, 2, 2], rope_type="dynamic", alpha=1000.0, factor=1.0),
        "vision_config": VISION | LAYERS | {"patch_size": 16, "spatial_merge_size": 2},
    },
    "deepseek_ocr2": {
        "image_token_id": IDS["<image>"],
        "text_config": TEXT
        | {"moe_intermediate_size": 32, "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2}
        | {"mlp_layer_types": ["dense", "sparse"], "num_key_value_heads": 4},
        "vision_config": {
            "sam_config": {
                **{"hidden_size": 16, "output_channels": 8, "num_hidden_layers": 1, "num_attention_heads": 2},
                **{"downsample_channels": [8, 64], "global_attn_indexes": [], "window_size": 8, "mlp_ratio": 2.0},
                **{"initializer_range": 0.02},
            },
            "encoder_config": TEXT | {"num_hidden_layers": 1},
        },
    },
    "got_ocr2": {
        "image_token_index": IDS["<imgpad>"],
        "text_config": TEXT | {"model_type": "qwen2"},
        "vision_config": SAM | {"mlp_dim": 96, "window_size": 2, "global_attn_indexes": [1]},
    },
    "granite_docling": {
        "image_token_id": IDS["<image>"],
        "pad_token_id": IDS["<|endoftext|>"],
        "text_config": TEXT,
        "vision_config": VISION
        | LAYERS
        | {"image_size": 64, "patch_size": 8, "deepstack_visual_indexes": [0], "use_fine_route": False},
    },
    "minicpm_ocr": {
        "image_token_id": IDS["<|image|>"],
        "video_token_id": IDS["<|video|>"],
        "insert_layer_id": 0,
        "text_config": TEXT | HYBRID | {"model_type": "qwen3_5_text"},
        "vision_config": LAYERS | {"hidden_size": 64, "intermediate_size": 96, "image_size": 112, "patch_size": 14},
    },
    "qianfan_ocr": {
        "image_token_id": IDS["<IMG_CONTEXT>"],
        "image_seq_length": 4,
        "text_config": TEXT | {"model_type": "qwen3"},
        "vision_config": LAYERS
        | {"hidden_size": 64, "intermediate_size": 96, "image_size": [56, 56], "patch_size": [14, 14]},
    },
}
#: A template as the checkpoints' own: the image's tokens where the family's processor looks for them.
_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}IMAGE{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
#: What a family's template writes for an image; None: it has no template.
IMAGE_WORDS: dict[str, str | None] = {
    "glm_ocr": "<|image|>",
    "paddleocr_vl": "<|IMAGE_PLACEHOLDER|>",
    "lighton_ocr": "<|image_pad|>",
    "hunyuan_vl": "<image-start><image><image-end>",
    "deepseek_ocr2": None,
    "got_ocr2": None,
    "granite_docling": "<image>",
    "minicpm_ocr": "<|image|>",
    "qianfan_ocr": "<image>",
}
#: The processor's class, the values of a small checkpoint's image processor, and the processor's own values.
PROCESSORS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "qwen2_vl": ("Qwen2VLProcessor", {"patch_size": 14}, {}),
    "qwen2_5_vl": ("Qwen2_5_VLProcessor", {"patch_size": 14}, {}),
    "qwen3_vl": ("Qwen3VLProcessor", {"patch_size": 16}, {}),
    "qwen3_5": ("Qwen3VLProcessor", {"patch_size": 16}, {}),
    "glm_ocr": ("Glm46VProcessor", {}, {}),
    "paddleocr_vl": ("PaddleOCRVLProcessor", {}, {}),
    "lighton_ocr": (
        "LightOnOcrProcessor",
        {"patch_size": 14, "size": {"longest_edge": 560}},
        {},
    ),
    "hunyuan_vl": ("HunYuanVLProcessor", {}, {}),
    "deepseek_ocr2": ("DeepseekOcr2Processor", {}, {}),
    "got_ocr2": ("GotOcr2Processor", {"size": {"height": 64, "width": 64}}, {}),
    "granite_docling": (
        "GraniteDoclingProcessor",
        {"size": {"height": 64, "width": 64}, "max_patches": 8},
        {"image_seq_len": 4},
    ),
    "minicpm_ocr": (
        "MiniCPMOcrProcessor",
        {"patch_size": 14, "scale_resolution": 112, "max_slice_nums": 6},
        {},
    ),
    "qianfan_ocr": (
        "QianfanOCRProcessor",
        {"size": {"height": 56, "width": 56}},
        {"image_seq_length": 4},
    ),
}
NAMED = {
    "glm_ocr": {"image_token": "<|image|>", "video_token": "<|video|>"},
    "paddleocr_vl": {"image_token": "<|IMAGE_PLACEHOLDER|>"},
    "lighton_ocr": {
        "image_token": "<|image_pad|>",
        "image_break_token": "<|vision_start|>",
        "image_end_token": "<|vision_end|>",
    },
    "hunyuan_vl": {"image_token": "<image>", "image_start_token": "<image-start>", "image_end_token": "<image-end>"},
    "minicpm_ocr": {
        "image_token": "<|image|>",
        "video_token": "<|video|>",
        "image_start_token": "<image>",
        "image_end_token": "</image>",
        "slice_start_token": "<slice>",
        "slice_end_token": "</slice>",
        "image_id_start_token": "<image_id>",
        "image_id_end_token": "</image_id>",
    },
    "qianfan_ocr": {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
    },
}
#: Families whose processor insists on a video processor, and so on torchvision.
WITH_VIDEOS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "glm_ocr", "minicpm_ocr")


def tokenizer(model_type: str) -> Any:
    """Return a tokenizer of bytes and WORDS, with the family's names for its tokens and its template."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import AddedToken, Qwen2Tokenizer

    word = IMAGE_WORDS.get(model_type, "<|vision_start|><|image_pad|><|vision_end|>")
    made = Qwen2Tokenizer(
        vocab={symbol: i for i, symbol in enumerate(sorted(ByteLevel.alphabet()))}
        | {f"<unused-{i}>": i for i in range(256, FIRST)}
        | IDS,
        merges=[],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=None if word is None else _TEMPLATE.replace("IMAGE", word),
        extra_special_tokens=NAMED.get(model_type, {}),
    )
    made.add_tokens([AddedToken(word, special=True) for word in WORDS])
    return made


def processor(model_type: str) -> Any:
    """Return the family's own processor; where it insists on a video processor, with one that is never used."""
    import transformers

    name, values, own = PROCESSORS[model_type]
    images = getattr(TABLE[model_type], "image_processor_class", lambda: transformers.Qwen2VLImageProcessorPil)()
    parts = {"image_processor": images(**values), "tokenizer": tokenizer(model_type)}
    cls = getattr(transformers, name)
    if model_type not in WITH_VIDEOS:
        return cls(**parts, chat_template=parts["tokenizer"].chat_template, **own)

    class Unchecked(cls):  # type: ignore[misc, valid-type]
        def check_argument_for_proper_class(self, *_: Any) -> None:
            pass

    videos = SimpleNamespace(merge_size=2, temporal_patch_size=2, slice_mode=True, downsample_mode="4x")
    return Unchecked(**parts, video_processor=videos, chat_template=parts["tokenizer"].chat_template)


def stand_in_for_torchvision(monkeypatch: Any) -> None:
    """Give transformers what its torchvision processors take of torchvision here: another resize, the rest the same."""
    from torch.nn.functional import interpolate
    from transformers import image_processing_backends as backends

    from ocrlab.reading import loading

    def resize(image: torch.Tensor, size: tuple[int, int], **_: Any) -> torch.Tensor:
        return interpolate(image[None].float(), size, mode="bicubic", antialias=True)[0]

    def normalize(image: torch.Tensor, mean: Any, std: Any, **_: Any) -> torch.Tensor:
        mean, std = (torch.as_tensor(value).view(-1, 1, 1) for value in (mean, std))
        return (image - mean) / std

    modes = SimpleNamespace(BILINEAR="bilinear", LANCZOS="lanczos", BICUBIC="bicubic")
    functions = SimpleNamespace(resize=resize, normalize=normalize, InterpolationMode=modes)
    monkeypatch.setattr(backends, "tvF", functions, raising=False)
    monkeypatch.setattr(backends, "pil_torch_interpolation_mapping", {3: "bicubic"}, raising=False)
    monkeypatch.setattr(loading, "_absent", lambda module: "")


def write(model_type: str, folder: Path) -> Path:
    """Write a random checkpoint of the family as its repository on the Hub has it."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    config = AutoConfig.for_model(model_type, tie_word_embeddings=True, **CONFIGS[model_type])
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config)
    for name, weight in model.named_parameters():
        if weight.ndim > 1 and "embed_tokens" not in name:
            weight.data *= 4  # louder than the embedding, which through the tied head only repeats the last token
    model.generation_config.update(eos_token_id=IDS["<|im_end|>"], pad_token_id=IDS["<|endoftext|>"])
    model.save_pretrained(folder)
    made = processor(model_type)
    if model_type in WITH_VIDEOS:
        made.image_processor.save_pretrained(folder)
        made.tokenizer.save_pretrained(folder)
    else:
        made.save_pretrained(folder)
    return folder
