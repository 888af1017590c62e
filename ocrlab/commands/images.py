"""Figures in executed notebooks, made small enough to keep in git and to mail."""

from __future__ import annotations

import base64
import io

import nbformat
from PIL import Image

_COLOURS = 128


def shrink_images(notebook: nbformat.NotebookNode) -> None:
    """Replace every PNG output by the same picture with at most 128 colours where that is smaller (a half, mostly)."""
    for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
        for output in cell.outputs:
            data = output.get("data", {})
            if "image/png" in data:
                png = base64.b64decode(data["image/png"])
                smaller = _quantised(png)
                if len(smaller) < len(png):
                    data["image/png"] = base64.b64encode(smaller).decode()


def _quantised(png: bytes) -> bytes:
    with Image.open(io.BytesIO(png)) as opened:
        image = opened.convert("RGBA")
    paper = Image.new("RGB", image.size, "white")
    paper.paste(image, mask=image.getchannel("A"))
    stored = io.BytesIO()
    few = paper.quantize(_COLOURS, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    few.save(stored, "PNG", optimize=True, dpi=(110, 110))
    return stored.getvalue()
