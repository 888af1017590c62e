"""Which fonts print the training strings and our page sets, and where they lie on this machine."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import matplotlib.font_manager
import yaml
from PIL import ImageFont

Role = Literal["train", "held_out"]


@dataclass(frozen=True)
class Font:
    """One font file: its path here, its sha256, package and licence, and the scripts it draws."""

    path: Path
    sha256: str
    debian_package: str
    licence: str
    scripts: tuple[str, ...]
    role: Role

    @property
    def name(self) -> str:
        """The file's name, which is what manifests record."""
        return self.path.name

    def draws(self, text: str) -> bool:
        """Return whether the font has a glyph for every visible character."""
        return set(text) - {" ", "\n"} <= _characters(self.path)


class FontsMissing(RuntimeError):
    """Some listed font files are absent here or differ from the listed release."""


@cache
def _characters(path: Path) -> frozenset[str]:
    from fontTools.ttLib import TTFont

    with TTFont(path, lazy=True) as file:
        return frozenset(map(chr, file.getBestCmap()))


@cache
def _candidates() -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for file in matplotlib.font_manager.findSystemFonts():
        found.setdefault(Path(file).name, []).append(Path(file))
    return {name: sorted(paths) for name, paths in found.items()}


@cache
def load_fonts(role: Role) -> tuple[Font, ...]:
    """Return the fonts of a role, in the list's order, each checked against its sha256.

    Raises:
        FontsMissing: a file is absent or another release; the message names the Debian packages.
    """
    listed = yaml.safe_load((Path(__file__).parent / "fonts.yaml").read_text(encoding="utf-8"))
    fonts: list[Font] = []
    missing: dict[str, list[str]] = {}
    for entry in (e for e in listed if e["role"] == role):
        for name, sha256 in entry["files"].items():
            path = next(
                (p for p in _candidates().get(name, []) if hashlib.sha256(p.read_bytes()).hexdigest() == sha256), None
            )
            if path is None:
                missing.setdefault(entry["debian_package"], []).append(name)
            else:
                scripts = tuple(entry["scripts"])
                fonts.append(Font(path, sha256, entry["debian_package"], entry["licence"], scripts, role))
    if missing:
        detail = "; ".join(f"{package}: {', '.join(names)}" for package, names in missing.items())
        raise FontsMissing(
            f"data/recipes/fonts.yaml lists font files that are not here, or are another release ({detail}). "
            f"On Debian 12: apt-get install {' '.join(missing)}"
        )
    return tuple(fonts)


@cache
def sized(path: Path, size: int) -> ImageFont.FreeTypeFont:
    """Return the font at `size` pixels per em, laid out by FreeType alone (the same on every machine)."""
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)
