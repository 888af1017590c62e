"""Training batches: equal-sized images, their texts, and which character's centre lies in which cell."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from data.recipes import render, sampler
from data.recipes.architecture import CELL, PATCH_SIZE
from data.recipes.fonts import Font, load_fonts

SLOT_ROWS, SLOT_COLUMNS = 2, 4
SLOTS = SLOT_ROWS * SLOT_COLUMNS
DEFAULT_SYSTEM = "You are a helpful assistant."
_PATCHES_A_BATCH, _LARGEST_AREA = 5_000, 170_000


@dataclass(frozen=True)
class Stage:
    """What is drawn until `images` have been seen: share of labels and how many lines they have at most."""

    images: float
    label_share: float
    most_lines: int
    decoder: bool


CURRICULUM = (
    Stage(120_000, 0.25, 4, False),
    Stage(240_000, 0.25, 4, True),
    Stage(492_000, 0.45, 10, True),
    Stage(600_000, 0.2, 10, True),
    Stage(math.inf, 0.35, 10, True),
)


def stage_at(images: int) -> Stage:
    """Return the curriculum's stage after `images` images."""
    return next(stage for stage in CURRICULUM if images < stage.images)


@dataclass(frozen=True)
class Sheet:
    """What one batch has in common: canvas in pixels (multiples of a cell), font size in px, lines, alignment."""

    width: int
    height: int
    size: float
    lines: int


def _sheet(rng: Random, stage: Stage) -> Sheet:
    while True:
        smallest, largest = math.log(10), math.log(49)
        usual = rng.random() < 0.5
        size = math.exp(rng.triangular(smallest, largest, math.log(17)) if usual else rng.uniform(smallest, largest))
        lines = rng.randint(2, stage.most_lines) if rng.random() < stage.label_share else 1
        characters = rng.randint(1, sampler.MAX_CHARACTERS) if lines == 1 else rng.randint(6, 40)
        margin_x, margin_y = _margin(rng) + _margin(rng), _margin(rng) + _margin(rng)
        width = CELL * max(1, round((0.56 * size * characters + margin_x) / CELL))
        height = CELL * max(1, round((1.05 * size + 1.3 * size * (lines - 1) + margin_y) / CELL))
        if width * height <= _LARGEST_AREA and width * height >= 2 * CELL**2:
            return Sheet(width, height, size, lines)


def _margin(rng: Random) -> float:
    roll = rng.random()
    return rng.uniform(1, 6) if roll < 0.5 else rng.uniform(4, 20) if roll < 0.8 else rng.uniform(15, 45)


def _print(rng: Random, sheet: Sheet, scale: float) -> tuple[list[str], render.Block]:
    """Return lines and their print, which fits the sheet at `scale`."""
    language = rng.choice(["en", "ru"])
    font = rng.choice([f for f in load_fonts("train") if language == "en" or "cyrillic" in f.scripts])
    size = sheet.size * scale * math.exp(rng.uniform(-0.15, 0.15))
    width, height = sheet.width * scale, sheet.height * scale
    count = max(1, sheet.lines + (rng.choice([0, 0, 0, -1, 1]) if sheet.lines > 1 else 0))
    target = max(1, round(width / (0.55 * size)))
    lines = [_drawable(rng, font, language, target) for _ in range(count)]
    angle = rng.gauss(0, 1.2) if rng.random() < 0.35 else 0.0
    shear = rng.uniform(-0.2, 0.3) if rng.random() < 0.12 else 0.0
    align = rng.choices(["left", "center", "right", "columns"], [70, 12, 5, 13])[0] if count > 1 else "left"
    pitch = rng.uniform(1.05, 1.7)
    while True:
        printed = render.block(
            lines, font, max(round(size), 9), pitch=pitch, align=align, angle=max(-3.2, min(3.2, angle)), shear=shear
        )
        over_x, over_y = printed.mask.width / width, printed.mask.height / height
        if max(over_x, over_y) <= 1:
            return lines, printed
        if over_y > 1 and pitch > 1.15:
            pitch = max(1.1, pitch / over_y)
        elif over_y > 1 and len(lines) > 1:
            lines = lines[:-1]
        elif size / max(over_x, over_y) >= 10 * scale and rng.random() < 0.4:
            size = size / max(over_x, over_y) - 0.5
        elif over_x > 1 and max(map(len, lines)) > 1:
            limit = max(1, int(max(map(len, lines)) / over_x - 0.5))
            lines = [_not_held_out(sampler.shorten(rng, text, limit)) for text in lines]
        else:
            size, angle, shear = size * 0.85, 0.0, 0.0


def _drawable(rng: Random, font: Font, language: str, target: int) -> str:
    spread = rng.uniform(0.3, 1.1) if rng.random() < 0.5 else 1.0
    while True:
        text = sampler.training_line(rng, language, max(1, min(sampler.MAX_CHARACTERS, round(target * spread))))
        if font.draws(text):
            return text


def _not_held_out(text: str) -> str:
    while sampler.is_held_out(text):
        text = text[:-1].strip()
    return text


def _sample(rng: Random, sheet: Sheet) -> tuple[np.ndarray, str, list[tuple[int, int, str]]]:
    """Return uint8 pixels of the sheet's size, the text, and (cell, slot, character) of each visible character."""
    roll = rng.random()
    scale = rng.uniform(1.0, 2.0) if roll < 0.08 else 1.0
    lines, printed = _print(rng, sheet, scale)
    jitter = 0 if roll > 0.75 else CELL // 2 - 1
    width = max(printed.mask.width, round(sheet.width * scale) + rng.randint(-jitter, jitter))
    height = max(printed.mask.height, round(sheet.height * scale) + rng.randint(-jitter, jitter))
    at = (rng.randint(0, width - printed.mask.width), rng.randint(0, height - printed.mask.height))
    image = render.compose(printed, (width, height), at, render.random_degradation(rng, sheet.size * scale), rng)
    if image.size != (sheet.width, sheet.height):
        image = image.resize((sheet.width, sheet.height), Image.Resampling.BICUBIC)
    slots = []
    for cx, cy, character in printed.centres:
        x, y = (cx + at[0]) * sheet.width / width, (cy + at[1]) * sheet.height / height
        if 0 <= x < sheet.width and 0 <= y < sheet.height:
            cell = int(y // CELL) * (sheet.width // CELL) + int(x // CELL)
            slot = int(y % CELL * SLOT_ROWS // CELL) * SLOT_COLUMNS + int(x % CELL * SLOT_COLUMNS // CELL)
            slots.append((cell, slot, character))
    return np.asarray(image), "\n".join(lines), slots


class Batches:
    """Batch `i` is a function of (seed, i) and of how many images came before, so that a resumed run goes on exactly.

    An item is a dict: pixels (B, H, W, 3) uint8, texts, prompt, system (None: no such message),
    glyphs (image, cell, slot, character).
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        index, images = key
        rng = Random(f"{self.seed}/{index}")
        sheet = _sheet(rng, stage_at(images))
        patches = sheet.width * sheet.height // PATCH_SIZE**2
        count = max(3, min(64, round(_PATCHES_A_BATCH / (patches * (1 + patches / 2500)))))
        samples = [_sample(rng, sheet) for _ in range(count)]
        return {
            "pixels": np.stack([pixels for pixels, _, _ in samples]),
            "texts": [text for _, text, _ in samples],
            "prompt": sampler.prompt(rng),
            "system": rng.choices([None, DEFAULT_SYSTEM, sampler.prompt(rng)], [50, 42, 8])[0],
            "glyphs": [(image, *glyph) for image, (_, _, glyphs) in enumerate(samples) for glyph in glyphs],
        }
