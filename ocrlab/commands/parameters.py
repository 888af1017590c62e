"""A notebook's parameters and PARAMS: from text to typed values, checked before anything runs.

papermill only warns about unknown names, checks no types, and its own parser misses `x: int | None = None` and lines
whose comment holds `=`. Types are checked by pydantic, strictly.
"""

from __future__ import annotations

import ast
import difflib
import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import PydanticUserError, TypeAdapter, ValidationError

_ANY_SCALAR = "None | bool | int | float | str"
_TYPES = {kind.__name__: kind for kind in (bool, int, float, str, list, dict)} | {"Literal": Literal, "Any": Any}
_TYPE_NODES = (ast.Expression, ast.Name, ast.Load, ast.Constant, ast.Subscript, ast.Tuple, ast.BinOp, ast.BitOr)
_NAME = re.compile(r"(?:^|(?<=[\s;,]))([^\W\d]\w*)\s*=(?!=)")
_QUOTED = re.compile(r"""(?:^|(?<=[=\s\[{,:]))(?:"(?:\\.|[^"\\])*"|'(?:''|[^'])*')""")
_OPEN_QUOTE = re.compile(r"""(?:^|(?<=[=\s\[{,:]))["']""")
_BRACKETS = re.compile(r"\[[^\[\]{}]*\]|\{[^\[\]{}]*\}")
_PLAIN = {
    "null": r"null|Null|NULL|~|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?(?:0|[1-9][0-9]*)",
    "float": r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+|[-+]?\.inf|\.nan",
}


class ParameterError(ValueError):
    """A parameter that cannot be used; the message names the notebook, the parameter, what was given and wanted."""


class Yaml(yaml.SafeLoader):
    """YAML 1.2's plain values: `1e-4` is a number; `no`, `010`, `12:30` and `2026-01-01` stay text."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (PyYAML's own way)


for _kind, _pattern in _PLAIN.items():
    Yaml.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(f"^(?:{_pattern})$"), None)


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell; `wanted` is the type of its values: the annotation, else that of the default."""

    name: str
    default: Any
    wanted: str


def read_parameters(notebook: Path) -> dict[str, Parameter]:
    """Return the parameters of a notebook's cell with the tag `parameters` by name; none without such a cell.

    Raises:
        ParameterError: the file is not a notebook, or the cell holds anything but `name = literal` lines.
    """
    import nbformat  # seconds, which a command without notebooks is spared

    try:
        cells = nbformat.read(notebook, as_version=4).cells
    except (OSError, ValueError, AttributeError, KeyError, nbformat.ValidationError) as error:
        raise ParameterError(f"{notebook}: cannot be read as a notebook ({str(error)[:200]})") from error
    tagged = [c for c in cells if c.cell_type == "code" and "parameters" in c.metadata.get("tags", [])]
    if len(tagged) > 1:
        raise ParameterError(f"{notebook.name}: {len(tagged)} cells have the tag `parameters`; keep it on one")
    try:
        lines = ast.parse(tagged[0].source).body if tagged else []
    except SyntaxError as error:
        raise ParameterError(f"{notebook.name}: the parameters cell is not Python (line {error.lineno})") from error
    found: dict[str, Parameter] = {}
    for parameter in (_parameter(line, notebook.name) for line in lines):
        if parameter.name in found:
            raise ParameterError(f"{notebook.name}: the parameters cell sets {parameter.name} twice")
        found[parameter.name] = parameter
    return found


def check(notebook: Path, given: dict[str, Any]) -> dict[str, Any]:
    """Return `given` as the notebook's kernel will get it: each name known, each value of the type wanted.

    An int stands for a float, and becomes one; a bool does not stand for an int.

    Raises:
        ParameterError: an unknown name (the closest is suggested) or a value of another type.
    """
    known = read_parameters(notebook)
    for name in given:
        if name not in known:
            raise ParameterError(f"{notebook.name} has no parameter {name!r}{suggest(name, known)}")
    return {name: _typed(notebook.name, known[name], value) for name, value in given.items()}


def suggest(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: the closest known one, and all of them."""
    close = difflib.get_close_matches(name, known := list(known), n=1)
    return (f"; did you mean {close[0]}?" if close else ".") + f" There is: {', '.join(known) or 'none'}"


def _parameter(line: ast.stmt, notebook: str) -> Parameter:
    match line:
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            wanted = ""
        case ast.AnnAssign(target=ast.Name(id=name), annotation=kind, value=ast.expr() as value):
            wanted = ast.unparse(kind).strip("'\"")  # a type may be written as text
        case _:
            raise ParameterError(
                f"{notebook}: the parameters cell takes only `name = literal` lines, not: {ast.unparse(line)[:120]}"
            )
    try:
        default = ast.literal_eval(value)
        inferred = _type_of(default)
    except ValueError as error:
        raise ParameterError(
            f"{notebook}: the default of {name} must be None, a bool, int, float, str, list or dict written out, "
            f"not {ast.unparse(value)[:120]}"
        ) from error
    parameter = Parameter(name, default, wanted or (_ANY_SCALAR if default is None else inferred))
    _typed(notebook, parameter, default)
    return parameter


def _type_of(value: Any) -> str:
    if isinstance(value, list):
        kinds = dict.fromkeys(_type_of(item) for item in value)
        return f"list[{' | '.join(kinds)}]" if kinds else "list"
    if value is None or isinstance(value, bool | int | float | str | dict):
        return "None" if value is None else type(value).__name__
    raise ValueError(f"no parameter can be a {type(value).__name__}")


def _typed(notebook: str, parameter: Parameter, value: Any) -> Any:
    try:
        return _adapter(parameter.wanted).validate_python(value, strict=True)
    except ValidationError:
        quote = f" (quote it to give text: {parameter.name}='…')" if "str" in parameter.wanted else ""
        raise ParameterError(
            f"{notebook}: {parameter.name} = {value!r} was given; wanted {parameter.wanted}, such as its default "
            f"{parameter.default!r}{quote}"
        ) from None
    except (SyntaxError, NameError, TypeError, PydanticUserError) as error:
        raise ParameterError(
            f"{notebook}: {parameter.name} is annotated {parameter.wanted}; use None, bool, int, float, str, list[…], "
            "dict[str, …], Literal[…] or | of them"
        ) from error


def _adapter(annotation: str) -> TypeAdapter[Any]:
    """Return what checks values of a type. Only names of types are evaluated: no call, no attribute."""
    tree = ast.parse(annotation, mode="eval")
    if other := next((node for node in ast.walk(tree) if not isinstance(node, _TYPE_NODES)), None):
        raise TypeError(f"{type(other).__name__} is no part of a type")
    kind = eval(compile(tree, annotation, "eval"), {"__builtins__": {}}, _TYPES)
    return TypeAdapter(dict[str, Any] if kind is dict else kind)


def parse_overrides(text: str) -> dict[str, Any]:
    """Return the parameters in a text like `pages=20 max_pixels_values=[50176, 100352]; prompt='Read: all'`.

    The rule: every `name=` outside quotes and brackets begins a parameter; what follows, up to the next one, is its
    value in YAML, less a closing `;` or `,`. White space, `;`, `,` and new lines therefore all separate. Text that
    holds `name=`, ` #`, brackets or `: ` needs quotes.

    Raises:
        ParameterError: the text does not have this form; the message says where.
    """
    masked = _mask(text)
    names = list(_NAME.finditer(masked))
    before = text[: names[0].start()] if names else text
    if before := before.strip(" \t\r\n;,"):
        raise ParameterError(f"PARAMS: {before!r} is no `name=value`; write e.g. pages=20 max_pixels_values=[50176]")
    found: dict[str, Any] = {}
    for match, following in itertools.zip_longest(names, names[1:]):
        stop = following.start() if following else len(text)
        if match[1] in found:
            raise ParameterError(f"PARAMS: {match[1]} is given twice")
        found[match[1]] = _value(match[1], text[match.end() : stop], masked[match.end() : stop])
    return found


def _mask(text: str) -> str:
    """Return the text, as long, with quoted and bracketed parts blanked out."""
    masked = _QUOTED.sub(lambda m: "_" * len(m[0]), text)
    if quote := _OPEN_QUOTE.search(masked):
        raise ParameterError(f"PARAMS: the quote before {text[quote.end() : quote.end() + 20]!r} is not closed")
    while (shorter := _BRACKETS.sub(lambda m: "_" * len(m[0]), masked)) != masked:
        masked = shorter
    if left := re.search(r"[\[\]{}]", masked):
        after = text[left.end() : left.end() + 20]
        raise ParameterError(f"PARAMS: {left[0]!r} before {after!r} has no partner; close it, or quote the text")
    return masked


def _value(name: str, text: str, masked: str) -> Any:
    text = text.strip().rstrip(";,").rstrip()
    if not text:
        raise ParameterError(f"PARAMS: {name}= has no value; write {name}=null for none, {name}='' for empty text")
    if " #" in masked:
        raise ParameterError(f"PARAMS: {name}={text}: YAML would drop what follows ' #'; quote the text")
    try:
        return yaml.load(text, Loader=Yaml)  # a SafeLoader
    except yaml.YAMLError as error:
        raise ParameterError(f"PARAMS: {name}={text} is no YAML value; quote it if it is text") from error
