"""Write the source notebooks' checked outputs again, after the embedded reader or a notebook changed."""

from __future__ import annotations

import tempfile
from pathlib import Path

import nbformat

from ocrlab import paths
from ocrlab.commands.run_notebook import run_notebook

CHECKED = "nbval-check-output"


def refresh(names: list[str], notebooks: Path = paths.NOTEBOOKS) -> int:
    """Run notebooks with their default parameters and keep the outputs of cells tagged `nbval-check-output` alone.

    Returns 0, or 1 where a notebook failed: it is then left as it was.
    """
    failed = 0
    for source in sorted(notebooks.glob("*.ipynb")):
        if names and source.stem not in names:
            continue
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / source.name
            environment = {"OCRLAB_RUN_FOLDER": folder, "HF_HUB_OFFLINE": "1"}
            outcome = run_notebook(source, output, {}, environment, limit_s=600)
            print(f"{source.stem}: {outcome.status} {outcome.cell} {outcome.reason}".strip(), flush=True)
            if outcome.status == "ok":
                _keep_checked(source, nbformat.read(output, as_version=4))
            else:
                failed = 1
    return failed


def _keep_checked(source: Path, executed: nbformat.NotebookNode) -> None:
    notebook = nbformat.read(source, as_version=4)
    done = {cell.get("id"): cell for cell in executed.cells}
    for cell in (c for c in notebook.cells if c.cell_type == "code"):
        checked = CHECKED in cell.metadata.get("tags", [])
        cell.outputs = done[cell.id].outputs if checked else []
        # nbval takes outputs without a count for an unrun cell.
        cell.execution_count = done[cell.id].execution_count if checked else None
    nbformat.write(notebook, source)
