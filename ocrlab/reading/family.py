"""What a model family is, and how its pages and prompts become a model's inputs; the families themselves are a table.

Inputs are built by hand from tokenizer and PIL image processor, because `AutoProcessor` insists on videos, and so on
torchvision, for half of the families. Tests hold them against each family's own processor.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Protocol

from jinja2 import TemplateError
from PIL import Image

from ocrlab.reading.settings import DEFAULT_PROMPT, SettingNotApplied

CONFIGS = Path(__file__).resolve().parent / "configs"
# Qwen2-VL-Instruct's own template (Apache-2.0): one path serves every size.
CHAT_TEMPLATE = CONFIGS / "chat_template.jinja"
#: Pixels that no image has.
UNLIMITED = 2**40
QWEN_TOKENS = (
    "<|endoftext|>",
    *("<|im_start|>", "<|im_end|>"),
    *("<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>"),
    *("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
)
#: What a dummy's text is where the family's own template is a checkpoint's: the image, and the words of all messages.
_DUMMY_TEMPLATE = "IMAGE{% for m in messages %}{% for c in m['content'] %}{{ c['text'] }}{% endfor %}{% endfor %}"
_NOT_SHAPES = ("dtype", "torch_dtype", "quantization_config")


@dataclass(frozen=True)
class Family:
    """How models of one `model_type` take a page and a prompt; the methods are those of Qwen-VL.

    `cell_sides` are the sides in pixels of what one image token shows in its checkpoints, the usual one first; none
    where image tokens are not cells of a page. `prompt` stands in where a person gave none. `special_tokens` lie around
    `image_token` in its vocabularies, as dummies need them; `stops` end an answer though no generation config says so.
    `vision` and `language` name the model's two towers; `vision_attentions` are those that its vision part has, the
    first in place of any other, none where it has what the text has. `takes_token_types` says whether the model is told
    which tokens are the image's, `keeps_special_tokens` whether an answer's marks are special tokens, `templated`
    whether it has a chat template, `thinks` whether that must be told not to. `needs` is a module without which its
    image processor does not exist. `code_ignored`: its repositories bring code from before transformers had it, which
    is not run, and no reason to refuse them. `memory_modelled` says whether `limits.predict` knows it,
    `served_without_videos` whether `transformers serve` reads it with Qwen2-VL's processor less its video part.
    """

    cell_sides: tuple[int, ...] = ()
    prompt: str = DEFAULT_PROMPT
    image_token: str = "<|image_pad|>"
    special_tokens: tuple[str, ...] = QWEN_TOKENS
    stops: tuple[str, ...] = ()
    vision: str = "model.visual"
    language: str = "model.language_model"
    vision_attentions: tuple[str, ...] = ()
    takes_token_types: bool = True
    keeps_special_tokens: bool = False
    templated: bool = True
    code_ignored: bool = False
    thinks: bool = False
    needs: str = ""
    memory_modelled: bool = False
    served_without_videos: bool = False

    def load_image_processor(self, folder: Path, config: dict[str, Any]) -> Any:
        """Return a checkpoint's own image processor in its PIL form; no code of the checkpoint's is run."""
        from transformers import AutoImageProcessor

        own = AutoImageProcessor.from_pretrained(folder, backend="pil", trust_remote_code=False, local_files_only=True)
        return self.fitted(own, config)

    def fitted(self, image_processor: Any, config: dict[str, Any]) -> Any:
        """Return the image processor with what the family must know of the model's config to count image tokens."""
        return image_processor

    def load_tokenizer(self, folder: Path) -> Any:
        """Return a checkpoint's tokenizer with its chat template.

        Raises:
            OSError: there is none, and the family needs one.
        """
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        if self.templated and tokenizer.chat_template is None:
            tokenizer.chat_template = self.template_beside(folder)
        return tokenizer

    def template_beside(self, folder: Path) -> str:
        """Return the chat template of a tokenizer that brings none: Qwen2-VL's for all sizes of Qwen-VL."""
        return CHAT_TEMPLATE.read_text(encoding="utf-8")

    def token(self, tokenizer: Any) -> str:
        """Return the image token, as a checkpoint's tokenizer names it or as all of the family have it."""
        return getattr(tokenizer, "image_token", None) or self.image_token

    def placeholder(self, tokenizer: Any) -> str:
        """Return what stands for an image in the family's text, to be replaced by its tokens."""
        return self.token(tokenizer)

    def text(self, tokenizer: Any, prompt: str, system_prompt: str | None = None) -> str:
        """Return what the tokenizer gets for one image and the prompts; it holds the placeholder once.

        Where a family has no place for a system prompt, its words are not in the text.
        """
        content = [{"type": "image"}] + ([{"type": "text", "text": prompt}] if prompt else [])
        messages = [{"role": "user", "content": content}]
        if system_prompt is not None:
            messages.insert(0, {"role": "system", "content": [{"type": "text", "text": system_prompt}]})
        more = {"enable_thinking": False} if self.thinks else {}
        return str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, **more))

    def usual_prompt(self, image_processor: Any) -> str:
        """Return the prompt where a person gave none."""
        return self.prompt

    def limits(self, image_processor: Any) -> tuple[int, int]:
        """Return the pixel limits in force: (min_pixels, max_pixels) of the resized image."""
        size = image_processor.size
        return int(size["shortest_edge"]), int(size["longest_edge"])

    def set_limits(self, image_processor: Any, low: int, high: int) -> None:
        """Put pixel limits in force, under the image processor's own names."""
        image_processor.size = {"shortest_edge": low, "longest_edge": high}

    def nearest(self, image_processor: Any, low: int | None, high: int | None) -> tuple[int | None, int | None]:
        """Return asked pixel limits as the image processor's own keys can hold them; the family counts in pixels.

        Raises:
            SettingNotApplied: they cannot; the message says what can be asked.
        """
        return low, high

    def ask_limits(self, image_processor: Any, low: int | None, high: int | None, own: tuple[int, int]) -> None:
        """Put asked pixel limits in force, or raise SettingNotApplied where no key can hold them; None is the `own`."""
        low, high = self.nearest(image_processor, low, high)
        self.set_limits(image_processor, low or own[0], high or own[1])

    def budget(self, image_processor: Any) -> str:
        """Return the limits in force by the image processor's own keys, where these are not pixels; else nothing."""
        return ""

    def cell_pixels(self, image_processor: Any) -> int:
        """Return the pixels of the resized image behind one image token."""
        return int(image_processor.patch_size * image_processor.merge_size) ** 2

    def count(self, image_processor: Any, width: int, height: int) -> int:
        """Return how many image tokens an image of this size in pixels takes under the limits in force.

        Raises:
            ValueError: the image is too long and narrow for the family.
        """
        side = int(image_processor.patch_size * image_processor.merge_size)
        return tokens_of(resized(width, height, side, *self.limits(image_processor)), side)

    def expanded(self, tokenizer: Any, image_processor: Any, width: int, height: int) -> str:
        """Return what takes the placeholder's place for an image of this size in pixels."""
        return self.token(tokenizer) * self.count(image_processor, width, height)

    def process(self, image_processor: Any, images: list[Image.Image]) -> dict[str, Any]:
        """Return the image processor's tensors for a batch of one image each, as the model takes them."""
        return dict(image_processor(images=images, return_tensors="pt"))

    def positions(self, model: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        """Return positions for a batch on the model's device where the model's own would be wrong, else nothing."""
        return {}

    def attention(self, asked: str) -> str:
        """Return the vision part's attention where this one is asked for."""
        return asked if asked in (self.vision_attentions or (asked,)) else self.vision_attentions[0]

    def clean(self, text: str) -> str:
        """Return the reading's text from what the model wrote."""
        return text.strip()

    def dummy_tokenizer(self, config: dict[str, Any]) -> Any:
        """Return a byte-level tokenizer with the special tokens at their true ids; the words between are unused."""
        from tokenizers.pre_tokenizers import ByteLevel
        from transformers import Qwen2Tokenizer

        first = int(resolved(config).image_token_id) - self.special_tokens.index(self.image_token)
        vocabulary = {symbol: i for i, symbol in enumerate(sorted(ByteLevel.alphabet()))}
        vocabulary |= {f"<unused-{i}>": i for i in range(len(vocabulary), first)}
        vocabulary |= {token: first + i for i, token in enumerate(self.special_tokens)}
        own = self.special_tokens is QWEN_TOKENS
        return Qwen2Tokenizer(
            vocab=vocabulary,
            merges=[],
            additional_special_tokens=list(self.special_tokens),
            eos_token="<|im_end|>" if own else self.special_tokens[0],
            pad_token=self.special_tokens[0],
            chat_template=CHAT_TEMPLATE.read_text(encoding="utf-8")
            if own
            else _DUMMY_TEMPLATE.replace("IMAGE", self.placeholder(None)),
        )

    def dummy_image_processor(self, config: dict[str, Any]) -> Any:
        """Return an image processor for a config alone, with the family's default pixel limits."""
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        vision = config["vision_config"]
        cell = (vision["patch_size"] * vision["spatial_merge_size"]) ** 2
        return Qwen2VLImageProcessorPil(
            patch_size=vision["patch_size"],
            merge_size=vision["spatial_merge_size"],
            temporal_patch_size=vision["temporal_patch_size"],
            size={"shortest_edge": 4 * cell, "longest_edge": 16384 * cell},
        )


@dataclass(frozen=True)
class OcrFamily(Family):
    """A family that is not Qwen-VL: its checkpoints bring chat template, names of tokens and image processor.

    `image_processor` is where the class of its image processor stands, in the PIL form where there is one.
    """

    image_processor: str = ""
    code_ignored: bool = True

    def template_beside(self, folder: Path) -> str:
        """Return the chat template from a file of its own, as older repositories have it."""
        return str(json.loads((folder / "chat_template.json").read_text(encoding="utf-8"))["chat_template"])

    def cell_pixels(self, image_processor: Any) -> int:
        """Return the pixels of the resized image behind one image token, of the largest square that may be."""
        most = self.limits(image_processor)[1]
        return most // self.count(image_processor, math.isqrt(most), math.isqrt(most))

    def count(self, image_processor: Any, width: int, height: int) -> int:
        return int(image_processor.get_number_of_image_patches(height, width)) // image_processor.merge_size**2

    def image_processor_class(self) -> Any:
        """Return the image processor's class, by where it stands in transformers."""
        return resolve_name(f"transformers.models.{self.image_processor}")

    def load_image_processor(self, folder: Path, config: dict[str, Any]) -> Any:
        return self.fitted(self.image_processor_class().from_pretrained(folder, local_files_only=True), config)

    def dummy_image_processor(self, config: dict[str, Any]) -> Any:
        return self.fitted(self.image_processor_class()(**self.dummy_values(resolved(config))), config)

    def dummy_values(self, config: Any) -> dict[str, Any]:
        """Return what an image processor takes from a model's config."""
        vision = config.vision_config
        return {"patch_size": vision.patch_size, "merge_size": vision.spatial_merge_size}


def resolved(config: dict[str, Any]) -> Any:
    """Return a checkpoint's config with its class's defaults where its file is silent."""
    from transformers import AutoConfig

    return AutoConfig.for_model(**{name: value for name, value in config.items() if name not in _NOT_SHAPES})


def resized(width: int, height: int, side: int, low: int = 1, high: int = UNLIMITED) -> tuple[int, int]:
    """Return the width and height in pixels to which Qwen-VL's rule resizes an image.

    Raises:
        ValueError: one side is more than 200 times the other.
    """
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    height, width = smart_resize(height, width, side, low, high)
    return width, height


def tokens_of(size: tuple[int, int], side: int) -> int:
    """Return how many image tokens a resized image takes where each shows a square of this side."""
    return size[0] * size[1] // side**2


@dataclass(frozen=True)
class Inputs:
    """What a reader takes for a batch, by name, and each page's counts of image tokens and of all prompt tokens."""

    tensors: dict[str, Any]
    image_tokens: tuple[int, ...]
    prompt_tokens: tuple[int, ...]


class Builder(Protocol):
    """Turns pages into what a reader takes, within its pixel limits."""

    @property
    def system_prompt(self) -> str | None:
        """The system prompt in force."""

    @property
    def cell_pixels(self) -> int:
        """Pixels of the resized image behind one image token."""

    @property
    def max_pixels(self) -> int | None:
        """The pixel budget that was asked for; None is the checkpoint's or server's own."""

    def limits(self) -> tuple[int, int]:
        """Return the pixel limits in force: (min_pixels, max_pixels) of the resized image."""

    def count(self, width: int, height: int) -> int:
        """Return how many image tokens an image of this size in pixels will take."""

    def build(self, images: list[Image.Image], prompt: str) -> Inputs:
        """Return what the reader takes for a batch."""


class InputBuilder:
    """The builder for a model in this process: a family with a checkpoint's tokenizer and image processor.

    `prompt` is what the checkpoint is asked where a person gave no prompt; None is the family's own.
    """

    def __init__(self, family: Family, tokenizer: Any, image_processor: Any, prompt: str | None = None) -> None:
        self.family, self.tokenizer, self.image_processor = family, tokenizer, image_processor
        self.image_token_id = tokenizer.convert_tokens_to_ids(family.token(tokenizer))
        self._own_limits, self._own_prompt = family.limits(image_processor), prompt
        self.system_prompt: str | None = None
        self.max_pixels: int | None = None
        tokenizer.padding_side = "left"  # decoding appends on the right (transformers#36100)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token

    @property
    def cell_pixels(self) -> int:
        """Pixels of the resized image behind one image token."""
        return self.family.cell_pixels(self.image_processor)

    def limits(self) -> tuple[int, int]:
        """Return the pixel limits in force: (min_pixels, max_pixels) of the resized image."""
        return self.family.limits(self.image_processor)

    def set_limits(self, low: int | None, high: int | None) -> None:
        """Put pixel limits in force, or raise as the family's `ask_limits`; None is the checkpoint's own."""
        self.max_pixels = high
        self.family.ask_limits(self.image_processor, low, high, self._own_limits)

    def set_system_prompt(self, words: str | None) -> None:
        """Put a system prompt in force; None is the chat template's own.

        Raises:
            SettingNotApplied: the family's text has no place for one.
        """
        try:
            arrived = not words or words.strip() in self.family.text(self.tokenizer, "", words)
        except TemplateError:  # how some templates say so
            arrived = False
        if not arrived:
            raise SettingNotApplied(
                f"system_prompt: asked for {words!r}, but this model's chat template has no place for it; "
                f"leave it out, or put its words into prompt"
            )
        self.system_prompt = words

    def count(self, width: int, height: int) -> int:
        """Return how many image tokens an image of this size in pixels will take."""
        return self.family.count(self.image_processor, width, height)

    def prompt(self, asked: str) -> str:
        """Return the prompt in force: the model's own where nobody asked for another than the default."""
        own = self.family.usual_prompt(self.image_processor) if self._own_prompt is None else self._own_prompt
        return own if asked == DEFAULT_PROMPT else asked

    def text(self, prompt: str) -> str:
        """Return the family's text for one image, a prompt and the system prompt in force, ready for the answer.

        Raises:
            ValueError: a prompt itself holds the image token.
        """
        placeholder = self.family.placeholder(self.tokenizer)
        text = self.family.text(self.tokenizer, self.prompt(prompt), self.system_prompt)
        if text.count(placeholder) != 1:
            raise ValueError(
                f"prompt={prompt!r} and system_prompt={self.system_prompt!r} must not hold {placeholder}; reword them"
            )
        return text

    def build(self, images: list[Image.Image], prompt: str) -> Inputs:
        """Return the tensors for a batch, padded on the left, all on CPU.

        `input_ids` and `attention_mask` are (batch, tokens); the others are the image processor's and the family's.
        """
        tensors = self.family.process(self.image_processor, images)
        before, _, after = self.text(prompt).partition(self.family.placeholder(self.tokenizer))
        shown = [self.family.expanded(self.tokenizer, self.image_processor, *image.size) for image in images]
        bos = self.tokenizer.bos_token  # of a template that wrote it, there would be two
        own = {"add_special_tokens": False} if bos and before.startswith(bos) else {}
        tokens = self.tokenizer([before + one + after for one in shown], padding=True, return_tensors="pt", **own)
        ids, mask = tokens["input_ids"], tokens["attention_mask"]
        image = ids == self.image_token_id
        tensors = {"input_ids": ids, "attention_mask": mask, **tensors}
        if self.family.takes_token_types:
            tensors["mm_token_type_ids"] = image.to(ids.dtype)
        return Inputs(tensors, tuple(map(int, image.sum(-1))), tuple(map(int, mask.sum(-1))))
