"""One function per figure: rows in, a matplotlib Figure out, with units, intervals and colour-blind safe colours."""

from __future__ import annotations

from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from ocrlab.pages import Page

if TYPE_CHECKING:
    import pandas as pd

# Okabe and Ito's palette, which colour-blind readers can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#999999"
STYLE = Path(__file__).with_name("figures.mplstyle")


def blank_figure(width: float = 7.0, height: float = 3.8, **grid: Any) -> tuple[Figure, Any]:
    """Return an empty figure in the style of `figures.mplstyle` and its axes; sizes in inches.

    `grid` is what `plt.subplots` takes for several axes: `nrows`, `ncols`, `sharey` and so on.
    """
    with plt.style.context(STYLE):
        figure, axes = plt.subplots(figsize=(width, height), **grid)
    plt.close(figure)  # the notebook shows what a cell returns, once
    return figure, axes


def nothing(reason: str) -> Figure:
    """Return a figure that says in grey why there is none."""
    words = fill(f"nothing to draw: {reason}", 90)
    figure, axes = blank_figure(7.0, 1.0 + 0.2 * words.count("\n"))
    axes.axis("off")
    axes.text(0.5, 0.5, words, ha="center", va="center", color=GREY, parse_math=False)
    return figure


def show_pages(pages: list[Page], columns: int = 2) -> Figure:
    """Return the pages' images side by side, all at one scale, each under its id."""
    rows = -(-len(pages) // columns)
    images = [page.open() for page in pages]
    widest = max(image.width for image in images)
    tallest = max(image.height for image in images) / widest
    height = min(9.0, rows * max(0.9, 0.5 + tallest * 7.5 / columns))
    figure, grid = blank_figure(7.5, height, nrows=rows, ncols=columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, page, image in zip(grid.flat, pages, images, strict=False):
        axes.imshow(image)
        axes.set_xlim(0, widest)
        axes.set_title(page.id, fontsize=8)
    return figure


def conditions(rows: pd.DataFrame) -> str:
    """Return model, number of pages and machine of the rows, as a title has them."""
    first = rows.iloc[0]
    return f"{first['model_id'].split('/')[-1]}, {rows['page'].nunique()} pages, {first['machine']}"
