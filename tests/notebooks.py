"""Tiny notebooks for the tests of the runner and the site."""

from base64 import b64encode
from io import BytesIO
from pathlib import Path
from typing import Any

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from ocrlab import paths
from ocrlab.commands.run_notebook import run_notebook


def cell(source: str, *tags: str) -> nbformat.NotebookNode:
    return new_code_cell(source, metadata={"tags": list(tags)})


def write(file: Path, *cells: nbformat.NotebookNode | str) -> Path:
    """Write a notebook; a text is a Markdown cell."""
    notebook = new_notebook(cells=[new_markdown_cell(c) if isinstance(c, str) else c for c in cells])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, file)
    return file


def picture(colour: str = "white", kind: str = "PNG") -> str:
    buffer = BytesIO()
    Image.new("RGB", (40, 20), colour).save(buffer, kind)
    return b64encode(buffer.getvalue()).decode()


def display(**data: str):
    metadata = data.pop("metadata", {})
    return new_output(
        "display_data", {name.replace("_", "/", 1): value for name, value in data.items()}, metadata=metadata
    )


def ran(source: str, *outputs, tags=(), status="completed", **metadata):
    marks = {"tags": list(tags), "papermill": {"status": status}, **metadata}
    return new_code_cell(source, outputs=list(outputs), execution_count=1, metadata=marks)


def said_by(name: str, run: Path, given: dict[str, Any]) -> str:
    """Run a notebook of ours in the run's folder; return all that it showed as text, warnings included."""
    output = run / "notebooks" / f"{name}.ipynb"
    output.parent.mkdir(parents=True, exist_ok=True)
    environment = {"OCRLAB_RUN_FOLDER": str(run), "TQDM_DISABLE": "1"}
    outcome = run_notebook(paths.NOTEBOOKS / f"{name}.ipynb", output, given, environment, 200)
    assert outcome.status == "ok", outcome
    return text_of(output)


def text_of(notebook: Path) -> str:
    """Return all that an executed notebook showed as text, warnings included."""
    shown = [out for cell in nbformat.read(notebook, as_version=4).cells for out in cell.get("outputs", [])]
    kinds = ("text/markdown", "text/plain")
    return "\n".join(o.get("text") or "\n".join(o.get("data", {}).get(kind, "") for kind in kinds) for o in shown)
