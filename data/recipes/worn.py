"""Degradations of printed documents: those of the package and crumpled paper, with each word's box moved along."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from ocrlab.pages import degrade

_Points = tuple[np.ndarray, np.ndarray]


def crumple(page: Image.Image, rng: Random, strength: float) -> Image.Image:
    """Return the page crumpled and smoothed out again: its lines bend a little, and creases catch the light."""
    w, h, across, down = page.width, page.height, 8, 11
    corners = {(i, j): (w * i / across, h * j / down) for i in range(across + 1) for j in range(down + 1)}
    for (i, j), (x, y) in corners.items():  # the edges stay, for there is nothing beyond them
        if 0 < i < across and 0 < j < down:
            corners[i, j] = x + rng.uniform(-0.05, 0.05) * w / across, y + rng.uniform(-0.05, 0.05) * h / down
    mesh = []
    for i in range(across):
        for j in range(down):
            box = (w * i // across, h * j // down, w * (i + 1) // across, h * (j + 1) // down)
            quad = [corners[at] for at in ((i, j), (i, j + 1), (i + 1, j + 1), (i + 1, j))]
            mesh.append((box, tuple(value for point in quad for value in point)))
    bent = page.transform(page.size, Image.Transform.MESH, mesh, Image.Resampling.BICUBIC, fillcolor=255)
    return degrade.as_image(np.asarray(bent, np.float32) * (1 - strength * _creases(page, rng)))


def _creases(page: Image.Image, rng: Random) -> np.ndarray:
    """Return the shade of creased paper, from 0 to 1: patches between creases that lie in all directions."""
    x, y = degrade.grid(page)
    shade = np.zeros((page.height, page.width), np.float32)
    for _ in range(14):
        angle, at, wide = rng.uniform(0, 3.14), rng.uniform(-0.2, 1.2), rng.uniform(0.02, 0.09)
        offset = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle)) - np.float32(at)
        shade += np.where(offset > 0, np.exp(-np.abs(offset) / wide), 0.5 * np.exp(-np.abs(offset) / 0.004))
    return (shade / 3).clip(0, 1)


KINDS: dict[str, Callable[..., Image.Image]] = degrade.KINDS | {"crumple": crumple}


def _skewed(page: Image.Image, rng: Random, degrees: float, x: np.ndarray, y: np.ndarray) -> _Points:
    turned = page.rotate(degrees, expand=True).size
    spare = (turned[0] - page.width) // 3, (turned[1] - page.height) // 3
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    x, y = x - page.width / 2, y - page.height / 2
    return cos * x + sin * y + turned[0] / 2 - spare[0], cos * y - sin * x + turned[1] / 2 - spare[1]


def _seen(page: Image.Image, rng: Random, tilt: float, x: np.ndarray, y: np.ndarray) -> _Points:
    w, h = page.size
    a, b, c, d, e, f, g, i = degrade.perspective([(0, 0), (w, 0), (w, h), (0, h)], degrade.corners(page, rng, tilt))
    return (a * x + b * y + c) / (g * x + i * y + 1), (d * x + e * y + f) / (g * x + i * y + 1)


#: Where points of the page go; of a crumpled page they move by a twentieth of a patch, which is left out.
_MOVES: dict[str, Callable[..., _Points]] = {"skew": _skewed, "camera": _seen}


def moved(boxes: np.ndarray, page: Image.Image, rng: Random, name: str, measure: Any) -> np.ndarray:
    """Return boxes (n, 4: left, top, right, bottom) where the degradation puts them; `rng` is not used up."""
    if name not in _MOVES or not len(boxes):
        return boxes
    again = Random()
    again.setstate(rng.getstate())
    x, y = _MOVES[name](page, again, measure, boxes[:, [0, 2, 2, 0]], boxes[:, [1, 1, 3, 3]])
    return np.stack([x.min(1), y.min(1), x.max(1), y.max(1)], 1)


def degraded(
    page: Image.Image, degradations: Sequence[dict[str, Any]], rng: Random, boxes: np.ndarray | None = None
) -> tuple[Image.Image, np.ndarray]:
    """Return the page after each degradation in turn, and where its words' boxes are then.

    A degradation is {name: its measure}, or {name: {parameter: value}}.
    """
    boxes = np.zeros((0, 4)) if boxes is None else boxes
    for degradation in degradations:
        for name, measure in degradation.items():
            boxes = moved(boxes, page, rng, name, measure)
            page = degrade.degraded(page, [{name: measure}], rng, KINDS)
    return page, boxes
