"""Set a page of text, pairs, tables and forms, and note every printed line in reading order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from random import Random
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from data.recipes import ornaments
from data.recipes.fonts import Font, load_fonts, sized

_LEADING = 1.42


def font_named(name: str) -> Font:
    """Return the listed font with this file name, trained on or held out."""
    return next(font for font in (*load_fonts("train"), *load_fonts("held_out")) if font.name == name)


@dataclass
class Sheet:
    """White paper with a cursor that runs down; sizes and margins in pixels, `lines` is the truth so far."""

    width: int
    height: int
    margin: int
    size: int
    regular: Font
    bold: Font
    rng: Random
    y: float = 0.0
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.image = Image.new("L", (self.width, self.height), 255)
        self.draw = ImageDraw.Draw(self.image)
        self.y = float(self.margin)

    @property
    def inner(self) -> int:
        """The width between the margins."""
        return self.width - 2 * self.margin

    def finish(self, crop: bool) -> Image.Image:
        """Return the page, cut below the last line if `crop`; a page that ran over is an error."""
        if self.y > self.height - self.margin * 0.6:
            raise ValueError(f"the page ends at {self.y:.0f} px of {self.height}: {self.lines[-1]!r}")
        return self.image.crop((0, 0, self.width, int(self.y) + self.margin)) if crop else self.image

    def face(self, bold: bool = False, scale: float = 1.0) -> ImageFont.FreeTypeFont:
        """Return the page's font at `scale` times its size."""
        return sized((self.bold if bold else self.regular).path, round(self.size * scale))

    def put(self, x: float, text: str, face: ImageFont.FreeTypeFont, width: float, align: str = "l") -> None:
        """Print one line in a box of `width` from `x`; what does not fit, or has no glyph, is an error."""
        length = face.getlength(text)
        if length > width + 0.5:
            raise ValueError(f"{text!r} needs {length:.0f} px of {width:.0f}")
        if not (self.regular.draws(text) and self.bold.draws(text)):
            raise ValueError(f"{self.regular.name} or {self.bold.name} cannot draw all of {text!r}")
        free = {"l": 0.0, "c": (width - length) / 2, "r": width - length}[align]
        self.draw.text((round(x + free), round(self.y)), text, fill=0, font=face)

    def text(self, text: str, *, scale: float = 1.0, align: str = "l", bold: bool = False, indent: float = 0.0) -> None:
        """Print a paragraph, wrapped at words; `indent` in ems moves all of it."""
        face, left = self.face(bold, scale), indent * self.size
        for line in _wrapped(text, face, self.inner - left):
            self.put(self.margin + left, line, face, self.inner - left, align)
            self.lines.append(line)
            self.y += self.size * scale * _LEADING

    def items(self, texts: Sequence[str]) -> None:
        """Print a numbered list."""
        for number, text in enumerate(texts, 1):
            self.text(f"{number}. {text}", indent=1.0)

    def pairs(self, rows: Sequence[Sequence[str]], *, at: float = 0.0, bold: bool = False, scale: float = 1.0) -> None:
        """Print label and value a line: the value from `at` (a share of the width) on, or at the right edge for 0."""
        face = self.face(bold, scale)
        for label, value in rows:
            start = at * self.inner if at else face.getlength(label) + self.size * 0.5
            self.put(self.margin, label, face, start)
            self.put(self.margin + start, value, face, self.inner - start, "l" if at else "r")
            self.lines.append(f"{label} {value}")
            self.y += self.size * scale * _LEADING

    def table(
        self,
        columns: Sequence[float],
        rows: Sequence[Sequence[str]],
        *,
        align: str = "",
        head: Sequence[str] = (),
        grid: str = "full",
        bold_last: bool = False,
    ) -> None:
        """Print a table: `columns` are relative widths, `grid` is full, rows or none; a cell is one line."""
        edges = [self.margin + self.inner * part / sum(columns) for part in accumulate(columns, initial=0.0)]
        step, top = round(self.size * 1.75), round(self.y)
        body = [*([head] if head else []), *rows]
        for number, row in enumerate(body):
            is_bold = (bool(head) and number == 0) or (bold_last and number == len(body) - 1)
            self._row(edges, row, align or "l" * len(columns), step, is_bold)
        marks = [top + step * n for n in range(len(body) + 1)]
        if grid != "none":
            for y in marks:
                self.draw.line((edges[0], y, edges[-1], y), fill=60, width=1)
        if grid == "full":
            for x in edges:
                self.draw.line((round(x), top, round(x), marks[-1]), fill=60, width=1)
        self.y = marks[-1] + self.size * 0.5

    def _row(self, edges: Sequence[float], row: Sequence[str], align: str, step: int, bold: bool) -> None:
        pad, face = self.size * 0.4, self.face(bold)
        top = self.y
        self.y = top + (step - self.size * 1.25) / 2
        for (left, right), cell, side in zip(pairwise(edges), row, align, strict=True):
            self.put(left + pad, cell, face, right - left - 2 * pad, side)
        self.lines.append(" ".join(cell for cell in row if cell))
        self.y = top + step

    def fields(self, rows: Sequence[Sequence[str]], *, at: float = 0.38) -> None:
        """Print a form's fields: a label, and its value in a box."""
        step = round(self.size * 2.1)
        for label, value in rows:
            left, top = self.margin + at * self.inner, round(self.y)
            self.draw.rectangle((left, top, self.width - self.margin, top + step - 6), outline=90, width=1)
            self.y += (step - 6 - self.size * 1.25) / 2
            self.put(self.margin, label, self.face(), at * self.inner)
            self.put(left + self.size * 0.5, value, self.face(bold=True), (1 - at) * self.inner - self.size)
            self.lines.append(f"{label} {value}" if value else label)
            self.y = top + step

    def rule(self, style: str = "solid") -> None:
        """Draw a line across: solid, double or dashed."""
        y, ends = round(self.y + self.size * 0.3), (self.margin, self.width - self.margin)
        if style == "dashed":
            for x in range(ends[0], ends[1], 10):
                self.draw.line((x, y, min(x + 5, ends[1]), y), fill=40, width=1)
        else:
            for offset in (0, 3) if style == "double" else (0,):
                self.draw.line((*(ends[0], y + offset), *(ends[1], y + offset)), fill=40, width=1)
        self.y += self.size * 0.8

    def space(self, ems: float) -> None:
        """Leave room of so many ems."""
        self.y += ems * self.size

    def signature(self, ems: float = 8.0) -> None:
        """Draw a pen's flourish, which says nothing that can be read."""
        pen = ornaments.flourish(self.rng, self.size, ems)
        self.image.paste(45, (self.margin, round(self.y)), pen)
        self.y += self.size * 2.6

    def emblem(self, kind: str = "rings") -> None:
        """Draw a firm's sign (rings or bars) without letters at the upper right."""
        draw = {"rings": ornaments.rings, "bars": ornaments.bars}[kind]
        draw(self.draw, self.width - self.margin, self.margin, self.size * 0.9)

    def lay(self, blocks: Sequence[dict[str, Any]]) -> None:
        """Set blocks one below the other: each is {name of a method: its arguments}."""
        for block in blocks:
            for name, given in block.items():
                method = getattr(self, name)
                method(**given) if isinstance(given, dict) else method(given)


def _wrapped(text: str, face: ImageFont.FreeTypeFont, width: float) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if face.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
