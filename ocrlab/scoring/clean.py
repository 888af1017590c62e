"""A page's text without what the model wrote around it and into it: remarks, fences, Markdown, HTML, LaTeX, tags.

Conservative: what could be the page's own stays. `clean.yaml` holds the expressions, and a new manner of writing is an
entry there.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

import yaml

_Rules = list[tuple[re.Pattern[str], str]]

_FENCE = re.compile(r"[ \t]*(?:`{3,}|~{3,})[ \t]*([\w+-]*)[ \t]*")
_RULER = re.compile(r"[ \t]*\|?(?:[ \t]*:?-{2,}:?[ \t]*\|)+(?:[ \t]*:?-{2,}:?[ \t]*)?")
_BAR = re.compile(r"(?<!\\)\|")
_QUOTES = {'"': '"', "“": "”"}
_RAISED = str.maketrans("0123456789+-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻")


@dataclass(frozen=True)
class Cleaned:
    """A page's text, and the pieces that were taken off or out of what the model wrote, in the order of their going."""

    text: str
    removed: tuple[str, ...] = ()

    @property
    def removed_characters(self) -> int:
        """Return how many characters of markup and remarks were taken off; white space between them may not count."""
        return sum(map(len, self.removed))


@dataclass
class _Draft:
    """A text that is being cleaned; `introduced`: the model said before it what comes."""

    text: str
    removed: list[str] = field(default_factory=list)
    introduced: bool = False

    def keep(self, text: str, *removed: str) -> None:
        """Go on with this text; what was removed of it is listed."""
        self.text = text
        self.removed += removed

    def substitute(self, rules: _Rules) -> None:
        """Put what is left of each match in its place."""
        for pattern, left in rules:
            self.text = pattern.sub(partial(self._left, left), self.text)

    def _left(self, left: str, found: re.Match[str]) -> str:
        kept = _FORMS[left](found) if left in _FORMS else found.expand(left)
        self.removed.append(found[0].replace(kept.strip(), "", 1))
        return kept


@lru_cache(maxsize=4096)
def clean(text: str) -> Cleaned:
    """Return what of a model's answer is the page's text, in the page's own form where markup had replaced it.

    Off go introductions and closing remarks (English, Russian, Chinese), code fences, tags of boxes and of DocTags, and
    JSON around the text; Markdown, HTML and LaTeX give way to what they print, tables to rows of cells. A text that has
    none of it comes back as it is, and cleaning what is clean changes nothing.
    """
    draft, before = _Draft(text), None
    while draft.text != before:
        before = draft.text
        for step in (_closing, _preamble, _quotes, _fences, _json, _pipes, _markup):
            step(draft)
        if draft.removed:
            draft.text = draft.text.strip()
    return Cleaned(draft.text, tuple(piece for piece in draft.removed if piece))


def _closing(draft: _Draft) -> None:
    above, _, last = draft.text.rstrip().rpartition("\n")
    apart = draft.removed or not above.rpartition("\n")[2].strip()
    if above.strip() and apart and _expressions().closing.fullmatch(last.strip(" \t*_()[]>")):
        draft.keep(above.rstrip(), last)


def _preamble(draft: _Draft) -> None:
    start = len(draft.text) - len(draft.text.lstrip(" \t\n*_#>"))
    found = _expressions().preamble.match(draft.text, start)
    if found and (rest := draft.text[found.end() :]).strip():
        draft.keep(rest.lstrip("\n"), draft.text[: found.end()].strip())
        draft.introduced = True


def _quotes(draft: _Draft) -> None:
    """Take off the quotation marks in which the model set the whole text; one in its first or last line keeps them."""
    text = draft.text.strip()
    end = _QUOTES.get(text[:1], "")
    if draft.introduced and end and len(text) > 2 and text.endswith(end):
        inner = text[1:-1]
        if not {text[0], end} & {*inner.partition("\n")[0], *inner.rpartition("\n")[2]}:
            draft.keep(inner, text[0] + end)


def _fences(draft: _Draft) -> None:
    """Take off a fence that the first line opens, with the line that closes it, or one that alone ends the text."""
    lines = draft.text.strip().split("\n")
    fences = {number: found[1] for number, line in enumerate(lines) if (found := _FENCE.fullmatch(line))}
    if len(lines) < 2 or not fences:
        return
    gone: list[int] = []
    if 0 in fences:
        gone, depth = [0], 0
        for number, language in fences.items():
            depth += 1 if language or not number else -1
            if not depth:
                gone.append(number)
                break
    elif list(fences.items()) == [(len(lines) - 1, "")]:
        gone = [len(lines) - 1]
    if gone:
        kept = [line for number, line in enumerate(lines) if number not in gone]
        draft.keep("\n".join(kept), *(lines[number] for number in gone))


def _json(draft: _Draft) -> None:
    if not draft.text.lstrip().startswith(("{", "[")):
        return
    try:
        texts = list(_texts(json.loads(draft.text, strict=False)))
    except (ValueError, RecursionError):
        return
    if texts:
        left = draft.text
        for text in texts:
            left = left.replace(text, "", 1)
        draft.keep("\n".join(texts), left)


def _texts(value: Any, named: bool = False) -> Iterator[str]:
    """Yield the texts in a JSON value: those of its first known field, and of what its lists and objects hold."""
    if isinstance(value, str):
        yield from [value] if named else []
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one, named)
    elif isinstance(value, dict):
        name = next((name for name in _table()["fields"] if name in value), None)
        for one in [value[name]] if name else [v for v in value.values() if not isinstance(v, str)]:
            yield from _texts(one, name is not None)


def _pipes(draft: _Draft) -> None:
    """Make rows of cells of Markdown tables: lines with bars around a ruler, or framed where there was other markup."""
    if "|" not in draft.text or _table_of("markdown").unless.search(draft.text):
        return
    made: list[str] = []
    block: list[str] = []
    for line in [*draft.text.split("\n"), ""]:
        if _BAR.search(line):
            block.append(line)
            continue
        ruled = any(_RULER.fullmatch(row) for row in block)
        framed = len(block) > 1 and all(row.strip()[0] == row.strip()[-1] == "|" for row in block)
        if ruled or (framed and draft.removed):
            rows = [row for row in block if not _RULER.fullmatch(row)]
            draft.removed += ["|" * len(_BAR.findall(row)) for row in rows] + [r for r in block if r not in rows]
            block = [cells for row in rows if (cells := _cells(row))]
        made += [*block, line]
        block = []
    draft.text = "\n".join(made[:-1])


def _cells(row: str) -> str:
    return " ".join(cell.strip() for cell in _BAR.split(row) if cell.strip()).replace("\\|", "|")


def _markup(draft: _Draft) -> None:
    for name in _table()["markup"]:
        group = _table_of(name)
        if group.signs & set(draft.text) and not group.unless.search(draft.text):
            draft.substitute(group.rules)
            if draft.removed:
                draft.substitute(group.rest)


def _superscript(found: re.Match[str]) -> str:
    return found[1].translate(_RAISED)


def _entity(found: re.Match[str]) -> str:
    return html.unescape(found[0]).replace("\xa0", " ")


def _sign(found: re.Match[str]) -> str:
    return str(_table()["signs"].get(found[1], found[1]))


def _math(found: re.Match[str]) -> str:
    """Return a formula as it is printed, as far as plain text can."""
    draft, before = _Draft(next((group for group in found.groups() if group), found[0])), None
    while draft.text != before:
        before = draft.text
        draft.substitute(_expressions().math)
    return draft.text


def _tabular(found: re.Match[str]) -> str:
    """Return the rows of a LaTeX table, their cells with a space between them."""
    inner = re.sub(r"\\(?:hline|toprule|midrule|bottomrule|c(?:mid)?(?:line|rule)\{[^}]*\})\s*", "", found[2])
    inner = re.sub(r"\\multicolumn\{[^}]*\}\{[^}]*\}\{([^}]*)\}", r"\1", inner)
    rows = (re.split(r"(?<!\\)&", row) for row in re.split(r"\\\\(?:\[[^\]]*\])?", inner))
    lines = (" ".join(cell.strip() for cell in row if cell.strip()) for row in rows)
    return "\n".join(re.sub(r"\\([%&#$_])", r"\1", line) for line in lines if line) + "\n"


_FORMS: dict[str, Callable[[re.Match[str]], str]] = {
    "superscript": _superscript,
    "entity": _entity,
    "sign": _sign,
    "math": _math,
    "tabular": _tabular,
}


@dataclass(frozen=True)
class _Expressions:
    preamble: re.Pattern[str]
    closing: re.Pattern[str]
    math: _Rules


@dataclass(frozen=True)
class _Group:
    signs: set[str]
    unless: re.Pattern[str]
    rules: _Rules
    rest: _Rules


@cache
def _table() -> dict[str, Any]:
    return yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))


@cache
def _expressions() -> _Expressions:
    table = _table()
    preambles, closings = ("|".join(f"(?:{_worded(one)})" for one in table[name]) for name in ("preambles", "closings"))
    opener = f"(?:{table['opener']})"
    before = rf"{opener}?(?:{preambles})[*_]*[ \t]*|{opener}(?=```|~~~)"
    flags = re.IGNORECASE
    return _Expressions(re.compile(before, flags), re.compile(closings, flags), _compiled(table["math"], flags=0))


@cache
def _table_of(name: str) -> _Group:
    group = _table()["markup"][name]
    unless = re.compile(group["unless"] or r"(?!)", re.IGNORECASE)
    return _Group(set(group["signs"]), unless, _compiled(group["rules"]), _compiled(group["rest"]))


def _compiled(pairs: list[list[str]], flags: int = re.IGNORECASE | re.MULTILINE) -> _Rules:
    return [(re.compile(pattern, flags | re.DOTALL), left) for pattern, left in pairs]


def _worded(pattern: str) -> str:
    for name, words in _table()["words"].items():
        pattern = pattern.replace(f"{{{name}}}", words)
    return pattern
