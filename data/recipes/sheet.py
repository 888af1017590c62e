"""Set a page of text, pairs, tables, columns and forms, and note every printed line and word in reading order."""

from __future__ import annotations

import re
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
    """White paper with a cursor that runs down; sizes and margins in pixels, `lines` is the truth so far.

    `boxes` has left, top, right and bottom of every word of `lines`, `rows` the cells of every table's rows and the
    labels and answers of forms. `pen` is the font in which forms and notes are filled in.
    """

    width: int
    height: int
    margin: int
    size: int
    regular: Font
    bold: Font
    rng: Random
    y: float = 0.0
    lines: list[str] = field(default_factory=list)
    pen: Font | None = None
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    framed: bool = False

    def __post_init__(self) -> None:
        self.image = Image.new("L", (self.width, self.height), 255)
        self.draw = ImageDraw.Draw(self.image)
        self.y = float(self.margin)

    @property
    def inner(self) -> int:
        """The width between the margins."""
        return self.width - 2 * self.margin

    def finish(self, crop: bool, least: int = 0) -> Image.Image:
        """Return the page, cut below the last line (and `least` pixels) if `crop`; a page that ran over is an error."""
        if self.y > self.height - self.margin * 0.6:
            raise ValueError(f"the page ends at {self.y:.0f} px of {self.height}: {self.lines[-1]!r}")
        height = min(max(int(self.y) + self.margin, least), self.height) if crop else self.height
        page = self.image.crop((0, 0, self.width, height))
        if self.framed:
            for gap, thick in ((0.35, 3), (0.5, 1)):
                inset = round(self.margin * gap)
                corners = (inset, inset, page.width - inset, page.height - inset)
                ImageDraw.Draw(page).rectangle(corners, outline=70, width=thick)
        return page

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
        self._box(round(x + free), round(self.y), text, face)

    def _box(self, x: float, y: float, text: str, face: ImageFont.FreeTypeFont) -> None:
        for word in re.finditer(r"\S+", text):
            left, top, right, bottom = face.getbbox(word[0])
            start = x + face.getlength(text[: word.start()])
            self.boxes.append((start + left, y + top, start + right, y + bottom))

    def write(self, x: float, text: str, width: float, scale: float = 1.2) -> None:
        """Write one line with the pen: each word a little off the line, of another size and slant."""
        assert self.pen is not None
        if not self.pen.draws(text):
            raise ValueError(f"{self.pen.name} cannot draw all of {text!r}")
        end = x + width
        for word in text.split():
            face = sized(self.pen.path, round(self.size * scale * self.rng.uniform(0.92, 1.08)))
            room = round(face.getlength(word)) + self.size
            mask = Image.new("L", (room, self.size * 3), 0)
            ImageDraw.Draw(mask).text((self.size // 2, self.size * 0.6), word, fill=255, font=face)
            mask = mask.rotate(self.rng.uniform(-2.2, 2.2), Image.Resampling.BICUBIC)
            left, top, right, bottom = mask.getbbox() or (0, 0, 0, 0)
            if x + right - left > end:
                raise ValueError(f"{text!r} needs more than {width:.0f} px by hand")
            at = round(x), round(self.y + top - self.size * 0.6 + self.rng.uniform(-0.1, 0.1) * self.size)
            self.image.paste(40, at, mask.crop((left, top, right, bottom)))
            self.boxes.append((at[0], at[1], at[0] + right - left, at[1] + bottom - top))
            x += right - left + self.size * self.rng.uniform(0.35, 0.6)

    def hand(self, texts: Sequence[str], *, ems: float = 28.0) -> None:
        """Write paragraphs with the pen, about `ems` letters' widths a line, on lines that sink or rise a little."""
        assert self.pen is not None
        face = sized(self.pen.path, round(self.size * 1.2))
        for text in texts:
            for line in _wrapped(text, face, min(self.inner * 0.8, ems * self.size)):
                self.write(self.margin + self.rng.uniform(0, 0.8) * self.size, line, self.inner)
                self.lines.append(line)
                self.y += self.size * 1.9
            self.y += self.size * 0.5

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

    def columns(self, paragraphs: Sequence[str], *, count: int = 2, gap: float = 1.6, line: bool = False) -> None:
        """Print paragraphs in columns of equal length; the truth has one column after the other."""
        face, space = self.face(), gap * self.size
        width, top = (self.inner - space * (count - 1)) / count, self.y
        lines = [line for text in paragraphs for line in (*_wrapped(text, face, width), "")][:-1]
        height = -(-len(lines) // count)
        for number in range(count):
            left, self.y = self.margin + number * (width + space), top
            for text in lines[number * height : (number + 1) * height]:
                if text:
                    self.put(left, text, face, width)
                    self.lines.append(text)
                self.y += self.size * (_LEADING if text else 0.7)
            if line and number:
                x = round(left - space / 2)
                self.draw.line((x, top, x, top + height * self.size * _LEADING), fill=120, width=1)
        self.y = top + height * self.size * _LEADING

    def footnotes(self, texts: Sequence[str]) -> None:
        """Print numbered notes below a short line."""
        self.y += self.size * 0.8
        y = round(self.y)
        self.draw.line((self.margin, y, self.margin + self.inner // 4, y), fill=60, width=1)
        self.y += self.size * 0.5
        for number, text in enumerate(texts, 1):
            self.text(f"{number} {text}", scale=0.8)

    def plate(self, title: str, subtitle: str, rows: Sequence[Sequence[str]]) -> None:
        """Print a data plate: what is riveted to a machine, with its parameters."""
        top, out = self.y, round(self.size * 1.2)
        self.y += self.size * 0.8
        self.text(title, scale=1.4, bold=True, align="c")
        self.text(subtitle, align="c")
        self.y += self.size * 0.5
        self.table([1.25, 1], rows, grid="rows")
        self.y += self.size * 0.6
        corners = self.margin - out, round(top), self.width - self.margin + out, round(self.y)
        self.draw.rounded_rectangle(corners, out, outline=40, width=max(2, self.size // 8))
        for x in (corners[0] + out // 2 + 3, corners[2] - out // 2 - 3):
            for y in (corners[1] + out // 2 + 3, corners[3] - out // 2 - 3):
                self.draw.ellipse((x - 4, y - 4, x + 4, y + 4), outline=60, width=2)
        self.y += self.size

    def frame(self, kind: str = "double") -> None:
        """Give the whole page a border of two lines."""
        self.framed = True

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
        self.rows += [[cell for cell in row if cell] for row in rows]
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

    def fields(self, rows: Sequence[Sequence[str]], *, at: float = 0.38, by_hand: bool = False) -> None:
        """Print a form's fields: a label, and its value in a box, printed or written with the pen."""
        step = round(self.size * 2.1)
        for label, value in rows:
            left, top = self.margin + at * self.inner, round(self.y)
            self.draw.rectangle((left, top, self.width - self.margin, top + step - 6), outline=90, width=1)
            self.y += (step - 6 - self.size * 1.25) / 2
            self.put(self.margin, label, self.face(), at * self.inner)
            room = (1 - at) * self.inner - self.size
            if by_hand:
                self.write(left + self.size * 0.5, value, room, 1.1)
            else:
                self.put(left + self.size * 0.5, value, self.face(bold=True), room)
            self.lines.append(f"{label} {value}" if value else label)
            self.rows += [[label, value]] if value else []
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
