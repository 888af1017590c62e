"""The one table of model families: everything in which one family differs from another.

A new family is one entry in FAMILIES; what it does otherwise than Qwen-VL it overrides in a subclass of Family.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from PIL import Image

from ocrlab.reading.family import Family, OcrFamily, resolved
from ocrlab.reading.settings import SettingNotApplied


class Frames(OcrFamily):
    """GLM-OCR, whose limits count frames times pixels, an image being as many frames as a patch is deep."""

    def limits(self, image_processor: Any) -> tuple[int, int]:
        low, high = super().limits(image_processor)
        depth = image_processor.temporal_patch_size
        return low // depth, high // depth

    def set_limits(self, image_processor: Any, low: int, high: int) -> None:
        depth = image_processor.temporal_patch_size
        super().set_limits(image_processor, low * depth, high * depth)

    def budget(self, image_processor: Any) -> str:
        low, high = super().limits(image_processor)
        return f"shortest_edge={low}, longest_edge={high} of {image_processor.temporal_patch_size} frames"


class Rows(OcrFamily):
    """HunyuanOCR, which ends each row of cells with a token of its own, and the image with two."""

    def count(self, image_processor: Any, width: int, height: int) -> int:
        rows, columns = image_processor.get_number_of_image_patches(height, width)
        return int(rows // image_processor.merge_size * (columns // image_processor.merge_size + 1) + 2)


class LongestSide(OcrFamily):
    """LightOnOCR: the longest side is limited and not the pixels; smaller images stay as they are, padded to cells."""

    def fitted(self, image_processor: Any, config: dict[str, Any]) -> Any:
        whole = resolved(config)
        image_processor.cell = whole.vision_config.patch_size * whole.spatial_merge_size
        return image_processor

    def dummy_values(self, config: Any) -> dict[str, Any]:
        vision = config.vision_config
        return {"patch_size": vision.patch_size, "size": {"longest_edge": vision.image_size}}

    def limits(self, image_processor: Any) -> tuple[int, int]:
        return image_processor.cell**2, int(image_processor.size["longest_edge"]) ** 2

    def set_limits(self, image_processor: Any, low: int, high: int) -> None:
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
        return f"longest_edge={image_processor.size['longest_edge']}"

    def count(self, image_processor: Any, width: int, height: int) -> int:
        import numpy as np
        from transformers.models.pixtral.image_processing_pil_pixtral import get_resize_output_image_size

        patch, cell = image_processor.patch_size, image_processor.cell
        side = patch if isinstance(patch, int) else patch["height"]
        page = np.broadcast_to(np.uint8(0), (3, height, width))  # takes no memory
        rows, columns = get_resize_output_image_size(page, image_processor.size["longest_edge"], side, "channels_first")
        return (rows // cell) * (columns // cell)


_MINICPM_MARKS = ("image_id_start", "image_id_end", "image_start", "image_end", "slice_start", "slice_end")


@dataclass(frozen=True)
class Tiles(OcrFamily):
    """Families that cut a page into square tiles of one size, and a budget is how many; most add a small whole page."""

    takes_token_types: bool = False
    crops: bool | None = None
    key: str = "max_patches"
    #: What the image processor returns and the model does not take.
    unused: tuple[str, ...] = ("num_patches",)

    def fitted(self, image_processor: Any, config: dict[str, Any]) -> Any:
        image_processor.tile_tokens = self.tile_tokens(image_processor, resolved(config))
        if self.crops is not None:
            image_processor.crop_to_patches = self.crops
        return image_processor

    def tile_tokens(self, image_processor: Any, config: Any) -> int:
        """Return the image tokens of a tile."""
        return int(config.image_seq_length)

    def dummy_values(self, config: Any) -> dict[str, Any]:
        side = config.vision_config.image_size
        side = side if isinstance(side, int) else side[0]
        return {"size": {"height": side, "width": side}}

    def tile_side(self, image_processor: Any) -> int:
        return int(image_processor.size["height"])

    def limits(self, image_processor: Any) -> tuple[int, int]:
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
        fewest, most = (pixels // self.tile_side(image_processor) ** 2 for pixels in self.limits(image_processor))
        return f"{self.key}={most} of {self.tile_side(image_processor)} pixels a side, no fewer than {fewest}"

    def count(self, image_processor: Any, width: int, height: int) -> int:
        return int(image_processor.tile_tokens * image_processor.get_number_of_image_patches(height, width))

    def process(self, image_processor: Any, images: list[Image.Image]) -> dict[str, Any]:
        made = super().process(image_processor, images)
        return {name: tensor for name, tensor in made.items() if name not in self.unused}


class MiniCpmOcr(Tiles):
    """MiniCPM-OCR: a whole page and slices of about one area but of any shape; its image processor is torchvision's."""

    def dummy_values(self, config: Any) -> dict[str, Any]:
        return {"patch_size": config.vision_config.patch_size, "downsample_mode": config.downsample_mode}

    def fitted(self, image_processor: Any, config: dict[str, Any]) -> Any:
        """Return the image processor.

        Raises:
            SettingNotApplied: it chooses sizes by what is on a page, which nothing here can foresee.
        """
        if image_processor.small_image_upsize == "adaptive":
            raise SettingNotApplied("small_image_upsize='adaptive' is not read; set 'always' in the checkpoint's files")
        return image_processor

    def tile_side(self, image_processor: Any) -> int:
        return int(image_processor.scale_resolution)

    def limits(self, image_processor: Any) -> tuple[int, int]:
        return (area := self.tile_side(image_processor) ** 2), area * image_processor.max_slice_nums

    def set_limits(self, image_processor: Any, low: int, high: int) -> None:
        image_processor.max_slice_nums = high // self.tile_side(image_processor) ** 2

    def grid(self, image_processor: Any, width: int, height: int) -> tuple[int, int, int, int]:
        """Return the image tokens of the whole page and of a slice, and the rows and columns of slices."""
        own, size = image_processor, (height, width)
        grid = own.get_sliced_grid(size, own.max_slice_nums, own.scale_resolution) if own.slice_mode else None
        rest, area = (own.scale_resolution, own.patch_size, own.downsample_mode), own.patch_size**2
        area *= 4 if own.downsample_mode == "4x" else 16
        upsized = grid is None and own.small_image_upsize == "always"
        whole = math.prod(own.find_best_resize(size, *rest, allow_upscale=upsized)) // area
        if grid is None:
            return whole, 0, 0, 0
        pixels = math.prod(own.get_refine_size(size, grid, *rest, allow_upscale=True))
        return whole, pixels // math.prod(grid) // area, *grid

    def count(self, image_processor: Any, width: int, height: int) -> int:
        whole, tokens, rows, columns = self.grid(image_processor, width, height)
        return whole + tokens * rows * columns

    def expanded(self, tokenizer: Any, image_processor: Any, width: int, height: int) -> str:
        """Return the page's number, its tokens, and each slice's, a row of slices a line."""
        whole, tokens, rows, columns = self.grid(image_processor, width, height)
        image, marks = self.token(tokenizer), {m: getattr(tokenizer, f"{m}_token", "") for m in _MINICPM_MARKS}
        number = f"{marks['image_id_start']}0{marks['image_id_end']}" if image_processor.use_image_id else ""
        row = f"{marks['slice_start']}{image * tokens}{marks['slice_end']}" * columns
        return f"{number}{marks['image_start']}{image * whole}{marks['image_end']}" + "\n".join([row] * rows)


class GotOcr(Tiles):
    """GOT-OCR 2: no chat template; the prompt says whether the page is cut."""

    def tile_tokens(self, image_processor: Any, config: Any) -> int:
        """Return the patches of a tile, merged twice by two."""
        return (self.tile_side(image_processor) // config.vision_config.patch_size // 4) ** 2

    def usual_prompt(self, image_processor: Any) -> str:
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

    def dummy_values(self, config: Any) -> dict[str, Any]:
        return {}

    def tile_side(self, image_processor: Any) -> int:
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
        return f"{self.image_token}\n{prompt}"

    def clean(self, text: str) -> str:
        """Return the text without the places that a grounding prompt asks for."""
        return re.sub(r"<\|ref\|>.*?<\|/ref\|>|<\|det\|>.*?<\|/det\|>\n?|<｜[^｜]*｜>", "", text, flags=re.S).strip()


class QianfanOcr(Tiles):
    """Qianfan-OCR: the chat template writes a word for an image, which tokens of other names replace."""

    def placeholder(self, tokenizer: Any) -> str:
        return "<image>"

    def expanded(self, tokenizer: Any, image_processor: Any, width: int, height: int) -> str:
        return f"<img>{super().expanded(tokenizer, image_processor, width, height)}</img>"


class GraniteDocling(Tiles):
    """Granite Docling: tiles of 512 with their places named in the text; answers in DocTags."""

    def tile_tokens(self, image_processor: Any, config: Any) -> int:
        """Return the patches of a tile, shuffled into fewer; a finer route has four times as many."""
        vision = config.vision_config
        tokens = (self.tile_side(image_processor) // vision.patch_size // vision.scale_factor) ** 2
        return tokens * 4 if image_processor.fine_route else tokens

    def expanded(self, tokenizer: Any, image_processor: Any, width: int, height: int) -> str:
        """Return the tokens of each tile under its row and column, and of the whole page."""
        rows, columns = image_processor.get_tile_grid(height, width)
        around, tokens = "<fake_token_around_image>", self.token(tokenizer) * image_processor.tile_tokens
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
        lines = (line.strip() for line in re.sub(r"<[a-z]\w*(?:\s+\w+=\"[^\"]*\")*\s*/?>", "", text).splitlines())
        return "\n".join(line for line in lines if line)


# The embedded reader is a Qwen2-VL with cells of 16 pixels.
FAMILIES: dict[str, Family] = {
    "qwen2_vl": Family(cell_sides=(28, 16), memory_modelled=True, served_without_videos=True),
    "qwen2_5_vl": Family(cell_sides=(28,), memory_modelled=True, served_without_videos=True),
    "qwen3_vl": Family(cell_sides=(32,), memory_modelled=True),
    "qwen3_5": Family(cell_sides=(32,), thinks=True),
    "glm_ocr": Frames(
        cell_sides=(28,),
        prompt="Text Recognition:",
        image_token="<|image|>",
        special_tokens=("<|endoftext|>", "<|image|>"),
        image_processor="glm46v.image_processing_pil_glm46v.Glm46VImageProcessorPil",
    ),
    "paddleocr_vl": OcrFamily(
        cell_sides=(28,),
        prompt="OCR:",
        image_token="<|IMAGE_PLACEHOLDER|>",
        special_tokens=("<|end_of_sentence|>", "<|IMAGE_PLACEHOLDER|>"),
        image_processor="paddleocr_vl.image_processing_pil_paddleocr_vl.PaddleOCRVLImageProcessorPil",
    ),
    "lighton_ocr": LongestSide(
        prompt="",
        vision="model.vision_encoder",
        takes_token_types=False,
        image_processor="pixtral.image_processing_pil_pixtral.PixtralImageProcessorPil",
    ),
    "hunyuan_vl": Rows(
        prompt="Extract the text from the image.",
        image_token="<|hy_place▁holder▁no▁102|>",
        special_tokens=("<|hy_▁pad▁|>", "<|hy_place▁holder▁no▁102|>"),
        vision="model.vision_tower",
        image_processor="hunyuan_vl.image_processing_pil_hunyuan_vl.HunYuanVLImageProcessorPil",
    ),
    "deepseek_ocr2": DeepseekOcr(
        prompt="Free OCR.",
        templated=False,
        image_token="<image>",
        special_tokens=("<｜▁pad▁｜>", "<image>"),
        vision="model.vision_tower",
        vision_attentions=("sdpa", "eager"),
        keeps_special_tokens=True,
        unused=(),
        image_processor="deepseek_ocr2.image_processing_pil_deepseek_ocr2.DeepseekOcr2ImageProcessorPil",
    ),
    "got_ocr2": GotOcr(
        templated=False,
        image_token="<imgpad>",
        special_tokens=("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<imgpad>"),
        stops=("<|im_end|>",),
        vision="model.vision_tower",
        vision_attentions=("eager",),
        crops=False,
        image_processor="got_ocr2.image_processing_pil_got_ocr2.GotOcr2ImageProcessorPil",
    ),
    "granite_docling": GraniteDocling(
        prompt="<doclang>",
        image_token="<image>",
        special_tokens=("<|end_of_text|>", "<image>"),
        vision="model.vision_model",
        language="model.text_model",
        keeps_special_tokens=True,
        unused=("rows", "cols"),
        image_processor="granite_docling.image_processing_pil_granite_docling.GraniteDoclingImageProcessorPil",
    ),
    "qianfan_ocr": QianfanOcr(
        prompt="Parse this document to Markdown.",
        image_token="<IMG_CONTEXT>",
        special_tokens=("<|endoftext|>", "<img>", "</img>", "<IMG_CONTEXT>"),
        vision="model.vision_tower",
        crops=True,
        image_processor="got_ocr2.image_processing_pil_got_ocr2.GotOcr2ImageProcessorPil",
    ),
    # Refused by name where torchvision does not import, as beside a CPU build of torch.
    "minicpm_ocr": MiniCpmOcr(
        vision="model.vision_tower",
        needs="torchvision",
        key="max_slice_nums",
        unused=("grids", "num_patches_per_image"),
        image_processor="minicpm_ocr.image_processing_minicpm_ocr.MiniCPMOcrImageProcessor",
    ),
}
CELL_SIDES = sorted({side for family in FAMILIES.values() for side in family.cell_sides})
#: The side to reckon with where a server does not let its own be found out.
USUAL_SIDE = FAMILIES["qwen2_vl"].cell_sides[0]
