"""Tiny notebooks for the tests of the runner and the site."""

from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook


def cell(source: str, *tags: str) -> nbformat.NotebookNode:
    return new_code_cell(source, metadata={"tags": list(tags)})


def write(file: Path, *cells: nbformat.NotebookNode | str) -> Path:
    """Write a notebook; a text is a Markdown cell."""
    notebook = new_notebook(cells=[new_markdown_cell(c) if isinstance(c, str) else c for c in cells])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, file)
    return file
