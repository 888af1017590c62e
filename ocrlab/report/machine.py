"""What the machine answered, to look at: the probe matrix, which build runs on which card, the canary's findings."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import yaml
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from ocrlab.machine.hardware import Capability, coverage
from ocrlab.paths import ROOT
from ocrlab.study.contrast import way_words

if TYPE_CHECKING:
    import pandas as pd

# Okabe and Ito's colours; a letter says the same, for eyes and printers that see none.
VERDICTS = {
    "works": ("#009E73", "✓"), "wrong": ("#D55E00", "✗ wrong"), "crashed": ("#CC79A7", "✗ crashed"),
    "timed out": ("#E69F00", "✗ timed out"), "unsupported": ("#BBBBBB", "–"), "not installed": ("#E3E3E3", "–"),
}  # fmt: skip
CARDS: dict[str, Capability] = {
    "V100": (7, 0), "T4, RTX 20": (7, 5), "A100": (8, 0), "RTX 30": (8, 6), "RTX 40": (8, 9), "H100, H200": (9, 0),
    "B200": (10, 0), "B300": (10, 3), "Jetson Thor": (11, 0), "RTX 50": (12, 0), "DGX Spark": (12, 1),
}  # fmt: skip
_HOW = {"native": "yes", "ptx": "through PTX", "no": "no"}


@cache
def known_builds() -> dict[str, list[str]]:
    """Return the architecture list of each official build of torch by its CUDA version, from `builds.yaml`."""
    text = (ROOT / "ocrlab" / "machine" / "builds.yaml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text))


def stack_table(stack: dict[str, Any]) -> pd.DataFrame:
    """Return the stack of `machine.describe.describe_stack` flat, one line a fact; what is not there says so."""
    import pandas as pd

    flat: dict[str, Any] = {}
    for name, value in stack.items():
        flat |= value if isinstance(value, dict) else {name: value}
    told = {
        name: "none" if value is None or value in ([], "") else ", ".join(value) if isinstance(value, list) else value
        for name, value in flat.items()
    }
    return pd.Series(told, name="here").astype(str).to_frame()


def coverage_table(here: list[str] | None = None) -> pd.DataFrame:
    """Return whether each build runs on each card: yes, through PTX or no; `here` adds the installed build's list."""
    import pandas as pd

    builds = known_builds() | ({"installed here": here} if here else {})
    return pd.DataFrame(
        {build: [_HOW[coverage(names, card).how] for card in CARDS.values()] for build, names in builds.items()},
        index=pd.Index([f"{name} ({card[0]}.{card[1]})" for name, card in CARDS.items()], name="card"),
    )


def probe_matrix(probes: pd.DataFrame) -> Figure:
    """Return a heatmap of verdicts: attention and kernel down, dtype and case across, with the reason in the grey."""
    probes = probes.assign(way=[way_words(a, k) for a, k in zip(probes["attention"], probes["kernel"], strict=True)])
    ways = list(dict.fromkeys(probes["way"]))
    columns = list(dict.fromkeys(zip(probes["dtype"], probes["case"], strict=True)))
    figure, axes = plt.subplots(figsize=(9.5, 1.5 + 0.34 * len(ways)), dpi=110, layout="constrained")
    for y, way in enumerate(ways):
        mine = probes[probes["way"] == way].set_index(["dtype", "case"])
        if mine["verdict"].isin(["unsupported", "not installed"]).all():
            verdict, reason = mine[["verdict", "reason"]].iloc[0]
            axes.add_patch(Rectangle((0, y), len(columns), 1, facecolor=VERDICTS[verdict][0], edgecolor="white"))
            axes.text(0.1, y + 0.5, in_short(verdict, reason), va="center", fontsize=7)
            continue
        for x, column in enumerate(columns):
            if column in mine.index:
                colour, sign = VERDICTS[mine.loc[column, "verdict"]]
                axes.add_patch(Rectangle((x, y), 1, 1, facecolor=colour, edgecolor="white"))
                axes.text(x + 0.5, y + 0.5, sign, ha="center", va="center", fontsize=7)
    axes.set(xlim=(0, len(columns)), ylim=(len(ways), 0))
    axes.set_yticks([y + 0.5 for y in range(len(ways))], ways, fontsize=8)
    axes.set_xticks([x + 0.5 for x in range(len(columns))], [f"{case}\n{dtype}" for dtype, case in columns], fontsize=7)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    used = [verdict for verdict in VERDICTS if (probes["verdict"] == verdict).any()]
    handles: list[Any] = [Patch(facecolor=VERDICTS[verdict][0], label=verdict) for verdict in used]
    axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(used), fontsize=8, frameon=False)
    plt.close(figure)
    return figure


def canary_table(found: pd.DataFrame) -> pd.DataFrame:
    """Return one line a setting: verdict with its reason, tokens, where the text parts, error and bound, stammering."""
    import pandas as pd

    shown = pd.DataFrame({"dtype": found["dtype"]})
    shown["attention"] = [
        way_words(a, k) for a, k in zip(found["attn_implementation"], found["sdpa_kernel"], strict=True)
    ]
    shown["verdict"] = [in_short(v, r) if r else v for v, r in zip(found["verdict"], found["reason"], strict=True)]
    shown["tokens"] = found["tokens"]
    shown["parts at token"] = [f"{at:.0f}" if pd.notna(at) else "" for at in found["parted_at"]]
    shown["logit error (bound)"] = [
        f"{error:.2g} ({bound:.2g})" if pd.notna(error) else ""
        for error, bound in zip(found["error"], found["bound"], strict=True)
    ]
    shown["doubled words"], shown["longest run"] = found["doubled"], found["run"]
    return shown.set_index(["dtype", "attention"])


def in_short(verdict: str, reason: str, most: int = 105) -> str:
    """Return verdict and the reason's first clause, without an exception's name, of at most `most` characters."""
    words = reason.split(": ", 1)[-1] if reason.split(":")[0].endswith(("Error", "Unsupported")) else reason
    words = words.split(";")[0].split(". ")[0].removesuffix(".")
    return f"{verdict}: {words[:most]}{'…' if len(words) > most else ''}"


def overflow_plot(overflow: pd.DataFrame) -> Figure:
    """Return the share of output that is not finite against the largest score QK^T: one panel a way, a line a dtype."""
    ways = list(dict.fromkeys(overflow["way"]))
    figure, panels = plt.subplots(
        1, len(ways), figsize=(3.1 * len(ways) + 0.6, 2.9), dpi=110, sharey=True, layout="constrained", squeeze=False
    )
    # Markers nest, so that dtypes which give the same share are all seen.
    styles = {"float32": ("#0072B2", "-", 9), "bfloat16": ("#E69F00", "--", 6), "float16": ("#D55E00", "-", 3)}
    for axes, way in zip(panels[0], ways, strict=True):
        for dtype, mine in overflow[overflow["way"] == way].groupby("dtype", sort=False):
            colour, line, size = styles[str(dtype)]
            axes.plot(mine["largest_score"], 100 * mine["not_finite"], line, marker="o", ms=size, color=colour,
                      label=dtype, lw=1.4)  # fmt: skip
        axes.axvline(65504, color="#777777", lw=1, ls=":")
        axes.text(65504, 50, " 65504 ", fontsize=7, color="#555555", ha="right", rotation=90, va="center")
        axes.set(xscale="log", title=way, xlabel="largest |QK$^T$|", ylim=(-4, 104))
        axes.grid(alpha=0.25)
    panels[0][0].set_ylabel("output not finite (%)")
    panels[0][0].legend(fontsize=8, loc="upper left")
    plt.close(figure)
    return figure
