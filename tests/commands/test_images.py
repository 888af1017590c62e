from __future__ import annotations

import base64
import io

import nbformat
import numpy as np
from PIL import Image

from ocrlab.commands.run_notebook import shrink_images


def _png(image: Image.Image) -> str:
    stored = io.BytesIO()
    image.save(stored, "PNG")
    return base64.b64encode(stored.getvalue()).decode()


def _cell(png: str) -> nbformat.NotebookNode:
    output = nbformat.v4.new_output("display_data", data={"image/png": png, "text/plain": "<Figure>"})
    return nbformat.v4.new_code_cell("x", outputs=[output])


def test_a_figure_becomes_smaller_and_keeps_its_look() -> None:
    from ocrlab.study.plots import blank_figure

    figure, axes = blank_figure()
    axes.plot(np.sin(np.linspace(0, 9, 200)))
    stored = io.BytesIO()
    figure.savefig(stored, format="png")
    png = base64.b64encode(stored.getvalue()).decode()
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("m"), _cell(png)])
    shrink_images(notebook)
    small = notebook.cells[1].outputs[0].data["image/png"]
    before, after = (Image.open(io.BytesIO(base64.b64decode(p))).convert("RGB") for p in (png, small))
    assert len(small) < 0.7 * len(png) and before.size == after.size
    assert np.abs(np.asarray(before, int) - np.asarray(after, int)).mean() < 3


def test_what_would_grow_is_left_alone() -> None:
    png = _png(Image.new("L", (1, 1), 0))
    notebook = nbformat.v4.new_notebook(cells=[_cell(png)])
    shrink_images(notebook)
    assert notebook.cells[0].outputs[0].data["image/png"] == png
