"""Ways of computing to look at: how far each is from float32, what it changes in the text, and its time by phase."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from ocrlab.report.machine import in_short
from ocrlab.study.plots import COLOURS, GREY, blank_figure

if TYPE_CHECKING:
    import pandas as pd

_PHASES = {"vision_s": "vision", "prefill_s": "prefill", "decode_s": "decode"}


def divergence_plot(fidelity: pd.DataFrame) -> Figure:
    """Return KL to float32 by way on a log axis: a dot a page, median and quartiles, and in grey what could not run.

    A page whose every logit is the reference's own has KL 0, which a log axis does not have: it is drawn, hollow, left
    of all others.
    """
    ways = list(dict.fromkeys(fidelity["way"]))
    positive = fidelity["kl_mean"][fidelity["kl_mean"] > 0]
    zero = float(positive.min()) / 10 if len(positive) else 1e-16
    figure, axes = blank_figure(7.5, 1.0 + 0.36 * len(ways))
    for y, way in enumerate(ways):
        mine = fidelity[fidelity["way"] == way]
        known = mine["kl_mean"].dropna()
        if known.empty:
            axes.axhspan(y - 0.4, y + 0.4, color=GREY, alpha=0.25, lw=0)
            words = in_short(mine["status"].iloc[0], mine["reason"].iloc[0], 80)
            axes.text(0.01, y, words, va="center", fontsize=7, transform=axes.get_yaxis_transform())
            continue
        colour = COLOURS[y % len(COLOURS)]
        spread = np.linspace(-0.18, 0.18, len(known)) if len(known) > 1 else np.zeros(1)
        for hollow in (False, True):
            chosen = (known == 0).to_numpy() == hollow
            face = "none" if hollow else colour
            axes.scatter(known[chosen].clip(lower=zero), y + spread[chosen], s=14, facecolors=face, edgecolors=colour)
        low, middle, high = np.percentile(known.clip(lower=zero), [25, 50, 75])
        axes.errorbar(
            middle, y, xerr=[[middle - low], [high - middle]], fmt="|", ms=16, mew=2, capsize=4, color="black"
        )
    axes.set(xscale="log", ylim=(len(ways) - 0.5, -0.5), xlabel="KL(float32 || setting), nats a token, mean of a page")
    axes.set_xlim(zero / 2, max(float(positive.max()) * 3 if len(positive) else 1.0, zero * 10))
    if (fidelity["kl_mean"] == 0).any():
        axes.axvline(zero, color=GREY, lw=1, ls=":")
        axes.text(zero, len(ways) - 0.55, " KL 0", fontsize=7, color="#555555", va="bottom")
    axes.set_yticks(range(len(ways)), ways, fontsize=8)
    axes.set_title(f"{model_words(fidelity)}: a dot a page; median and quartiles", fontsize=9)
    return figure


def model_words(rows: pd.DataFrame) -> str:
    """Return the rows' model in a few words, for a title."""
    first = rows.dropna(subset=["model_id"]).iloc[0]
    return f"{first['model_id'].split('/')[-1]}{', random weights' if first.get('weights') == 'dummy' else ''}"


def fidelity_table(fidelity: pd.DataFrame) -> pd.DataFrame:
    """Return one line a way: pages, KL over pages, the largest KL and logit error, how many positions agree."""
    import pandas as pd

    lines = []
    for way, mine in fidelity.groupby("way", sort=False):
        done, bad = mine.dropna(subset=["kl_mean"]), mine[mine["status"] != "ok"]
        line: dict[str, Any] = {"way": way, "pages": f"{len(done)} of {len(mine)}"}
        if len(done):
            low, middle, high = np.percentile(done["kl_mean"], [25, 50, 75])
            agree = float(np.average(done["same_argmax"], weights=done["positions"]))
            parted = done["parted_at"].dropna()
            line |= {
                "KL, nats (quartiles over pages)": f"{middle:.2g} ({low:.2g} to {high:.2g})",
                "largest KL": f"{done['kl_max'].max():.2g}",
                "largest logit error (SD)": f"{done['logit_error'].max():.2g} ({done['logit_error_sd'].max():.2g})",
                "same first token": f"{agree:.2%} of {done['positions'].sum():.0f}",
                "first parts at": f"{parted.min():.0f}" if len(parted) else "nowhere",
            }
        line["problem"] = "" if bad.empty else in_short(*bad[["status", "reason"]].iloc[0])
        lines.append(line)
    return pd.DataFrame(lines).fillna("").set_index("way")


def contrast_table(contrasts: pd.DataFrame) -> pd.DataFrame:
    """Return one line a way, rounded for reading: pages read, same text, CER with interval, verdict, what failed."""
    import pandas as pd

    def percent(value: Any) -> str:
        return "" if pd.isna(value) else f"{value:.2%}"

    shown = pd.DataFrame({"way": contrasts["way"]})
    shown["pages"] = [
        "" if pd.isna(n) else f"{n:.0f} of {of:.0f}" for n, of in zip(contrasts["pages"], contrasts["of"], strict=True)
    ]
    shown["same text"] = ["" if pd.isna(s) else f"{s:.0%}" for s in contrasts["same_text"]]
    shown["first letter that differs"] = ["" if pd.isna(at) else f"{at:.0f}" for at in contrasts["first_difference"]]
    shown["CER"] = [
        f"{percent(c)} ({percent(low)} to {percent(high)})" if pd.notna(c) else ""
        for c, low, high in zip(contrasts["cer"], contrasts["cer_low"], contrasts["cer_high"], strict=True)
    ]
    shown["difference, CER points"] = [
        f"{100 * d:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})" if pd.notna(d) else ""
        for d, low, high in zip(contrasts["difference"], contrasts["low"], contrasts["high"], strict=True)
    ]
    shown["verdict"] = [
        kind or words if isinstance(kind, str) else ""
        for kind, words in zip(contrasts["kind"], contrasts["words"], strict=True)
    ]
    shown["problem"] = [
        "" if status == "ok" else in_short(status, reason)
        for status, reason in zip(contrasts["status"], contrasts["reason"], strict=True)
    ]
    return shown.set_index("way")


def phases_plot(speed: pd.DataFrame) -> Figure:
    """Return vision, prefill and decode time against image tokens, a panel each and a line a way.

    Medians with quartiles over a page's repetitions; what could not run stands in the legend, grey, with its reason.
    """
    figure, panels = plt.subplots(1, 3, figsize=(9.5, 3.6), dpi=110, layout="constrained")
    for axes, (column, title) in zip(panels, _PHASES.items(), strict=True):
        axes.grid(True, alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        for i, (way, mine) in enumerate(speed.groupby("way", sort=False)):
            known = mine.dropna(subset=[column])
            if known.empty:
                words = in_short(mine["status"].iloc[0], mine["reason"].iloc[0], 44)
                axes.plot([], [], color=GREY, lw=4, label=f"{way}: {words}")
                continue
            by_size = (known[column] * 1000).groupby(known["image_tokens"])
            low, middle, high = (by_size.quantile(q) for q in (0.25, 0.5, 0.75))
            style: dict[str, Any] = {"marker": "os^Dv"[i % 5], "color": COLOURS[i % len(COLOURS)], "label": way}
            ends = [middle - low, high - middle]
            axes.errorbar(middle.index, middle, yerr=ends, ms=5, lw=1.2, capsize=3, **style)
        axes.set(xlabel="image tokens", ylabel=f"{title}, ms")
        axes.set_ylim(0, None)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, fontsize=8, frameon=False)
    plt.close(figure)
    return figure
