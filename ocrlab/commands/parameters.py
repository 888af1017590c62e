"""A notebook's parameters and PARAMS: from text to typed values, checked before anything runs.

papermill only warns about unknown names, checks no types, and its own parser misses `x: int | None = None` and lines
whose comment holds `=`. Types are checked by pydantic, strictly.
"""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import PydanticUserError, TypeAdapter, ValidationError

_ANY_SCALAR = "None | bool | int | float | str"
# What an annotation may be made of: names of types, brackets, literals and |; nothing that could be called.
_ANNOTATION = (ast.Expression, ast.Name, ast.Load, ast.Subscript, ast.Tuple, ast.Constant, ast.BinOp, ast.BitOr)
_TYPES = {kind.__name__: kind for kind in (bool, int, float, str, list, dict)} | {"Literal": Literal, "Any": Any}
_NAME = re.compile(r"(?:^|(?<=[\s;,]))([^\W\d]\w*)\s*=(?!=)")
_PLAIN = {
    "null": r"null|Null|NULL|~|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?(?:0|[1-9][0-9]*)",
    "float": r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+|[-+]?\.inf|\.nan",
}


class CommandError(ValueError):
    """What was asked for cannot be done; the message names what was given and says what can be."""

    exit_code = 2


class CommandFailed(CommandError):
    """A command with usable arguments that failed on the way; the message says what is kept and how to go on."""

    exit_code = 1


class Yaml(yaml.SafeLoader):
    """YAML 1.2's plain values: `1e-4` is a number; `no`, `010`, `12:30` and `2026-01-01` stay text."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (as PyYAML does it)


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
        CommandError: the file is not a notebook, or the cell holds anything but `name = literal` lines.
    """
    import nbformat  # seconds, which a command without notebooks is spared

    try:
        cells = nbformat.read(notebook, as_version=4).cells
    except (OSError, ValueError, AttributeError, KeyError, nbformat.ValidationError) as error:
        raise CommandError(f"{notebook}: cannot be read as a notebook ({str(error)[:200]})") from error
    tagged = [c for c in cells if c.cell_type == "code" and "parameters" in c.metadata.get("tags", [])]
    if len(tagged) > 1:
        raise CommandError(f"{notebook.name}: {len(tagged)} cells have the tag `parameters`; keep it on one")
    try:
        lines = ast.parse(tagged[0].source).body if tagged else []
    except SyntaxError as error:
        raise CommandError(f"{notebook.name}: the parameters cell is not Python (line {error.lineno})") from error
    found: dict[str, Parameter] = {}
    for parameter in (_parameter(line, notebook.name) for line in lines):
        if parameter.name in found:
            raise CommandError(f"{notebook.name}: the parameters cell sets {parameter.name} twice")
        found[parameter.name] = parameter
    return found


def check(notebook: Path, given: dict[str, Any]) -> dict[str, Any]:
    """Return `given` as the notebook's kernel will get it: each name known, each value of the type wanted.

    An int is taken for a float, and becomes one; a bool is not taken for an int.

    Raises:
        CommandError: an unknown name (the closest is suggested) or a value of another type.
    """
    known = read_parameters(notebook)
    for name in given:
        if name not in known:
            raise CommandError(f"{notebook.name} has no parameter {name!r}{suggest(name, known)}")
    return {name: _typed(notebook.name, known[name], value) for name, value in given.items()}


def suggest(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: the closest known one, and all of them."""
    close = difflib.get_close_matches(name, known := list(known), n=1)
    return (f"; did you mean {close[0]}?" if close else ".") + f" There is: {', '.join(known) or 'none'}"


def _parameter(line: ast.stmt, notebook: str) -> Parameter:
    try:
        match line:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                default = ast.literal_eval(value)
                wanted = _type_of(default) if default is not None else _ANY_SCALAR
            case ast.AnnAssign(target=ast.Name(id=name), annotation=kind, value=ast.expr() as value):
                default = ast.literal_eval(value)
                _type_of(default)  # which refuses a tuple, a set and the like
                wanted = ast.unparse(kind).strip("'\"")  # a type may be written as text
            case _:
                raise ValueError("no assignment to one name")
    except ValueError as error:
        raise CommandError(
            f"{notebook}: the parameters cell takes only `name = literal` lines, with None, a bool, int, float, str, "
            f"list or dict written out, not: {ast.unparse(line)[:120]}"
        ) from error
    parameter = Parameter(name, default, wanted)
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
        raise CommandError(
            f"{notebook}: {parameter.name} = {value!r} was given; wanted {parameter.wanted}, such as its default "
            f"{parameter.default!r}{quote}"
        ) from None
    except (SyntaxError, NameError, TypeError, AttributeError, PydanticUserError) as error:
        raise CommandError(
            f"{notebook}: {parameter.name} is annotated {parameter.wanted}; use None, bool, int, float, str, list[…], "
            "dict[str, …], Literal[…] or | of them"
        ) from error


def _adapter(annotation: str) -> TypeAdapter[Any]:
    tree = ast.parse(annotation, mode="eval")
    if not all(isinstance(node, _ANNOTATION) for node in ast.walk(tree)):
        raise TypeError(annotation)
    kind = eval(compile(tree, "annotation", "eval"), {"__builtins__": {}}, _TYPES)
    return TypeAdapter(dict[str, Any] if kind is dict else kind)


def parse_overrides(text: str) -> dict[str, Any]:
    """Return the parameters in a text like `pages=20 max_pixels_values=[50176, 100352]; prompt='Read: all'`.

    The rule: every `name=` outside quotes and brackets begins a parameter; what follows, up to the next one, is its
    value in YAML, less a closing `;` or `,`. White space, `;`, `,` and new lines therefore all separate. Text that
    holds `name=`, ` #`, brackets or `: ` needs quotes.

    Raises:
        CommandError: the text does not have this form; the message says where.
    """
    names = list(_NAME.finditer(text))
    before = text[: names[0].start()] if names else text
    if before := before.strip(" \t\r\n;,"):
        raise CommandError(f"PARAMS: {before!r} is no `name=value`; write e.g. pages=20 max_pixels_values=[50176]")
    found: dict[str, Any] = {}
    while names:
        match = names.pop(0)
        if match[1] in found:
            raise CommandError(f"PARAMS: {match[1]} is given twice")
        found[match[1]], names = _value(match[1], text, match.end(), names)
    return found


def _value(name: str, text: str, start: int, later: list[re.Match[str]]) -> tuple[Any, list[re.Match[str]]]:
    """Return the value at `start` and the names that follow it: a name within open quotes or brackets is none."""
    for count, stop in enumerate([*(match.start() for match in later), len(text)]):
        given = text[start:stop].strip().rstrip(";,").rstrip()
        if not given:
            raise CommandError(f"PARAMS: {name}= has no value; write {name}=null for none, {name}='' for empty text")
        try:
            value = yaml.load(given, Loader=Yaml)  # a SafeLoader
        except yaml.YAMLError:
            continue
        if " #" in given and " #" not in str(value):
            raise CommandError(f"PARAMS: {name}={given}: YAML would drop what follows ' #'; quote the text")
        return value, later[count:]
    raise CommandError(f"PARAMS: {name}={given} is no YAML value; close its quotes and brackets, or quote it as text")
