"""How near a limit is: memory that grows with the image, and the bits that are left before float16 ends."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from ocrlab.report.fidelity import model_words
from ocrlab.report.machine import in_short
from ocrlab.study.plots import COLOURS, GREY, blank_figure

if TYPE_CHECKING:
    import pandas as pd

_LAYER = re.compile(r"\.(?:blocks|layers)\.(\d+)\b")


def growth_plot(growth: pd.DataFrame, exponents: pd.DataFrame) -> Figure:
    """Return peak memory against image tokens, both in log, one line a way with its fitted exponent in the legend."""
    figure, axes = blank_figure(7.0, 4.0)
    fitted = exponents.set_index("way")
    for i, (way, mine) in enumerate(growth.groupby("way", sort=False)):
        done = mine.dropna(subset=["peak_memory_bytes"])
        if done.empty:
            words = in_short(*mine[["status", "reason"]].iloc[0])
            axes.plot([], [], color=GREY, lw=4, label=f"{way}: {words[:60]}")
            continue
        colour, line = COLOURS[i % len(COLOURS)], fitted.loc[way]
        known = "exponent" in fitted and line["exponent"] == line["exponent"]
        label = f"{way}: exponent {line['exponent']:.2f} ({line['low']:.2f} to {line['high']:.2f})" if known else way
        axes.plot(done["image_tokens"], done["peak_memory_bytes"] / 2**20, "os^Dv"[i % 5], color=colour, label=label)
        if known:
            x = done["image_tokens"].tail(int(fitted["sizes"][way]))
            axes.plot(x, line["factor"] * x ** line["exponent"] / 2**20, color=colour, lw=1.5)
    axes.set(xscale="log", yscale="log", xlabel="image tokens", ylabel="peak above the model at rest, MiB")
    axes.set_title(f"{model_words(growth)}, blank pages", fontsize=9)
    sizes = sorted(set(growth["image_tokens"].dropna()))
    axes.set_xticks(sizes, [f"{size:.0f}" for size in sizes])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.legend(fontsize=8, title="fitted over the largest sizes (slopes between neighbours)", title_fontsize=8)
    return figure


def headroom_plot(headroom: pd.DataFrame) -> Figure:
    """Return the bits left before float16's end, layer by layer: eager's scores beside the largest other value."""
    known = headroom.dropna(subset=["bits"])
    layers = known.assign(layer=known["module"].str.extract(_LAYER, expand=False)).dropna(subset=["layer"])
    layers = layers.assign(name=layers["part"] + " " + layers["layer"])
    names = list(dict.fromkeys(layers["name"]))
    figure, axes = blank_figure(min(11.0, 3.0 + 0.3 * len(names)), 3.6)
    axes.set_title(f"{model_words(known)}: largest magnitudes over one page" if len(known) else "", fontsize=9)
    scores = layers["value"] == "scores"
    for i, (label, mine) in enumerate((("eager QK$^T$", layers[scores]), ("largest other value", layers[~scores]))):
        least = mine.groupby("name")["bits"].min().reindex(names)
        axes.bar(np.arange(len(names)) + 0.4 * i - 0.2, least, width=0.38, color=COLOURS[i], label=label)
    axes.axhline(0, color="black", lw=1.4, label="float16's end: 65504")
    axes.set_xticks(range(len(names)), names, rotation=90 if len(names) > 12 else 0, fontsize=7)
    axes.set(ylabel="headroom, bits", xlabel="layer")
    axes.set_ylim(min(0.0, float(layers["bits"].min()) - 1 if len(layers) else 0.0), None)
    figure.legend(loc="outside upper center", ncols=3, fontsize=8, frameon=False)
    return figure


def headroom_table(headroom: pd.DataFrame, most: int = 8) -> pd.DataFrame:
    """Return the values nearest to float16's end: module, which value, its largest magnitude, bits left."""
    shown = headroom.dropna(subset=["bits"]).sort_values("bits", kind="stable").head(most)
    shown = shown.assign(largest=shown["largest"].map("{:.4g}".format), bits=shown["bits"].round(1))
    return shown.set_index("module")[["part", "value", "largest", "bits"]]
