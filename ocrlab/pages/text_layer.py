"""The text of a PDF page's own text layer, in reading order, as the page's truth; or why it is none."""

from __future__ import annotations

import cmath
import ctypes
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise, product
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from pypdfium2 import PdfiumError, raw

from ocrlab.pages.documents import guarded, open_pdf
from ocrlab.pages.images import PageError

_HIDDEN, _PICTURE, _JUNK, _RTL, _FEW = 0.1, 0.6, 0.002, 0.01, 20  # shares; letters, ten times as many on a picture
#: In em: between cells and columns, words, words that PDFium parts too, cells that the file writes one by one.
_GAP, _SPACE, _SEEN_SPACE, _CLOSE = 0.7, 0.17, 0.05, 0.1
_MARGIN, _MARGIN_GAP = 0.08, 1.6  # share of the page's height, em between a header or footer and the rest
#: As the letters are compared: hyphens that look alike, what bullets of Symbol and Wingdings show, nothing for marks.
_NO_TEXT = {"Cc", "Cn", "Co"}  # Unicode's categories of control, unassigned (U+FFFE too) and private characters
#: Marks without ink, and the second halves of UTF-16's pairs.
_DROPPED = dict.fromkeys([0xAD, 0x200B, 0x200C, 0x200D, 0xFEFF, *range(0xDC00, 0xE000)])
_SWAPPED = range(0x4100, 0x7B00, 0x100)  # ASCII's letters with their bytes exchanged
_MANGLED, _MANGLED_SHARE = re.compile(r"\w[<>=?@;]+(?=\w)"), 0.02  # signs amid words: its map lost high bytes
_PRINTED = str.maketrans("\u2010\u2011\uf0b7\uf0a7\uf0d8\uf0fc\uf02d\uf0e0\uf020", "--•▪➢✓-→ ")


class Layer(NamedTuple):
    """A page's text, with a line for each printed line or table row, or the reason why the layer is no truth."""

    text: str | None
    problem: str = ""


class _Glyph(NamedTuple):
    """A character in a frame where its text runs to the right, in points; `number` in the file, -1 in a field.

    A gap before it of more than `space` em is one: less where PDFium sees one, as italic letters hang over theirs.
    """

    char: str
    left: float
    right: float
    base: float
    size: float
    number: int
    space: float


class _Run(NamedTuple):
    """Glyphs that follow each other on one line without a gap; base and size are those of the largest."""

    glyphs: list[_Glyph]
    left: float
    right: float
    base: float
    size: float


#: An image or a filled box: how many objects were drawn before it, where it lies, whether it is an image.
_Cover = tuple[int, tuple[float, ...], bool]


def text_layer(file: Path, page_number: int) -> Layer:
    """Return the text that a PDF page shows by its text layer; pictures of text are not in it.

    A word that is broken at a line's end keeps its hyphen and its two lines, as printed: CER joins both texts' words.
    Fields of a form count, invisible text and text off the page do not. Text at an angle comes after the upright.

    Raises:
        PageError: the file cannot be opened, or has no such page.
    """
    return guarded(_text_layer, file, page_number)


def _text_layer(file: Path, page_number: int) -> Layer:
    with open_pdf(file) as document:
        try:
            page = document[page_number - 1]
            own = page.get_textpage().count_chars()
            raw.FPDFPage_Flatten(page, raw.FLAT_NORMALDISPLAY)  # of fields and notes, in memory
            return _layer(document[page_number - 1], own)
        except (PdfiumError, IndexError, ValueError) as error:
            raise PageError(f"{file}: page {page_number} cannot be opened ({error}); export the file again") from error


def _layer(page: Any, own: int) -> Layer:
    box = page.get_bbox()
    drawn_at, covers = _objects(page)
    angles: dict[int, list[_Glyph]] = defaultdict(list)
    counts: Counter[str] = Counter()
    for glyph, degrees, shown in _glyphs(page, own, drawn_at, covers):
        if not shown:
            counts["hidden"] += 1
        elif unicodedata.category(glyph.char[0]) in _NO_TEXT and not glyph.char.isspace():
            counts["junk"] += 1
        else:
            angles[(degrees - page.get_rotation()) % 360].append(glyph)
            counts["printed"] += not glyph.char.isspace()
            counts["letters"] += glyph.char.isalnum()
            # What Ghostscript 10.00 makes of a ligature's map: U+6600 for f, U+6900 for i.
            counts["swapped"] += ord(glyph.char[0]) in _SWAPPED
            counts["East Asian"] += "\u4e00" <= glyph.char[0] < "\ud800"
            counts["right to left"] += unicodedata.bidirectional(glyph.char[0]) in {"R", "AL"}
    pictures = sum(_shared_area(at, box) for _, at, image in covers if image) / max(_shared_area(box, box), 1e-6)
    problems = {
        "no text layer": not any(counts.values()),
        "a scan with an OCR layer: its text is invisible or lies behind an image": counts["hidden"]
        > _HIDDEN * (counts["printed"] + counts["hidden"]),
        "an image covers most of the page and may hold text of its own": pictures > _PICTURE
        and counts["letters"] < 10 * _FEW,
        "the text layer is junk: the Unicode of its glyphs is missing, private or wrong": counts["junk"]
        > max(2, _JUNK * counts["printed"])
        or counts["swapped"] > 0.1 * counts["East Asian"]
        or len(_MANGLED.findall("".join(glyph.char for glyph in angles[0]))) > _MANGLED_SHARE * counts["printed"],
        "right-to-left text, which is not put in order here": counts["right to left"] > _RTL * counts["printed"],
        "most of its text runs sideways": 2 * len(angles[0]) < sum(map(len, angles.values())),
        "too few letters in the text layer": counts["letters"] < _FEW,
    }
    if any(problems.values()):
        return Layer(None, next(problem for problem, true in problems.items() if true))
    lines: list[str] = []
    for degrees in sorted(angles):
        heights = [_turned(x, y, degrees + page.get_rotation()).imag for x in box[::2] for y in box[1::2]]
        if runs := _runs(angles[degrees]):
            lines += _page_lines(runs, min(heights), max(heights))
    return Layer("\n".join(lines))


# What PDFium knows: characters with their places, and the objects that lie over them.


def _glyphs(page: Any, own: int, drawn_at: dict[int, int], covers: list[_Cover]) -> Iterator[tuple[_Glyph, int, bool]]:
    """Yield the characters on the page, each with its angle in degrees and whether a person can see it."""
    text, page_box = page.get_textpage(), page.get_bbox()
    x, y, matrix, space = ctypes.c_double(), ctypes.c_double(), raw.FS_MATRIX(), _SPACE
    for number in range(text.count_chars()):
        generated = raw.FPDFText_IsGenerated(text, number) == 1
        char, space = ("", _SEEN_SPACE) if generated else (_char(text, number), space)
        raw.FPDFText_GetMatrix(text, number, matrix)
        size = raw.FPDFText_GetFontSize(text, number) * math.sqrt(abs(matrix.a * matrix.d - matrix.b * matrix.c))
        if not char or size <= 0:
            continue
        box = text.get_charbox(number, loose=True)
        centre = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        its = raw.FPDFText_GetTextObject(text, number)
        order = drawn_at.get(ctypes.addressof(its.contents), 0) if its else 0
        over = [image for after, at, image in covers if after > order and _holds(at, centre)]
        if not _holds(page_box, centre) or (over and not any(over)):
            continue  # off the page, or blacked out
        clear = raw.FPDFTextObj_GetTextRenderMode(its) == raw.FPDF_TEXTRENDERMODE_INVISIBLE
        degrees = 5 * round(math.degrees(math.atan2(matrix.b, matrix.a)) / 5) % 360
        sides = [_turned(h, v, degrees).real for h in box[::2] for v in box[1::2]]
        raw.FPDFText_GetCharOrigin(text, number, x, y)
        base = _turned(x.value, y.value, degrees).imag
        glyph = _Glyph(char, min(sides), max(sides), base, size, number if number < own else -1, space)
        space = _SPACE
        yield glyph, degrees, char.isspace() or not (over or clear)


def _char(text: Any, number: int) -> str:
    """Return a character as it is compared, NUL for one without Unicode."""
    code = raw.FPDFText_GetUnicode(text, number)
    if code in {0x02, 0xAD}:  # PDFium's sign for a hyphen at a line's end; a soft hyphen, without ink or in a ligature
        left, low, right, high = text.get_charbox(number)
        return "-" if 0.1 < high - low < (right - left if code == 0xAD else math.inf) else "\u00ad"
    if 0xD800 <= code < 0xDC00:
        code = 0x10000 + ((code & 0x3FF) << 10 | raw.FPDFText_GetUnicode(text, number + 1) & 0x3FF)
    if raw.FPDFText_HasUnicodeMapError(text, number) == 1 or code in {0, 0xFFFD}:
        return "\0"
    char = chr(code).translate(_PRINTED)
    same = char.isalpha() and unicodedata.decomposition(char).startswith(("<compat>", "<font>"))
    return unicodedata.normalize("NFKC", char) if same else char  # ligatures, letters of formulas


def _objects(page: Any) -> tuple[dict[int, int], list[_Cover]]:
    """Return each text object's place in the order of drawing, by its address, and what may lie over it."""
    drawn_at, covers, fill, stroke = {}, [], ctypes.c_int(), ctypes.c_int()
    for order, its in enumerate(page.get_objects()):
        full = raw.FPDFPath_CountSegments(its) in {4, 5} and raw.FPDFPath_GetDrawMode(its, fill, stroke) and fill.value
        if its.type == raw.FPDF_PAGEOBJ_TEXT:
            drawn_at[ctypes.addressof(its.raw.contents)] = order
        elif its.type == raw.FPDF_PAGEOBJ_IMAGE or (full and not raw.FPDFPageObj_HasTransparency(its)):
            box, outer = its.get_bounds(), its.container
            while outer:
                box, outer = outer.get_matrix().on_rect(*box), outer.container
            covers.append((order, box, its.type == raw.FPDF_PAGEOBJ_IMAGE))
    return drawn_at, covers


def _holds(box: Sequence[float], at: tuple[float, float]) -> bool:
    return box[0] <= at[0] <= box[2] and box[1] <= at[1] <= box[3]


def _shared_area(one: Sequence[float], other: Sequence[float]) -> float:
    width, height = (min(one[i + 2], other[i + 2]) - max(one[i], other[i]) for i in (0, 1))
    return max(width, 0) * max(height, 0)


def _turned(x: float, y: float, degrees: int) -> complex:
    """Return where a point lies once text at this angle is turned to run to the right."""
    return complex(x, y) * cmath.rect(1, -math.radians(degrees))


# Reading order: a page is cut into columns and bands, as its white space and the order in the file have it.


def _number(run: _Run) -> int:
    return run.glyphs[0].number


def _runs(glyphs: Sequence[_Glyph]) -> list[_Run]:
    runs: list[list[_Glyph]] = []
    for glyph in glyphs:
        last = runs[-1][-1] if runs else glyph
        size = max(glyph.size, last.size)
        # The parts of a ligature lie in one place, and a letter may hang over the next one.
        follows = last.left - 0.5 * size < glyph.left < last.right + _GAP * size
        if not runs or not follows or abs(glyph.base - last.base) > 0.5 * size:
            runs.append([])
        runs[-1].append(glyph)
    found = []
    for run in runs:
        if printed := [glyph for glyph in run if not glyph.char.isspace()]:
            largest = max(printed, key=lambda glyph: glyph.size)
            sides = min(glyph.left for glyph in printed), max(glyph.right for glyph in printed)
            found.append(_Run(run, *sides, largest.base, largest.size))
    return found


def _page_lines(runs: list[_Run], bottom: float, top: float) -> list[str]:
    """Return the lines of runs in reading order; a header comes first, a footer last."""
    zones, margin, gap = [], _MARGIN * (top - bottom), _MARGIN_GAP * median(run.size for run in runs)
    for sign, edge in ((1, top - margin), (-1, -bottom - margin)):
        bases = sorted((sign * run.base for run in runs), reverse=True)
        apart = [inner for outer, inner in pairwise(bases) if outer > edge and outer - inner > gap]
        zones.append([run for run in runs if apart and sign * run.base > apart[-1]])
    if amid := [_number(run) for run in runs if run not in zones[0] and run not in zones[1]]:
        # A line that the file writes amid the body is of a column: a footnote, or a table at its end.
        zones = [[run for run in zone if not min(amid) < _number(run) < max(amid)] for zone in zones]
    body = [run for run in runs if run not in zones[0] and run not in zones[1]]
    return [_line(line) for zone in (zones[0], body, zones[1]) for line in _ordered(zone)]


def _ordered(runs: list[_Run]) -> list[list[_Run]]:
    if len(lines := _by_baseline(runs)) < 2:
        return lines
    if len(columns := _columns(runs)) > 1 and _are_columns(columns):
        return [line for column in columns for line in _ordered(column)]
    rows = _cut(runs, [(-run.base - 0.5 * run.size, 0.1 * run.size - run.base) for run in runs], 0)
    if len(rows) < 2:
        return lines
    return [line for part in _parts(rows) for line in _ordered(part)]


def _columns(runs: Sequence[_Run]) -> list[list[_Run]]:
    """Return the runs in columns; cells without padding are apart where the file writes one after another."""
    sides, size = [(run.left, run.right) for run in runs], median(run.size for run in runs)
    if len(columns := _cut(runs, sides, _GAP * size)) > 1:
        return columns
    close = _cut(runs, sides, _CLOSE * size)
    return close if (visits := _visits(close)) == sorted(set(visits)) else columns


def _parts(rows: list[list[_Run]]) -> Iterator[list[_Run]]:
    """Yield the rows from the top, or the columns of as many as have columns in common.

    A row in the first column stands alone where the others have columns without it: a heading may hide some.
    """
    while rows:
        count, parts = _common_columns(rows)
        if count > 1 and all(run in parts[0] for run in rows[0]) and _common_columns(rows[1:])[0] >= count - 1:
            count, parts = 1, rows[:1]
        yield from parts
        del rows[:count]


def _common_columns(rows: list[list[_Run]]) -> tuple[int, list[list[_Run]]]:
    """Return how many rows from the top have columns in common, and these; 1 and the first row where none have.

    As many as the file writes before all others, else it would be those of a table's next row too.
    """
    runs, count, parts, whole = [run for row in rows[:1] for run in row], 1, rows[:1], False
    for number, row in enumerate(rows[1:], 2):
        runs += row
        if len(columns := _columns(runs)) < 2 or number > count + 8:
            break
        later = [_number(run) for row in rows[number:] for run in row]
        ends = max(map(_number, runs)) < min(later, default=math.inf)
        if ends >= whole and _are_columns(columns):
            count, parts, whole = number, columns, ends
    return count, parts


def _cut(runs: Sequence[_Run], edges: Sequence[tuple[float, float]], gap: float) -> list[list[_Run]]:
    """Return the runs in groups along an axis, cut where nothing lies over more than `gap`."""
    groups: list[list[_Run]] = []
    end = -math.inf
    for (start, stop), run in sorted(zip(edges, runs, strict=True), key=lambda pair: pair[0]):
        if start - end > gap:
            groups.append([])
        groups[-1].append(run)
        end = max(end, stop)
    return groups


def _are_columns(columns: list[list[_Run]]) -> bool:
    """Return whether groups side by side are read one after the other, and not as the rows of a table.

    The file writes a column to its end before the next; where it goes to and fro with every line, full lines of words
    are columns that a producer sorted by height.
    """
    visits = _visits(columns)
    if visits == sorted(set(visits)):
        return min(_number(run) for column in columns for run in column) >= 0
    lines = [_by_baseline(column) for column in columns]
    least = min(map(len, lines))
    return (least >= 4 and not len(columns) < len(visits) < 1.5 * least) and all(
        median(_width(line) for line in found) > 0.75 * _width(column)
        and median(len(_line(line).split()) for line in found) >= 3
        for found, column in zip(lines, columns, strict=True)
    )


def _visits(columns: list[list[_Run]]) -> list[int]:
    """Return the columns' numbers in the order in which the file writes into them."""
    order = sorted((_number(run), index) for index, column in enumerate(columns) for run in column)
    return [index for index, _ in groupby(index for _, index in order)]


def _width(runs: Sequence[_Run]) -> float:
    return max(run.right for run in runs) - min(run.left for run in runs)


def _by_baseline(runs: Sequence[_Run]) -> list[list[_Run]]:
    """Return the runs as lines from above, each from the left; raised and lowered characters stay in their line."""
    lines: list[list[_Run]] = []
    for run in sorted(runs, key=lambda run: (-run.size, -run.base)):
        for line in lines:
            if abs(line[0].base - run.base) < 0.5 * line[0].size and not any(_overprint(run, other) for other in line):
                line.append(run)
                break
        else:
            lines.append([run])
    return [sorted(line, key=lambda run: run.left) for line in sorted(lines, key=lambda line: -line[0].base)]


def _overprint(one: _Run, other: _Run) -> bool:
    """Return whether letters of both lie in one place; a run may also fill the gaps that a run in another font left."""
    letters = product(*([glyph for glyph in run.glyphs if not glyph.char.isspace()] for run in (one, other)))
    return any(min(a.right, b.right) - max(a.left, b.left) > 0.3 * one.size for a, b in letters)


def _line(runs: Sequence[_Run]) -> str:
    """Return a line's text; gaps are spaces where they are wider than those between its letters."""
    glyphs = [glyph for run in runs for glyph in run.glyphs]
    if any(second.left < first.right for first, second in pairwise(runs)):
        glyphs.sort(key=lambda glyph: glyph.left)
    gaps = [(second.left - first.right) / max(first.size, second.size) for first, second in pairwise(glyphs)]
    known = zip(gaps, pairwise(glyphs), strict=True)
    inner = [gap for gap, (one, other) in known if gap < _GAP and (one.char + other.char).isalnum()]
    usual = max(0.0, median(inner)) if len(inner) > 3 else 0.0
    spaces = [gap - usual > glyph.space for gap, glyph in zip(gaps, glyphs[1:], strict=True)]
    text = "".join(" " * space + glyph.char for space, glyph in zip([False, *spaces], glyphs, strict=True))
    return " ".join(unicodedata.normalize("NFC", text.translate(_DROPPED)).split())
