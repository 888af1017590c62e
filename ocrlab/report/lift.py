"""Executed notebooks without what their run stores elsewhere: figures become links, progress bars go."""

from __future__ import annotations

from pathlib import Path

import nbformat

from ocrlab.report.body import LINK, WIDGET, Figure


def lift_figures(file: Path, figures: list[Figure]) -> None:
    """Write an executed notebook again with its images as links into `../figures`, so that each is stored once.

    JupyterLab shows such a link as the image. Widgets' states (progress bars, as they were at birth), the plain twins
    of tables and the kernel's message times are dropped. A notebook without these is left as it is, byte by byte.
    """
    notebook = nbformat.read(file, as_version=4)
    before = nbformat.writes(notebook)
    notebook.metadata.pop("widgets", None)
    files = {figure.place: figure for figure in figures}
    for index, cell in enumerate(notebook.cells, start=1):
        cell.metadata.pop("execution", None)
        kept = []
        for number, output in enumerate(cell.get("outputs", []), start=1):
            if WIDGET in output.get("data", {}):
                continue
            figure = files.get((index, number))
            if figure is not None and LINK not in output.metadata:
                alt = figure.alt.replace("[", "(").replace("]", ")").replace("\n", " ")
                output.data = nbformat.NotebookNode({"text/markdown": f"![{alt}](../figures/{figure.file})"})
                output.metadata = nbformat.NotebookNode({LINK: figure.file, "alt": figure.alt})
            elif "text/html" in output.get("data", {}) and "headline" not in cell.metadata.get("tags", []):
                output.data.pop("text/plain", None)
            kept.append(output)
        if cell.cell_type == "code":
            cell.outputs = kept
    after = nbformat.writes(notebook)
    if after != before:
        part = file.with_suffix(".part")
        part.write_text(after + "\n", encoding="utf-8")
        part.replace(file)
