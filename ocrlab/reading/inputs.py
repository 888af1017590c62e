"""From images and a prompt to the tensors that Qwen2-VL takes: chat template, tokenizer, PIL image processor.

Built by hand because `AutoProcessor` insists on a video processor and so on torchvision; and so one image path gives
the same pixels on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image

from ocrlab.pages import Page, page_size

if TYPE_CHECKING:
    import torch

IMAGE_TOKEN = "<|image_pad|>"


@dataclass(frozen=True)
class Inputs:
    """Tensors for `generate`, and each page's counts of image tokens and of all prompt tokens."""

    tensors: dict[str, torch.Tensor]
    image_tokens: tuple[int, ...]
    prompt_tokens: tuple[int, ...]


def count_image_tokens(image_processor: Any, width: int, height: int) -> int:
    """Return how many image tokens an image of this size in pixels takes under a processor's limits."""
    return int(image_processor.get_number_of_image_patches(height, width)) // image_processor.merge_size**2


def page_tokens(page: Page, count: Callable[[int, int], int]) -> int:
    """Return a page's image tokens from its header alone, as `count` tells them from width and height; 0: not told."""
    try:
        return count(*page_size(page))
    except (ValueError, OSError):
        return 0


class InputBuilder:
    """Holds a checkpoint's tokenizer and image processor; `build` turns pages into `Inputs`."""

    def __init__(self, tokenizer: Any, image_processor: Any, image_token_id: int) -> None:
        self.tokenizer, self.image_processor, self.image_token_id = tokenizer, image_processor, image_token_id
        tokenizer.padding_side = "left"  # decoding appends on the right (transformers#36100)

    @property
    def cell_pixels(self) -> int:
        """Pixels of the resized image behind one image token."""
        return int((self.image_processor.patch_size * self.image_processor.merge_size) ** 2)

    def limits(self) -> tuple[int, int]:
        """Return the pixel limits in force: (min_pixels, max_pixels) of the resized image."""
        size = self.image_processor.size
        return int(size["shortest_edge"]), int(size["longest_edge"])

    def count(self, width: int, height: int) -> int:
        """Return how many image tokens an image of this size in pixels will take."""
        return count_image_tokens(self.image_processor, width, height)

    def text(self, prompt: str) -> str:
        """Return the chat template's text for one image and a prompt, ready for the answer.

        Raises:
            ValueError: the prompt itself holds the image token.
        """
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        if text.count(IMAGE_TOKEN) != 1:
            raise ValueError(f"prompt={prompt!r} must not hold {IMAGE_TOKEN}; reword it")
        return str(text)

    def build(self, images: list[Image.Image], prompt: str) -> Inputs:
        """Return the tensors for a batch, padded on the left, all on CPU.

        `pixel_values` is (patches, features) float32; `input_ids`, `attention_mask` and `mm_token_type_ids` are
        (batch, tokens); `image_grid_thw` is (batch, 3) in patches.
        """
        processed = self.image_processor(images=images, return_tensors="pt")
        grid = processed["image_grid_thw"]
        counts = tuple(int(n) for n in grid.prod(-1) // self.image_processor.merge_size**2)
        template = self.text(prompt)
        texts = [template.replace(IMAGE_TOKEN, IMAGE_TOKEN * n) for n in counts]
        tokens = self.tokenizer(texts, padding=True, return_tensors="pt")
        ids, mask = tokens["input_ids"], tokens["attention_mask"]
        tensors = {
            "input_ids": ids, "attention_mask": mask, "mm_token_type_ids": (ids == self.image_token_id).to(ids.dtype),
            "pixel_values": processed["pixel_values"], "image_grid_thw": grid,
        }  # fmt: skip
        return Inputs(tensors, counts, tuple(int(n) for n in mask.sum(-1)))
