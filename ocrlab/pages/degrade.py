"""Degrade a whole page as scanners, copiers, telephones and coffee do; every function takes and returns an image."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

_Image = Image.Image


def skew(page: _Image, rng: Random, degrees: float) -> _Image:
    """Return the page as it lies askew on the scanner's glass, with a shadow at its edges."""
    turned = page.rotate(degrees, Image.Resampling.BICUBIC, expand=True, fillcolor=205)
    spare = (turned.width - page.width) // 3, (turned.height - page.height) // 3
    return turned.crop((spare[0], spare[1], turned.width - spare[0], turned.height - spare[1]))


def light(page: _Image, rng: Random, strength: float) -> _Image:
    """Return the page lit from one corner; the far one loses `strength` of its brightness."""
    x, y = grid(page)
    far = np.hypot(x - rng.uniform(-0.2, 0.2), y - rng.uniform(-0.2, 0.2)) / np.hypot(1.1, 1.1)
    return as_image(np.asarray(page, np.float32) * (1 - strength * far.clip(0, 1)))


def fold(page: _Image, rng: Random, strength: float) -> _Image:
    """Return the page with the crease of a letter folded in three."""
    _, y = grid(page)
    shade = np.zeros_like(y)
    for at in (1 / 3, 2 / 3):
        offset = y - at
        shade += np.exp(-np.abs(offset) / np.where(offset > 0, 0.035, 0.004))
    return as_image(np.asarray(page, np.float32) * (1 - strength * shade.clip(0, 1)))


def coffee(page: _Image, rng: Random, strength: float) -> _Image:
    """Return the page with the mark of a cup: a ring, and a paler stain inside."""
    x, y = grid(page)
    y = y * page.height / page.width
    cx, cy, radius = rng.uniform(0.55, 0.75), rng.uniform(0.35, 0.8), rng.uniform(0.13, 0.17)
    angle = np.arctan2(y - cy, x - cx)
    wobble = 1 + 0.02 * np.sin(3 * angle + rng.uniform(0, 6)) + 0.012 * np.sin(7 * angle + rng.uniform(0, 6))
    away = np.hypot(x - cx, y - cy) / (radius * wobble)
    wet = 0.6 + 0.4 * np.sin(angle + rng.uniform(0, 6))
    ring = wet * np.exp(-(((away - 1) / 0.03) ** 2)) + 0.25 / (1 + np.exp(((away - 1) * 60).clip(-50, 50)))
    return as_image(np.asarray(page, np.float32) * (1 - strength * ring.clip(0, 1)))


def contrast(page: _Image, rng: Random, ink: int, paper: int) -> _Image:
    """Return the page as a tired printer leaves it: grey levels from `ink` to `paper`."""
    return as_image(ink + np.asarray(page, np.float32) * ((paper - ink) / 255))


def blur(page: _Image, rng: Random, sigma: float) -> _Image:
    """Return the page out of focus; sigma in pixels."""
    return page.filter(ImageFilter.GaussianBlur(sigma))


def noise(page: _Image, rng: Random, sigma: float) -> _Image:
    """Return the page with a sensor's noise; sigma in grey levels."""
    grain = np.random.default_rng(rng.getrandbits(64)).standard_normal((page.height, page.width), np.float32)
    return as_image(np.asarray(page, np.float32) + grain * sigma)


def jpeg(page: _Image, rng: Random, quality: int) -> _Image:
    """Return the page after it was stored as JPEG."""
    stored = io.BytesIO()
    page.save(stored, "JPEG", quality=quality)
    return Image.open(stored).convert("L")


def fax(page: _Image, rng: Random, scale: float) -> _Image:
    """Return the page as a fax brings it: coarse, black or white, with specks."""
    small = page.resize((round(page.width * scale), round(page.height * scale)), Image.Resampling.BOX)
    specks = np.random.default_rng(rng.getrandbits(64)).random((small.height, small.width))
    dots = np.where(specks > 0.9994, 0, np.asarray(small)) > 168
    return as_image(dots * np.float32(255)).resize(page.size, Image.Resampling.NEAREST)


def camera(page: _Image, rng: Random, tilt: float) -> _Image:
    """Return the page photographed aslant on a table; `tilt` is a share of the width."""
    w, h = page.width, page.height
    coefficients = perspective(corners(page, rng, tilt), [(0, 0), (w, 0), (w, h), (0, h)])
    table = Image.new("L", (w, h), 96)
    cover = Image.new("L", (w, h), 255)
    transform, method = Image.Transform.PERSPECTIVE, Image.Resampling.BICUBIC
    shadow = cover.transform((w, h), transform, coefficients, method, fillcolor=0).filter(ImageFilter.GaussianBlur(9))
    table.paste(58, (5, 8), shadow)
    mask = cover.transform((w, h), transform, coefficients, method, fillcolor=0)
    table.paste(page.transform((w, h), transform, coefficients, method, fillcolor=255), (0, 0), mask)
    return table


def corners(page: _Image, rng: Random, tilt: float) -> list[tuple[float, float]]:
    """Return where the photograph has the page's corners, clockwise from the upper left."""
    w, h, border = page.width, page.height, round(0.05 * page.width)
    inset = [border + tilt * w * rng.uniform(0.2, 1.0) for _ in range(8)]
    return [(inset[0], inset[1]), (w - inset[2], inset[3]), (w - inset[4], h - inset[5]), (inset[6], h - inset[7])]


def perspective(seen: Sequence[tuple[float, float]], flat: Sequence[tuple[float, float]]) -> tuple[float, ...]:
    """Return Pillow's eight coefficients, which take a point of the photograph to its place on the page."""
    rows, values = [], []
    for (x, y), (u, v) in zip(seen, flat, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    return tuple(float(c) for c in np.linalg.solve(np.array(rows, float), np.array(values, float)))


def grid(page: _Image) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y of every pixel, from 0 to 1."""
    x, y = np.linspace(0, 1, page.width, dtype=np.float32), np.linspace(0, 1, page.height, dtype=np.float32)
    return np.broadcast_to(x, (page.height, page.width)), np.broadcast_to(y[:, None], (page.height, page.width))


def as_image(values: np.ndarray) -> _Image:
    """Return grey levels as an image."""
    return Image.fromarray(np.rint(values).clip(0, 255).astype(np.uint8))


KINDS: dict[str, Callable[..., _Image]] = {
    function.__name__: function for function in (skew, light, fold, coffee, contrast, blur, noise, jpeg, fax, camera)
}


def degraded(
    page: _Image,
    degradations: Sequence[dict[str, Any]],
    rng: Random,
    kinds: Mapping[str, Callable[..., _Image]] = KINDS,
) -> _Image:
    """Return the page after each degradation in turn, each one {name: its measure}, or {name: {parameter: value}}."""
    for degradation in degradations:
        for name, measure in degradation.items():
            given = measure if isinstance(measure, dict) else None
            page = kinds[name](page, rng, **given) if given else kinds[name](page, rng, measure)
    return page


def scanned(page: _Image, seed: str) -> _Image:
    """Return an RGB page, grey and of its size, as one of four machines brings it, which one the seed decides.

    They are a scanner, a telephone's camera, a fax, and a scanner of a sheet that was folded and set a cup on.
    """
    rng = Random(seed)
    blurred, noisy = {"blur": rng.uniform(0.4, 0.8)}, {"noise": rng.uniform(2, 6)}
    askew = {"skew": rng.uniform(-1.5, 1.5)}
    tired = {"contrast": {"ink": rng.randrange(20, 90), "paper": rng.randrange(215, 250)}}
    lit, stored = {"light": rng.uniform(0.2, 0.45)}, {"jpeg": rng.randrange(40, 70)}
    machines = (
        (tired, askew, blurred, noisy, stored),
        ({"camera": rng.uniform(0.02, 0.06)}, lit, blurred, noisy, stored),
        (askew, {"fax": 0.85}),
        ({"fold": rng.uniform(0.1, 0.25)}, {"coffee": rng.uniform(0.3, 0.5)}, tired, askew, noisy, stored),
    )
    return degraded(page.convert("L"), rng.choice(machines), rng).resize(page.size).convert("RGB")
