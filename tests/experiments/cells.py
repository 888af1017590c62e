"""Single cells of our notebooks, run on planted values: what only a notebook holds is tested in place."""

from __future__ import annotations

import ast
from contextlib import redirect_stdout
from io import StringIO
from itertools import pairwise
from typing import Any

import nbformat

from ocrlab.paths import NOTEBOOKS

_DEFINED = ast.FunctionDef | ast.ClassDef


class Cells(dict[str, Any]):
    """A notebook's variables: imports, functions, classes, the values given (they replace imports), what the cells set.

    `shown` holds the value of a cell's last line, `said` all that was printed.
    """

    def __init__(self, name: str, **given: Any) -> None:
        notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
        self.code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
        self.said, self.shown = "", None
        self["__name__"] = "__main__"  # as in a kernel, so that a worker gets functions whole
        self._run(self.code[0])
        defined = [node for code in self.code for node in ast.parse(code).body if isinstance(node, _DEFINED)]
        exec(compile(ast.Module(defined, []), name, "exec"), self)
        self.update(given)

    def run(self, *beginnings: str) -> Cells:
        """Run the cells that begin so, in this order."""
        for beginning in beginnings:
            (source,) = (source for source in self.code if source.startswith(beginning))
            self._run(source)
        return self

    def _run(self, source: str) -> None:
        tree = ast.parse(source)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        with redirect_stdout(StringIO()) as printed:
            exec(compile(tree, "cell", "exec"), self)
            self.shown = eval(compile(ast.Expression(last.value), "cell", "eval"), self) if last else None
        self.said += printed.getvalue()


def shown_by(notebook: str, heading: str, **values: Any) -> Any:
    """Run a notebook's set-up and then the code cell below the Markdown that holds `heading`; return what it shows."""
    cells = nbformat.read(NOTEBOOKS / f"{notebook}.ipynb", as_version=4).cells
    source = next(code.source for text, code in pairwise(cells) if heading in text.source)
    return Cells(notebook, **values).run(source).shown


def names_of(notebook: str) -> dict[str, Any]:
    """Return a notebook's functions, classes and literal constants by name; its imports run, and nothing else of it."""
    cells = nbformat.read(NOTEBOOKS / f"{notebook}.ipynb", as_version=4).cells
    kept = [node for cell in cells if cell.cell_type == "code" for node in ast.parse(cell.source).body if _kept(node)]
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(ast.Module(kept, []), f"{notebook}.ipynb", "exec"), names)
    return names


def _kept(node: ast.stmt) -> bool:
    if isinstance(node, ast.Assign):
        literal = not any(isinstance(part, ast.Name | ast.Call) for part in ast.walk(node.value))
        return literal and all(isinstance(target, ast.Name) for target in node.targets)
    return isinstance(node, ast.Import | ast.ImportFrom | _DEFINED)
