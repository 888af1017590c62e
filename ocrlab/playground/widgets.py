"""Two habits of all the playground's widgets: they fill their place, and their names stand above them."""

from __future__ import annotations

from typing import Any

import ipywidgets as w

from ocrlab.playground.html import block


def wide(**more: Any) -> w.Layout:
    """Return a layout that fills its place and never pushes it wider."""
    return w.Layout(**{"width": "auto", "min_width": "0", "margin": "0"} | more)


def labelled(name: str, widget: w.DOMWidget) -> w.VBox:
    """Return a widget under its name."""
    return w.VBox([w.HTML(block(name, "ocr-label"), layout=wide()), widget], layout=wide(overflow="hidden"))


def side_by_side(children: list[Any], least_px: int, gap: str = "10px") -> w.GridBox:
    """Return a grid with as many columns as fit at that width, and one on a phone."""
    columns = f"repeat(auto-fit, minmax(min(100%, {least_px}px), 1fr))"
    return w.GridBox(children, layout=wide(grid_template_columns=columns, grid_gap=gap, align_items="flex-start"))
