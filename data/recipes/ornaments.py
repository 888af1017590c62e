"""Marks on a page that carry no text: a pen's flourish, a firm's sign."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from random import Random

from PIL import Image, ImageDraw


def flourish(rng: Random, em: int, ems: float) -> Image.Image:
    """Return a signature as a mask (mode L, ink 255) of at most `ems` width, with `em` in pixels."""
    size, points, x = em * 4, [(0.0, em * 6.0)], 0.0
    while x < (ems - 1) * size:
        x += size * rng.uniform(0.12, 0.5)
        points.append((x, size * rng.uniform(0.3, 2.1)))
    pen = Image.new("L", (round(size * ems), round(size * 2.4)), 0)
    ImageDraw.Draw(pen).line(_smooth(points), fill=255, width=7, joint="curve")
    return pen.resize((pen.width // 4, pen.height // 4), Image.Resampling.BOX)


def rings(draw: ImageDraw.ImageDraw, right: float, top: float, unit: float) -> None:
    """Draw three rings in one another with their upper right corner at `right`, `top`."""
    for n in range(3):
        box = (right - unit * (4 - n), top + unit * n * 0.5, right - unit * n * 0.5, top + unit * (4 - n) * 0.8)
        draw.ellipse(box, outline=80 + 50 * n, width=3)


def bars(draw: ImageDraw.ImageDraw, right: float, top: float, unit: float) -> None:
    """Draw three bars, each shorter than the one above, with their upper right corner at `right`, `top`."""
    for n in range(3):
        draw.rectangle(
            (right - unit * (4 - n), top + unit * n * 1.1, right, top + unit * (n * 1.1 + 0.7)), fill=60 + 50 * n
        )


def _smooth(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points with their corners cut three times (Chaikin's curve)."""
    for _ in range(3):
        cut = [points[0]]
        for (x, y), (u, v) in pairwise(points):
            cut += [(0.75 * x + 0.25 * u, 0.75 * y + 0.25 * v), (0.25 * x + 0.75 * u, 0.25 * y + 0.75 * v)]
        points = [*cut, points[-1]]
    return list(points)
