"""Print strings onto an image: fonts, layout, slant, paper and the degradation that scanners and cameras do."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from data.recipes.fonts import Font, sized


@dataclass(frozen=True)
class Block:
    """Printed lines as a mask (mode L, ink 255) cut close, and where each visible character's centre lies in it."""

    mask: Image.Image
    centres: tuple[tuple[float, float, str], ...]


@dataclass(frozen=True)
class Degradation:
    """What happens to a clean print; the defaults do nothing. Sigmas in pixels, noise in grey levels."""

    ink: tuple[int, int, int] = (0, 0, 0)
    paper: tuple[int, int, int] = (255, 255, 255)
    shade: float = 0.0
    blur_sigma: float = 0.0
    rescale: float = 1.0
    noise: float = 0.0
    jpeg_quality: int = 0
    frame: bool = False


@lru_cache(maxsize=200_000)
def _advance(path: Path, size: int, character: str) -> float:
    return sized(path, size).getlength(character)


def edges(path: Path, size: int, text: str) -> list[float]:
    """Return where each character begins, in pixels from the line's start, and where the last one ends.

    Widths of single characters, stretched to the line's length: kerning is spread evenly, under a pixel off.
    """
    widths = [_advance(path, size, character) for character in text]
    stretch = sized(path, size).getlength(text) / max(sum(widths), 1e-9)
    return [0.0, *accumulate(width * stretch for width in widths)]


def block(
    lines: list[str],
    font: Font,
    size: int,
    *,
    pitch: float = 1.2,
    align: str = "left",
    angle: float = 0.0,
    shear: float = 0.0,
    width: int = 0,
) -> Block:
    """Return lines printed at `size` px per em, `pitch` ems apart, turned by `angle` degrees and sheared.

    `align` is left, center, right or columns (the last word at the right edge of `width`).
    """
    face = sized(font.path, size)
    ascent, descent = face.getmetrics()
    step = max(round(size * pitch), 1)
    boxes = [face.getbbox(text) for text in lines]
    left = max(0, -min(b[0] for b in boxes))
    width = max(width, math.ceil(max(b[2] for b in boxes) + left))
    above = max(0, -math.floor(min(b[1] for b in boxes)))  # signs such as Й may rise above a narrow font's ascent
    below = max(ascent + descent, math.ceil(max(b[3] for b in boxes)))
    mask = Image.new("L", (width + 2, above + step * (len(lines) - 1) + below + 2), 0)
    draw = ImageDraw.Draw(mask)
    centres: list[tuple[float, float, str]] = []
    for row, text in enumerate(lines):
        y = 1 + above + row * step
        for x, part in _placed(text, face, align, left, width):
            draw.text((x, y), part, fill=255, font=face)
            cuts = edges(font.path, size, part)
            middle = y + ascent - 0.3 * size
            centres += [(x + (cuts[i] + cuts[i + 1]) / 2, middle, c) for i, c in enumerate(part) if not c.isspace()]
    return _turned(mask, centres, angle, shear)


def _placed(text: str, face: ImageFont.FreeTypeFont, align: str, left: float, width: int) -> list[tuple[float, str]]:
    if align == "columns" and " " in text:
        head, tail = text.rsplit(" ", 1)
        return [(left, head), (width - face.getlength(tail), tail)]
    free = width - left - face.getlength(text)
    return [(left + {"center": free / 2, "right": free}.get(align, 0.0), text)]


def _turned(mask: Image.Image, centres: list[tuple[float, float, str]], angle: float, shear: float) -> Block:
    if angle or shear:
        cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        forward = np.array([[cos, -sin], [sin, cos]]) @ np.array([[1.0, -shear], [0.0, 1.0]])
        w, h = mask.size
        corners = np.array([[0, 0], [w, 0], [0, h], [w, h]], float) @ forward.T
        low = corners.min(0)
        size = np.ceil(corners.max(0) - low).astype(int)
        back = np.linalg.inv(forward)
        offset = back @ low
        coefficients = (*back[0], offset[0], *back[1], offset[1])
        mask = mask.transform(
            (int(size[0]), int(size[1])), Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC
        )
        centres = [(*(forward @ (x, y) - low), c) for x, y, c in centres]
    box = mask.getbbox() or (0, 0, *mask.size)
    return Block(mask.crop(box), tuple((x - box[0], y - box[1], c) for x, y, c in centres))


def random_degradation(rng: Random, size: float) -> Degradation:
    """Return light degradation in proportion to the font size in pixels; one print in five stays clean."""
    if rng.random() < 0.2:
        return Degradation(frame=rng.random() < 0.1)
    light, dark = rng.uniform(170, 255), rng.uniform(0, 90)
    paper = tuple(int(np.clip(light + rng.uniform(-14, 14), 0, 255)) for _ in range(3))
    tint = rng.random() < 0.3
    ink = tuple(int(np.clip(dark + (rng.uniform(-30, 60) if tint else 0), 0, light - 70)) for _ in range(3))
    if rng.random() < 0.08:
        ink, paper = paper, ink
    softness = min(size, 30) / 20
    return Degradation(
        ink=ink,  # type: ignore[arg-type]
        paper=paper,  # type: ignore[arg-type]
        shade=rng.uniform(0, 0.3) if rng.random() < 0.25 else 0.0,
        blur_sigma=rng.uniform(0.2, 1.0) * softness if rng.random() < 0.3 else 0.0,
        rescale=max(rng.uniform(0.5, 0.95), min(1.0, 9 / size)) if rng.random() < 0.15 else 1.0,
        noise=rng.uniform(1, 14) if rng.random() < 0.4 else 0.0,
        jpeg_quality=rng.randint(35, 92) if rng.random() < 0.3 else 0,
        frame=rng.random() < 0.08,
    )


def compose(
    printed: Block, size: tuple[int, int], at: tuple[int, int], degradation: Degradation, rng: Random
) -> Image.Image:
    """Return an RGB image of `size` with the block's corner `at`, degraded."""
    width, height = size
    mask = Image.new("L", size, 0)
    mask.paste(printed.mask, at)
    if degradation.frame:
        x, y, w, h = *at, *printed.mask.size
        gap = rng.randint(2, 6)
        box = (max(x - gap, 0), max(y - gap, 0), min(x + w + gap, width - 1), min(y + h + gap, height - 1))
        ImageDraw.Draw(mask).rectangle(box, outline=rng.randint(120, 255), width=1)
    if degradation.blur_sigma:
        mask = mask.filter(ImageFilter.GaussianBlur(degradation.blur_sigma))
    if degradation.rescale < 1:
        small = (max(4, round(width * degradation.rescale)), max(4, round(height * degradation.rescale)))
        mask = mask.resize(small, Image.Resampling.BILINEAR).resize(size, Image.Resampling.BICUBIC)
    noise = np.random.default_rng(rng.getrandbits(64))
    ink_share = np.asarray(mask, np.float32)[..., None] / 255
    paper, ink = np.array(degradation.paper, np.float32), np.array(degradation.ink, np.float32)
    pixels = paper + (ink - paper) * ink_share
    if degradation.shade:
        gx, gy = rng.uniform(-1, 1), rng.uniform(-1, 1)
        ramp = gx * np.linspace(-0.5, 0.5, width)[None, :] + gy * np.linspace(-0.5, 0.5, height)[:, None]
        pixels = pixels * (1 - degradation.shade * (ramp[..., None] + 0.5).clip(0, 1)).astype(np.float32)
    if degradation.noise:
        pixels = pixels + noise.standard_normal((height, width, 1), np.float32) * degradation.noise
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    if degradation.jpeg_quality:
        stored = io.BytesIO()
        image.save(stored, "JPEG", quality=degradation.jpeg_quality)
        image = Image.open(stored).convert("RGB")
    return image
