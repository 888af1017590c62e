"""What our notebooks define in their cells, for tests to call with planted rows."""

from __future__ import annotations

import ast
from typing import Any

import nbformat

from ocrlab.paths import NOTEBOOKS


def names_of(notebook: str) -> dict[str, Any]:
    """Return a notebook's functions and literal constants by name; its imports run, and nothing else of it."""
    cells = nbformat.read(NOTEBOOKS / f"{notebook}.ipynb", as_version=4).cells
    kept = [node for cell in cells if cell.cell_type == "code" for node in ast.parse(cell.source).body if _kept(node)]
    names: dict[str, Any] = {}
    exec(compile(ast.Module(kept, []), f"{notebook}.ipynb", "exec"), names)
    return names


def _kept(node: ast.stmt) -> bool:
    if isinstance(node, ast.Assign):
        return not any(isinstance(part, ast.Name | ast.Call) for part in ast.walk(node.value))
    return isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef)
