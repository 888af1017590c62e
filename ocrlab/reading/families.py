"""The one table of model families: everything in which one family differs from another.

A new family is one entry in FAMILIES; what it does otherwise than Qwen-VL it overrides in a subclass of Family.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ocrlab.reading.family import Family, resolved
from ocrlab.reading.settings import SettingNotApplied


@dataclass(frozen=True)
class OcrFamily(Family):
    """A family that is not Qwen-VL: its checkpoints bring chat template, names of tokens and image processor.

    `image_processor` is the PIL one's class in transformers, which dummies need.
    """

    image_processor: str = ""

    def template_beside(self, folder: Path) -> str:
        """Return the chat template from a file of its own, as older repositories have it."""
        return str(json.loads((folder / "chat_template.json").read_text(encoding="utf-8"))["chat_template"])

    def cell_pixels(self, image_processor: Any) -> int:
        """Return the pixels of the resized image behind one image token, of the largest square that may be."""
        most = self.limits(image_processor)[1]
        return most // self.count(image_processor, math.isqrt(most), math.isqrt(most))

    def count(self, image_processor: Any, width: int, height: int) -> int:
        """Return how many image tokens an image takes: its patches, merged."""
        return int(image_processor.get_number_of_image_patches(height, width)) // image_processor.merge_size**2

    def dummy_image_processor(self, config: dict[str, Any]) -> Any:
        """Return the family's image processor with its class's limits, for a config alone."""
        import transformers

        made = getattr(transformers, self.image_processor)(**self.dummy_values(resolved(config)))
        return self.fitted(made, config)

    def dummy_values(self, config: Any) -> dict[str, Any]:
        """Return what an image processor takes from a model's config."""
        vision = config.vision_config
        return {"patch_size": vision.patch_size, "merge_size": vision.spatial_merge_size}


class Frames(OcrFamily):
    """GLM-OCR, whose limits count frames times pixels, an image being as many frames as a patch is deep."""

    def limits(self, image_processor: Any) -> tuple[int, int]:
        """Return the pixel limits of one frame."""
        low, high = super().limits(image_processor)
        depth = image_processor.temporal_patch_size
        return low // depth, high // depth

    def set_limits(self, image_processor: Any, low: int, high: int) -> None:
        """Put limits of one frame in force."""
        depth = image_processor.temporal_patch_size
        super().set_limits(image_processor, low * depth, high * depth)

    def budget(self, image_processor: Any) -> str:
        """Return the limits as the image processor counts them."""
        low, high = super().limits(image_processor)
        return f"shortest_edge={low}, longest_edge={high} of {image_processor.temporal_patch_size} frames"


class Rows(OcrFamily):
    """HunyuanOCR, which ends each row of cells with a token of its own, and the image with two."""

    def count(self, image_processor: Any, width: int, height: int) -> int:
        """Return cells, ends of rows, and the two ends of the image."""
        rows, columns = image_processor.get_number_of_image_patches(height, width)
        return int(rows // image_processor.merge_size * (columns // image_processor.merge_size + 1) + 2)


class LongestSide(OcrFamily):
    """LightOnOCR: the longest side is limited and not the pixels; smaller images stay as they are, padded to cells."""

    def fitted(self, image_processor: Any, config: dict[str, Any]) -> Any:
        """Return the image processor with the side of a cell."""
        whole = resolved(config)
        image_processor.cell = whole.vision_config.patch_size * whole.spatial_merge_size
        return image_processor

    def dummy_values(self, config: Any) -> dict[str, Any]:
        """Return patch and longest side."""
        vision = config.vision_config
        return {"patch_size": vision.patch_size, "size": {"longest_edge": vision.image_size}}

    def limits(self, image_processor: Any) -> tuple[int, int]:
        """Return the pixels of one cell, and of a square of the longest side."""
        return image_processor.cell**2, int(image_processor.size["longest_edge"]) ** 2

    def set_limits(self, image_processor: Any, low: int, high: int) -> None:
        """Put the longest side in force."""
        image_processor.size = {"longest_edge": math.isqrt(high)}

    def nearest(self, image_processor: Any, low: int | None, high: int | None) -> tuple[int | None, int | None]:
        """Return the largest square of whole cells within max_pixels."""
        cell = image_processor.cell
        if low not in {None, cell**2}:
            raise SettingNotApplied(
                f"min_pixels: asked for {low}, but this model's image processor never enlarges; leave it out"
            )
        if high is not None and high < cell**2:
            raise SettingNotApplied(f"max_pixels: asked for {high}, but one cell has {cell**2}; ask for more")
        return low, None if high is None else (math.isqrt(high) // cell * cell) ** 2

    def budget(self, image_processor: Any) -> str:
        """Return the longest side in force."""
        return f"longest_edge={image_processor.size['longest_edge']}"

    def count(self, image_processor: Any, width: int, height: int) -> int:
        """Return the whole cells of the resized image."""
        import numpy as np
        from transformers.models.pixtral.image_processing_pil_pixtral import get_resize_output_image_size

        patch, cell = image_processor.patch_size, image_processor.cell
        side = patch if isinstance(patch, int) else patch["height"]
        page = np.broadcast_to(np.uint8(0), (3, height, width))  # takes no memory
        rows, columns = get_resize_output_image_size(page, image_processor.size["longest_edge"], side, "channels_first")
        return (rows // cell) * (columns // cell)


@dataclass(frozen=True)
class Tiles(OcrFamily):
    """Families that cut a page into square tiles of one size, and a budget is how many; most add a small whole page."""

    takes_token_types: bool = False
    crops: bool | None = None
    #: What the image processor returns and the model does not take.
    unused: tuple[str, ...] = ("num_patches",)

    def fitted(self, image_processor: Any, config: dict[str, Any]) -> Any:
        """Return the image processor with the image tokens of a tile."""
        image_processor.tile_tokens = self.tile_tokens(image_processor, resolved(config))
        if self.crops is not None:
            image_processor.crop_to_patches = self.crops
        return image_processor

    def tile_tokens(self, image_processor: Any, config: Any) -> int:
        """Return the image tokens of a tile."""
        return int(config.image_seq_length)

    def dummy_values(self, config: Any) -> dict[str, Any]:
        """Return the tile's size."""
        side = config.vision_config.image_size
        side = side if isinstance(side, int) else side[0]
        return {"size": {"height": side, "width": side}}

    def tile_side(self, image_processor: Any) -> int:
        """Return the side of a tile in pixels."""
        return int(image_processor.size["height"])

    def limits(self, image_processor: Any) -> tuple[int, int]:
        """Return the pixels of the fewest tiles and of the most."""
        area, most = self.tile_side(image_processor) ** 2, image_processor.max_patches
        most = most if image_processor.crop_to_patches else 1
        return min(image_processor.min_patches, most) * area, most * area

    def set_limits(self, image_processor: Any, low: int, high: int) -> None:
        """Put numbers of tiles in force; where there is one only, the page is not cut."""
        area = self.tile_side(image_processor) ** 2
        image_processor.max_patches = high // area
        image_processor.min_patches = min(low, high) // area
        image_processor.crop_to_patches = image_processor.max_patches > 1

    def nearest(self, image_processor: Any, low: int | None, high: int | None) -> tuple[int | None, int | None]:
        """Return the pixels of whole tiles: as many as max_pixels holds, and as cover min_pixels."""
        side = self.tile_side(image_processor)
        if high is not None and high < side**2:
            raise SettingNotApplied(
                f"max_pixels: asked for {high}, but one tile of {side} by {side} has {side**2}; ask for more"
            )
        return (
            None if low is None else -(-low // side**2) * side**2,
            None if high is None else high // side**2 * side**2,
        )

    def budget(self, image_processor: Any) -> str:
        """Return the numbers of tiles in force."""
        fewest, most = (pixels // self.tile_side(image_processor) ** 2 for pixels in self.limits(image_processor))
        return f"min_patches={fewest}, max_patches={most} of {self.tile_side(image_processor)} pixels"

    def count(self, image_processor: Any, width: int, height: int) -> int:
        """Return the tokens of all tiles, the whole page counted as one."""
        return int(image_processor.tile_tokens * image_processor.get_number_of_image_patches(height, width))

    def process(self, image_processor: Any, images: list[Image.Image]) -> dict[str, Any]:
        """Return the tensors of all tiles of the batch."""
        made = super().process(image_processor, images)
        return {name: tensor for name, tensor in made.items() if name not in self.unused}


class GotOcr(Tiles):
    """GOT-OCR 2: no chat template; the prompt says whether the page is cut."""

    def load_tokenizer(self, folder: Path) -> Any:
        """Return a checkpoint's tokenizer, without a template."""
        return _plain_tokenizer(folder)

    def tile_tokens(self, image_processor: Any, config: Any) -> int:
        """Return the patches of a tile, merged twice by two."""
        return (self.tile_side(image_processor) // config.vision_config.patch_size // 4) ** 2

    def usual_prompt(self, image_processor: Any) -> str:
        """Return the words that the family's processor makes."""
        return "OCR upon the patch reference: " if image_processor.crop_to_patches else "OCR: "

    def text(self, tokenizer: Any, prompt: str, system_prompt: str | None = None) -> str:
        """Return the conversation as the family's processor writes it."""
        system = system_prompt or "You should follow the instructions carefully and explain your answers in detail."
        return (
            f"<|im_start|>system\n{system}<|im_end|><|im_start|>user\n<img>{self.image_token}</img>\n {prompt}"
            f"<|im_end|><|im_start|>assistant\n"
        )


class DeepseekOcr(Tiles):
    """DeepSeek-OCR 2: raw text; a whole page of 1,024 pixels a side, and tiles of 768 where it is larger than one."""

    def load_tokenizer(self, folder: Path) -> Any:
        """Return a checkpoint's tokenizer, without a template."""
        return _plain_tokenizer(folder)

    def dummy_values(self, config: Any) -> dict[str, Any]:
        """Return nothing: the class's values are those of the only checkpoint."""
        return {}

    def tile_side(self, image_processor: Any) -> int:
        """Return the side of a tile in pixels."""
        return int(image_processor.tile_size)

    def tile_tokens(self, image_processor: Any, config: Any) -> int:
        """Return the tokens of a tile: one for 64 by 64 pixels."""
        return math.ceil(image_processor.tile_size / 64) ** 2

    def set_limits(self, image_processor: Any, low: int, high: int) -> None:
        """Put numbers of tiles in force; the page is always cut (uncut, transformers 5.23 miscounts its tokens)."""
        super().set_limits(image_processor, low, high)
        image_processor.crop_to_patches = True

    def count(self, image_processor: Any, width: int, height: int) -> int:
        """Return the tokens of the tiles, of the whole page, and of the mark between them."""
        from transformers.models.deepseek_ocr2.image_processing_pil_deepseek_ocr2 import get_optimal_tiled_canvas

        side, tiles = self.tile_side(image_processor), 0
        if max(width, height) > side:
            few, most = image_processor.min_patches, image_processor.max_patches
            tiles = math.prod(get_optimal_tiled_canvas((height, width), (side, side), few, most))
        whole = math.ceil(image_processor.size["height"] / 64) ** 2
        return int(image_processor.tile_tokens * tiles + whole + 1)

    def text(self, tokenizer: Any, prompt: str, system_prompt: str | None = None) -> str:
        """Return the image and the prompt under it."""
        return f"{self.image_token}\n{prompt}"

    def clean(self, text: str) -> str:
        """Return the text without the places that a grounding prompt asks for."""
        return re.sub(r"<\|ref\|>.*?<\|/ref\|>|<\|det\|>.*?<\|/det\|>\n?|<｜[^｜]*｜>", "", text, flags=re.S).strip()


class QianfanOcr(Tiles):
    """Qianfan-OCR: the chat template writes a word for an image, which tokens of other names replace."""

    def placeholder(self, image_token: str) -> str:
        """Return the template's word."""
        return "<image>"

    def expanded(self, image_token: str, image_processor: Any, width: int, height: int) -> str:
        """Return the image's tokens between their marks."""
        return f"<img>{super().expanded(image_token, image_processor, width, height)}</img>"


class GraniteDocling(Tiles):
    """Granite Docling: tiles of 512 with their places named in the text; answers in DocTags."""

    def tile_tokens(self, image_processor: Any, config: Any) -> int:
        """Return the patches of a tile, shuffled into fewer; a finer route has four times as many."""
        vision = config.vision_config
        tokens = (self.tile_side(image_processor) // vision.patch_size // vision.scale_factor) ** 2
        return tokens * 4 if image_processor.fine_route else tokens

    def expanded(self, image_token: str, image_processor: Any, width: int, height: int) -> str:
        """Return the tokens of each tile under its row and column, and of the whole page."""
        rows, columns = image_processor.get_tile_grid(height, width)
        around, tokens = "<fake_token_around_image>", image_token * image_processor.tile_tokens
        lines = [
            "".join(f"{around}<row_{row + 1}_col_{column + 1}>{tokens}" for column in range(columns)) + "\n"
            for row in range(rows)
        ]
        whole = f"\n{around}<global-img>{tokens}{around}" if rows * columns > 1 else ""
        return "".join(lines) + whole

    def process(self, image_processor: Any, images: list[Image.Image]) -> dict[str, Any]:
        """Return the tiles page by page, those of smaller pages filled up."""
        return super().process(image_processor, [[image] for image in images])  # type: ignore[misc]

    def clean(self, text: str) -> str:
        """Return the text of DocTags: an element a line, a table's cells with tabs between them, no places."""
        text = re.sub(r"<loc_\d+>|<\|[^|<>]*\|>", "", text)
        text = re.sub(r"<(?:fcel|ecel|lcel|ucel|xcel|ched|rhed|srow)>", "\t", text)
        text = re.sub(r"</\w+>|<nl>|<page_break>|<br/?>", "\n", text)
        lines = (line.strip() for line in re.sub(r"<\w+/?>", "", text).splitlines())
        return "\n".join(line for line in lines if line)


def _plain_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


# The embedded reader is a Qwen2-VL with cells of 16 pixels.
FAMILIES: dict[str, Family] = {
    "qwen2_vl": Family(cell_sides=(28, 16), memory_modelled=True, served_without_videos=True),
    "qwen2_5_vl": Family(cell_sides=(28,), served_without_videos=True),
    "qwen3_vl": Family(cell_sides=(32,)),
    "qwen3_5": Family(cell_sides=(32,), thinks=True),
    "glm_ocr": Frames(
        cell_sides=(28,),
        prompt="Text Recognition:",
        image_token="<|image|>",
        special_tokens=("<|endoftext|>", "<|image|>"),
        image_processor="Glm46VImageProcessorPil",
    ),
    "paddleocr_vl": OcrFamily(
        cell_sides=(28,),
        prompt="OCR:",
        image_token="<|IMAGE_PLACEHOLDER|>",
        special_tokens=("<|end_of_sentence|>", "<|IMAGE_PLACEHOLDER|>"),
        image_processor="PaddleOCRVLImageProcessorPil",
    ),
    "lighton_ocr": LongestSide(
        prompt="",
        vision="model.vision_encoder",
        takes_token_types=False,
        image_processor="PixtralImageProcessorPil",
    ),
    "hunyuan_vl": Rows(
        prompt="Extract the text from the image.",
        image_token="<|hy_place▁holder▁no▁102|>",
        special_tokens=("<|hy_▁pad▁|>", "<|hy_place▁holder▁no▁102|>"),
        vision="model.vision_tower",
        image_processor="HunYuanVLImageProcessorPil",
    ),
    "deepseek_ocr2": DeepseekOcr(
        prompt="Free OCR.",
        image_token="<image>",
        special_tokens=("<｜▁pad▁｜>", "<image>"),
        vision="model.vision_tower",
        vision_attentions=("sdpa", "eager"),
        keeps_special_tokens=True,
        unused=(),
        image_processor="DeepseekOcr2ImageProcessorPil",
    ),
    "got_ocr2": GotOcr(
        image_token="<imgpad>",
        special_tokens=("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<imgpad>"),
        stops=("<|im_end|>",),
        vision="model.vision_tower",
        vision_attentions=("eager",),
        crops=False,
        image_processor="GotOcr2ImageProcessorPil",
    ),
    "granite_docling": GraniteDocling(
        prompt="<doclang>",
        image_token="<image>",
        special_tokens=("<|end_of_text|>", "<image>"),
        vision="model.vision_model",
        language="model.text_model",
        keeps_special_tokens=True,
        unused=("rows", "cols"),
        image_processor="GraniteDoclingImageProcessorPil",
    ),
    "qianfan_ocr": QianfanOcr(
        prompt="Parse this document to Markdown.",
        image_token="<IMG_CONTEXT>",
        special_tokens=("<|endoftext|>", "<img>", "</img>", "<IMG_CONTEXT>"),
        vision="model.vision_tower",
        crops=True,
        image_processor="GotOcr2ImageProcessorPil",
    ),
    "minicpm_ocr": OcrFamily(vision="model.vision_tower", needs="torchvision"),
}
CELL_SIDES = sorted({side for family in FAMILIES.values() for side in family.cell_sides})
#: The side to reckon with where a server does not let its own be found out.
USUAL_SIDE = FAMILIES["qwen2_vl"].cell_sides[0]
