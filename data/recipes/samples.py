"""The printed pages that test the embedded reader: single lines, labels and lines of exact size, all held out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from random import Random
from typing import Any

from PIL import Image

from data.recipes import render
from data.recipes.fonts import Font, load_fonts, sized
from data.recipes.held_out import held_out_line, label_lines

SEED = 2
LINES_IN_TRAINING_FONTS, LINES_IN_HELD_OUT_FONTS = 200, 120
LABELS, LONG_LABELS = 70, 50
EXACT_SIZES, LINES_PER_SIZE = (12, 16, 24, 32, 44), 20
_LARGEST_LABEL, _WIDEST_LINE = 170_000, 900
_CLEAN = render.Degradation()


@dataclass(frozen=True)
class Sample:
    """One page before it is a file: the image, what it says, and what the manifest tells about it.

    Stored as PNG, or as JPEG of `jpeg_quality`. `boxes` has left, top, right and bottom of every word of the truth,
    `facts` what `document_facts` judges.
    """

    image: Image.Image
    truth: str
    language: str
    kind: str
    degradation: str
    font: str
    jpeg_quality: int = 0
    boxes: tuple[tuple[int, ...], ...] = ()
    facts: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Look:
    """How a page departs from a clean upright print; angle in degrees."""

    degradation: render.Degradation = _CLEAN
    angle: float = 0.0
    shear: float = 0.0

    @property
    def words(self) -> str:
        """What was done, as manifests record it: `clean`, or words joined by `+`."""
        degradation = self.degradation
        ink, paper = degradation.ink, degradation.paper
        done = {
            "rotated": bool(self.angle),
            "slanted": bool(self.shear),
            "inverted": sum(ink) > sum(paper),
            "grey": paper != (255, 255, 255) and len({*paper}) == len({*ink}) == 1,
            "coloured": len({*paper}) > 1 or len({*ink}) > 1,
            "shade": degradation.shade > 0,
            "blur": degradation.blur_sigma > 0,
            "resampled": degradation.rescale < 1,
            "noise": degradation.noise > 0,
            "jpeg": degradation.jpeg_quality > 0,
            "frame": degradation.frame,
        }
        return "+".join(word for word, is_done in done.items() if is_done) or "clean"


def line_sample(index: int) -> Sample:
    """Return single line `index`: the first 200 in training fonts, 120 more in the two held-out families."""
    rng = Random(f"{SEED}/lines/{index}")
    known = index < LINES_IN_TRAINING_FONTS
    language = rng.choices(["en", "ru", "mixed"], [42, 42, 16])[0]
    font = _font(rng, language) if known else _held_out_font(rng, index)
    text = held_out_line(rng, font, language, rng.randint(4, 44))
    size = rng.randint(12, 34) if rng.random() < 0.9 else rng.choice([10, 11, 36, 38, 40, 44, 48])
    look = _look(rng, size)
    printed = render.block([text], font, size, angle=look.angle, shear=look.shear)
    image = _with_margins(printed, [_margin(rng) for _ in range(4)], look.degradation, rng)
    return Sample(image, text, language, "training_font" if known else "held_out_font", look.words, font.name)


def label_sample(index: int) -> Sample:
    """Return label `index`: the first 70 have 2 to 4 lines, 50 more have 5 to 10, some of them small receipts."""
    rng = Random(f"{SEED}/labels/{index}")
    long = index >= LABELS
    language = rng.choices(["en", "ru", "mixed"], [42, 42, 16])[0]
    font = _held_out_font(rng, index) if rng.random() < 0.25 else _font(rng, language)
    lines, align = label_lines(rng, font, language, rng.randint(5, 10) if long else rng.randint(2, 4))
    size, pitch = rng.randint(12, 28), rng.uniform(1.15, 1.6)
    look = _look(rng, size)
    margins = [_margin(rng) for _ in range(4)]
    while True:
        printed = render.block(lines, font, size, pitch=pitch, align=align, angle=look.angle, shear=look.shear)
        area = (printed.mask.width + margins[0] + margins[2]) * (printed.mask.height + margins[1] + margins[3])
        if area <= _LARGEST_LABEL or size == 12:
            break
        size -= 1
    image = _with_margins(printed, margins, look.degradation, rng)
    return Sample(image, "\n".join(lines), language, "long_label" if long else "label", look.words, font.name)


def size_sample(index: int) -> Sample:
    """Return clean line `index`, black on white: 20 for each exact font size, 0 to 40 px of margin, up to ±2°."""
    rng = Random(f"{SEED}/sizes/{index}")
    size = EXACT_SIZES[index // LINES_PER_SIZE]
    language = ("en", "ru")[index % 2]
    font = rng.choice([f for f in _regular_fonts() if language == "en" or "cyrillic" in f.scripts])
    look = Look(angle=rng.uniform(-2, 2))
    margins = [rng.randint(0, 40) for _ in range(4)]
    while True:
        text = held_out_line(rng, font, language, rng.randint(4, min(44, int(_WIDEST_LINE / (0.6 * size)))))
        printed = render.block([text], font, size, angle=look.angle)
        if printed.mask.width + margins[0] + margins[2] <= _WIDEST_LINE:
            break
    image = _with_margins(printed, margins, look.degradation, rng)
    return Sample(image, text, language, f"{size}px", look.words, font.name)


def _font(rng: Random, language: str) -> Font:
    return rng.choice([f for f in load_fonts("train") if language == "en" or "cyrillic" in f.scripts])


def _held_out_font(rng: Random, index: int) -> Font:
    families = sorted({font.debian_package for font in load_fonts("held_out")})
    return rng.choice([f for f in load_fonts("held_out") if f.debian_package == families[index % len(families)]])


@cache
def _regular_fonts() -> tuple[Font, ...]:
    return tuple(f for f in load_fonts("train") if sized(f.path, 16).getname()[1] in {"Regular", "Book", "Roman", "R"})


def _look(rng: Random, size: int) -> Look:
    if rng.random() < 0.5:
        return Look()
    angle = max(-2.5, min(2.5, rng.gauss(0, 1.2))) if rng.random() < 0.35 else 0.0
    shear = rng.uniform(-0.15, 0.25) if rng.random() < 0.1 else 0.0
    degradation = render.random_degradation(rng, size)
    while degradation == _CLEAN and not angle and not shear:
        degradation = render.random_degradation(rng, size)
    if degradation.noise or rng.random() < 0.5:
        # A grey scan: noise on three equal channels packs into a third of the bytes.
        ink, paper = sum(degradation.ink) // 3, sum(degradation.paper) // 3
        degradation = replace(degradation, ink=(ink, ink, ink), paper=(paper, paper, paper))
    return Look(degradation, angle, shear)


def _margin(rng: Random) -> int:
    return rng.randint(2, 24) if rng.random() < 0.85 else rng.choice([0, 1, rng.randint(24, 40)])


def _with_margins(
    printed: render.Block, margins: list[int], degradation: render.Degradation, rng: Random
) -> Image.Image:
    left, top, right, bottom = margins
    size = (printed.mask.width + left + right, printed.mask.height + top + bottom)
    return render.compose(printed, size, (left, top), degradation, rng)
