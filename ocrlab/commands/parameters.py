"""A notebook's parameters: read with `ast`, checked before anything runs, and typed by their defaults.

papermill only warns about unknown names, checks no types, and its own parser misses `x: int | None = None` and lines
whose comment holds `=`.
"""

from __future__ import annotations

import ast
import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

_ANY_SCALAR = "None | bool | int | float | str"
_SCALARS = {"int": int, "str": str, "bool": bool, "list": list, "dict": dict, "None": type(None)}


class ParameterError(ValueError):
    """A parameter that cannot be used; the message names the notebook, the parameter, what was given and wanted."""


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell."""

    name: str
    default: Any
    annotation: str | None = None

    @property
    def wanted(self) -> str:
        """The type a value must have, as an annotation: the written one, else that of the default."""
        if self.annotation:
            return self.annotation
        return _ANY_SCALAR if self.default is None else _type_of(self.default)


def read_parameters(notebook: Path) -> dict[str, Parameter]:
    """Return the parameters of a notebook's cell with the tag `parameters` by name; none without such a cell.

    Raises:
        ParameterError: the file is not a notebook, or the cell holds anything but `name = literal` lines.
    """
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
    for line in lines:
        parameter = _parameter(line, notebook.name)
        if parameter.name in found:
            raise ParameterError(f"{notebook.name}: the parameters cell sets {parameter.name} twice")
        found[parameter.name] = parameter
    return found


def check(notebook: Path, given: dict[str, Any]) -> dict[str, Any]:
    """Return `given` as the notebook's kernel will get it: each name known, each value of the type wanted.

    An int stands for a float (and becomes one where the default is one); a bool does not stand for an int.

    Raises:
        ParameterError: an unknown name (the closest is suggested) or a value of another type.
    """
    known = read_parameters(notebook)
    for name in given:
        if name not in known:
            raise ParameterError(f"{notebook.name} has no parameter {name!r}{suggest(name, known)}")
    return {name: _typed(notebook.name, known[name], value) for name, value in given.items()}


def suggest(name: str, known: Any) -> str:
    """Return the end of a message about an unknown name: the closest known one, and all of them."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return (f"; did you mean {close[0]}?" if close else ".") + f" There is: {', '.join(known) or 'none'}"


def _parameter(line: ast.stmt, notebook: str) -> Parameter:
    match line:
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            annotation = None
        case ast.AnnAssign(target=ast.Name(id=name), annotation=kind, value=ast.expr() as value):
            quoted = isinstance(kind, ast.Constant) and isinstance(kind.value, str)
            annotation = ast.unparse(kind)[1:-1] if quoted else ast.unparse(kind)
        case _:
            raise ParameterError(f"{notebook}: the parameters cell takes only `name = literal` lines, not: "
                                 f"{ast.unparse(line)[:120]}")  # fmt: skip
    try:
        parameter = Parameter(name, ast.literal_eval(value), annotation)
        _type_of(parameter.default)
    except ValueError as error:
        raise ParameterError(f"{notebook}: the default of {name} must be None, a bool, int, float, str, list or dict "
                             f"written out, not {ast.unparse(value)[:120]}") from error  # fmt: skip
    _typed(notebook, parameter, parameter.default)
    return parameter


def _typed(notebook: str, parameter: Parameter, value: Any) -> Any:
    try:
        fits = _fits(value, ast.parse(parameter.wanted, mode="eval").body)
    except (SyntaxError, TypeError, ValueError) as error:
        raise ParameterError(f"{notebook}: {parameter.name} is annotated {parameter.wanted}; use None, bool, int, "
                             "float, str, list[…], dict[str, …], Literal[…] or | of them") from error  # fmt: skip
    if not fits:
        quote = f" (quote it to give text: {parameter.name}='…')" if "str" in parameter.wanted else ""
        raise ParameterError(f"{notebook}: {parameter.name} = {value!r} was given; wanted {parameter.wanted}, such as "
                             f"its default {parameter.default!r}{quote}")  # fmt: skip
    return _as_float(value) if _all_floats(parameter.default) else value


def _type_of(value: Any) -> str:
    if isinstance(value, list):
        kinds = dict.fromkeys(_type_of(item) for item in value)
        return f"list[{' | '.join(kinds)}]" if kinds else "list"
    if value is None or isinstance(value, bool | int | float | str | dict):
        return "None" if value is None else type(value).__name__
    raise ValueError(f"no parameter can be a {type(value).__name__}")


def _fits(value: Any, kind: ast.expr) -> bool:
    match kind:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _fits(value, left) or _fits(value, right)
        case ast.Constant(value=None):
            return value is None
        case ast.Name(id="float"):
            return type(value) in (int, float)
        case ast.Name(id="dict"):
            return isinstance(value, dict) and all(isinstance(key, str) for key in value)
        case ast.Name(id=name) if name in _SCALARS:
            return type(value) is _SCALARS[name]
        case ast.Subscript(value=ast.Name(id="list"), slice=inner):
            return isinstance(value, list) and all(_fits(item, inner) for item in value)
        case ast.Subscript(value=ast.Name(id="dict"), slice=ast.Tuple(elts=[ast.Name(id="str"), inner])):
            return _fits(value, ast.Name("dict")) and all(_fits(item, inner) for item in value.values())
        case ast.Subscript(value=ast.Name(id="Literal"), slice=inner):
            choices = ast.literal_eval(inner)
            return any(
                value == c and type(value) is type(c) for c in (choices if isinstance(choices, tuple) else [choices])
            )
    raise TypeError(ast.unparse(kind))


def _all_floats(default: Any) -> bool:
    return isinstance(default, float) or (
        isinstance(default, list) and bool(default) and all(map(_all_floats, default))
    )


def _as_float(value: Any) -> Any:
    return [_as_float(item) for item in value] if isinstance(value, list) else float(value)
