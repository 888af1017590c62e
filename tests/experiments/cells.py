"""Single cells of our notebooks, run on values that a test plants: what only one notebook draws is tested there."""

from __future__ import annotations

import ast
from itertools import pairwise
from typing import Any

import nbformat

from ocrlab import paths


def shown_by(notebook: str, heading: str, **values: Any) -> Any:
    """Run a notebook's set-up and then the code cell below the Markdown that holds `heading`; return what it shows."""
    cells = nbformat.read(paths.NOTEBOOKS / f"{notebook}.ipynb", as_version=4).cells
    setup = next(cell.source for cell in cells if cell.cell_type == "code")
    below = {text.source: code.source for text, code in pairwise(cells)}
    source = next(code for text, code in below.items() if heading in text)
    *body, last = ast.parse(source).body
    assert isinstance(last, ast.Expr), "the cell shows its last line"
    names: dict[str, Any] = {}
    exec(setup, names)
    names |= values
    exec(compile(ast.Module(body, []), heading, "exec"), names)
    return eval(compile(ast.Expression(last.value), heading, "eval"), names)
