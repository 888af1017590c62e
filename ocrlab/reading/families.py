"""The one table of model families: everything in which one family differs from another.

A new family is one entry in FAMILIES; what it does otherwise than Qwen-VL it overrides in a subclass of Family.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from jinja2 import TemplateError
from PIL import Image

from ocrlab.reading.settings import SettingNotApplied

if TYPE_CHECKING:
    import torch

CONFIGS = Path(__file__).resolve().parent / "configs"
# Qwen2-VL-Instruct's own template (Apache-2.0): one path serves every size.
CHAT_TEMPLATE = CONFIGS / "chat_template.jinja"
#: Pixels that no image has.
UNLIMITED = 2**40
_SPECIAL_TOKENS = (
    "<|endoftext|>",
    *("<|im_start|>", "<|im_end|>"),
    *("<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>"),
    *("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
)
_FIRST_SPECIAL_ID = 151_643


@dataclass(frozen=True)
class Family:
    """How models of one `model_type` take a page and a prompt; the methods are those of Qwen-VL.

    `cell_sides` are the sides in pixels of what one image token shows in its checkpoints, the usual one first.
    `vision` and `language` name the model's two towers. `memory_modelled` says whether `limits.predict` knows it,
    `served_without_videos` whether `transformers serve` reads it with Qwen2-VL's processor less its video part.
    """

    cell_sides: tuple[int, ...]
    image_token: str = "<|image_pad|>"
    vision: str = "model.visual"
    language: str = "model.language_model"
    memory_modelled: bool = False
    served_without_videos: bool = False

    def load_image_processor(self, folder: Path) -> Any:
        """Return a checkpoint's own image processor in its PIL form; no code of the checkpoint's is run."""
        from transformers import AutoImageProcessor

        return AutoImageProcessor.from_pretrained(folder, backend="pil", trust_remote_code=False, local_files_only=True)

    def load_tokenizer(self, folder: Path) -> Any:
        """Return a checkpoint's tokenizer, with Qwen2-VL's chat template where it brings none."""
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        if tokenizer.chat_template is None:
            tokenizer.chat_template = CHAT_TEMPLATE.read_text(encoding="utf-8")
        return tokenizer

    def text(self, tokenizer: Any, prompt: str, system_prompt: str | None = None) -> str:
        """Return what the tokenizer gets for one image and the prompts; it holds the image token once.

        Where a family has no place for a system prompt, its words are not in the text.
        """
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        messages = [{"role": "user", "content": content}]
        if system_prompt is not None:
            messages.insert(0, {"role": "system", "content": [{"type": "text", "text": system_prompt}]})
        return str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))

    def limits(self, image_processor: Any) -> tuple[int, int]:
        """Return the pixel limits in force: (min_pixels, max_pixels) of the resized image."""
        size = image_processor.size
        return int(size["shortest_edge"]), int(size["longest_edge"])

    def set_limits(self, image_processor: Any, low: int, high: int) -> None:
        """Put pixel limits in force, under the image processor's own names."""
        image_processor.size = {"shortest_edge": low, "longest_edge": high}

    def cell_side(self, image_processor: Any) -> int:
        """Return the side in pixels of what one image token shows."""
        return int(image_processor.patch_size * image_processor.merge_size)

    def count(self, image_processor: Any, width: int, height: int) -> int:
        """Return how many image tokens an image of this size in pixels takes under the limits in force.

        Raises:
            ValueError: the image is too long and narrow for the family.
        """
        side = self.cell_side(image_processor)
        return tokens_of(resized(width, height, side, *self.limits(image_processor)), side)

    def more_tensors(self, ids: torch.Tensor, image_token_id: int) -> dict[str, torch.Tensor]:
        """Return what the model takes beside token ids, mask and the image processor's tensors."""
        return {"mm_token_type_ids": (ids == image_token_id).to(ids.dtype)}

    def clean(self, text: str) -> str:
        """Return the reading's text from what the model wrote."""
        return text.strip()

    def dummy_tokenizer(self) -> Any:
        """Return a byte-level tokenizer with the special tokens at their true ids; the words between are unused."""
        from tokenizers.pre_tokenizers import ByteLevel
        from transformers import Qwen2Tokenizer

        vocabulary = {symbol: i for i, symbol in enumerate(sorted(ByteLevel.alphabet()))}
        vocabulary |= {f"<unused-{i}>": i for i in range(len(vocabulary), _FIRST_SPECIAL_ID)}
        return Qwen2Tokenizer(
            vocab=vocabulary,
            merges=[],
            additional_special_tokens=list(_SPECIAL_TOKENS),
            eos_token="<|im_end|>",
            pad_token="<|endoftext|>",
            chat_template=CHAT_TEMPLATE.read_text(encoding="utf-8"),
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
    """The builder for a model in this process: a family with a checkpoint's tokenizer and image processor."""

    def __init__(self, family: Family, tokenizer: Any, image_processor: Any) -> None:
        self.family, self.tokenizer, self.image_processor = family, tokenizer, image_processor
        self.image_token_id = tokenizer.convert_tokens_to_ids(family.image_token)
        self._own_limits = family.limits(image_processor)
        self.system_prompt: str | None = None
        self.max_pixels: int | None = None
        tokenizer.padding_side = "left"  # decoding appends on the right (transformers#36100)

    @property
    def cell_pixels(self) -> int:
        """Pixels of the resized image behind one image token."""
        return self.family.cell_side(self.image_processor) ** 2

    def limits(self) -> tuple[int, int]:
        """Return the pixel limits in force: (min_pixels, max_pixels) of the resized image."""
        return self.family.limits(self.image_processor)

    def set_limits(self, low: int | None, high: int | None) -> None:
        """Put pixel limits in force; None is the checkpoint's own."""
        self.max_pixels = high
        own_low, own_high = self._own_limits
        self.family.set_limits(self.image_processor, low or own_low, high or own_high)

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

    def text(self, prompt: str) -> str:
        """Return the family's text for one image, a prompt and the system prompt in force, ready for the answer.

        Raises:
            ValueError: a prompt itself holds the image token.
        """
        text = self.family.text(self.tokenizer, prompt, self.system_prompt)
        if text.count(self.family.image_token) != 1:
            raise ValueError(
                f"prompt={prompt!r} and system_prompt={self.system_prompt!r} must not hold {self.family.image_token}; "
                f"reword them"
            )
        return text

    def build(self, images: list[Image.Image], prompt: str) -> Inputs:
        """Return the tensors for a batch, padded on the left, all on CPU.

        `input_ids` and `attention_mask` are (batch, tokens); the others are the image processor's and the family's.
        """
        processed = self.image_processor(images=images, return_tensors="pt")
        counts = tuple(self.count(*image.size) for image in images)
        template, token = self.text(prompt), self.family.image_token
        tokens = self.tokenizer([template.replace(token, token * n) for n in counts], padding=True, return_tensors="pt")
        ids, mask = tokens["input_ids"], tokens["attention_mask"]
        tensors = {"input_ids": ids, "attention_mask": mask, **processed}
        tensors |= self.family.more_tensors(ids, self.image_token_id)
        return Inputs(tensors, counts, tuple(int(n) for n in mask.sum(-1)))


# The embedded reader is a Qwen2-VL with cells of 16 pixels.
FAMILIES = {
    "qwen2_vl": Family(cell_sides=(28, 16), memory_modelled=True, served_without_videos=True),
    "qwen2_5_vl": Family(cell_sides=(28,), served_without_videos=True),
    "qwen3_vl": Family(cell_sides=(32,)),
}
CELL_SIDES = sorted({side for family in FAMILIES.values() for side in family.cell_sides})
#: The side to reckon with where a server does not let its own be found out.
USUAL_SIDE = FAMILIES["qwen2_vl"].cell_sides[0]
