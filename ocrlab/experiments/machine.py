"""The canary: read a long page greedily in every dtype and attention, and hold each against the float32 math kernel.

Some faults show only after hundreds of tokens: cuDNN's SDPA on a B200 doubled words in text of the Qwen2 family
(pytorch/pytorch#193893). Two ways that share a prefix must agree in their logits up to what rounding explains, so the
comparison ends where the texts part; doubled words and runs of one token are counted over the whole text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any, Literal

import matplotlib.pyplot as plt
import yaml
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from ocrlab.machine.attention import pinned
from ocrlab.machine.hardware import Capability, coverage
from ocrlab.machine.quarantine import Variant, judge
from ocrlab.machine.worker import Outcome, Worker
from ocrlab.pages import Page
from ocrlab.paths import ROOT
from ocrlab.reading.isolated import reader_here
from ocrlab.reading.reader import in_this_process
from ocrlab.reading.settings import Settings
from ocrlab.study.compare import way_words

if TYPE_CHECKING:
    import pandas as pd
    import torch


Verdict = Literal["same text", "within rounding", "faulty", "unsupported", "crashed", "timed out"]
Prepare = Callable[[], None]

# About five times the most that healthy kernels showed on the embedded reader (LOG.md): 1e-5, 0.10 and 0.034.
ROUNDING = {"float32": 1e-4, "bfloat16": 0.5, "float16": 0.15}
"""The largest difference of a logit that rounding explains, in standard deviations of the step's logits."""
ATTENTIONS = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flash_attention_4", "flex_attention")
_KERNELS = (None, "math", "flash", "efficient", "cudnn")


@dataclass(frozen=True)
class Finding:
    """What the canary says of one setting. `parted_at` is the first token that differs, None where none does.

    `error` is the largest difference of a logit up to there, `bound` what rounding explains, both in standard
    deviations of the step's logits; `doubled` counts words that follow themselves, `run` is the longest of one token.
    """

    dtype: str
    attn_implementation: str
    sdpa_kernel: str | None
    verdict: Verdict
    reason: str = ""
    tokens: int = 0
    parted_at: int | None = None
    error: float | None = None
    bound: float | None = None
    doubled: int = 0
    run: int = 0
    seconds: float = 0.0

    @property
    def way(self) -> Variant:
        """Return dtype, attention and kernel."""
        return self.dtype, self.attn_implementation, self.sdpa_kernel

    def row(self) -> dict[str, Any]:
        """Return everything by name."""
        return asdict(self)


def all_ways(base: Settings, dtypes: Iterable[str]) -> list[Settings]:
    """Return `base` in every dtype × attention, SDPA also pinned to each of its kernels."""
    return [
        replace(base, dtype=dtype, attn_implementation=attention, sdpa_kernel=kernel)  # type: ignore[arg-type]
        for dtype in dtypes for attention in ATTENTIONS for kernel in (_KERNELS if attention == "sdpa" else (None,))
        if not (attention.startswith("flash_attention") and dtype == "float32")
    ]  # fmt: skip


def run_canary(
    runs: Iterable[Settings], page: Page, *, prepare: Prepare | None = None, timeout_s: float = 600
) -> Iterator[Finding]:
    """Yield a finding for each setting, read in a process that may die; faulty ones are put into quarantine.

    `prepare` is called in that process before each but the reference: tests plant their faults with it.

    Raises:
        RuntimeError: the float32 math reference itself cannot be read.
    """
    with Worker() as worker:
        reference: Generation | None = None
        for settings in runs:
            if reference is None:
                exact = replace(settings, dtype="float32", attn_implementation="sdpa", sdpa_kernel="math")
                outcome = worker.call(generate, exact, page, timeout_s=timeout_s)
                if not outcome.ok:
                    raise RuntimeError(f"the canary's reference (float32, sdpa, math) failed: {outcome.reason}")
                reference = outcome.value
            outcome = worker.call(generate, settings, page, prepare, timeout_s=timeout_s)
            finding = _finding(settings, outcome, reference)
            if finding.verdict in {"faulty", "same text", "within rounding", "crashed"}:
                bad = finding.verdict in {"faulty", "crashed"}
                judge({finding.way: f"{finding.reason} ({settings.model_id})" if bad else None})
            yield finding


def generate(settings: Settings, page: Page, prepare: Prepare | None = None) -> Generation:
    """Read a page greedily here and note each step's logits; the model stays loaded for the next setting."""
    import torch

    if prepare is not None:
        prepare()
    reader = in_this_process(reader_here(settings))
    tensors = reader.tensors(page.open())
    steps: list[tuple[torch.Tensor, torch.Tensor]] = []

    def note(_: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        wide = scores[0].float()
        top = wide.topk(TOP)
        steps.append((top.indices, (top.values - wide.mean()) / wide.std()))
        return scores

    with torch.inference_mode(), pinned(settings.sdpa_kernel):
        output = reader.model.generate(**tensors, logits_processor=[note])
    ids = output[0, tensors["input_ids"].shape[1] :].tolist()
    text = reader.builder.tokenizer.decode(ids, skip_special_tokens=True)
    logits = torch.stack([values for _, values in steps])
    top_ids = torch.stack([indices for indices, _ in steps]).tolist()
    finite = bool(logits.isfinite().all())
    return Generation(
        tuple(ids), text, tuple(map(tuple, top_ids)), tuple(map(tuple, logits.nan_to_num().tolist())), finite
    )


def _finding(settings: Settings, outcome: Outcome, reference: Generation) -> Finding:
    blank = Finding(settings.dtype, settings.attn_implementation, settings.sdpa_kernel, "crashed", outcome.reason)
    if outcome.kind == "timeout":
        return replace(blank, verdict="timed out", seconds=outcome.seconds)
    if outcome.fatal:
        return replace(blank, seconds=outcome.seconds)
    if not outcome.ok:
        return replace(blank, verdict="unsupported", seconds=outcome.seconds)
    verdict, reason, numbers = compare(outcome.value, reference, ROUNDING[settings.dtype], settings.weights == "dummy")
    return replace(blank, verdict=verdict, reason=reason, seconds=outcome.seconds, **numbers)


# Do two greedy generations agree as far as they share a prefix, and does either stammer?


Agreement = Literal["same text", "within rounding", "faulty"]
TOP = 16


@dataclass(frozen=True)
class Generation:
    """A greedy generation: tokens, text, and at each step the highest logits in standard deviations from their mean."""

    tokens: tuple[int, ...]
    text: str
    top_ids: tuple[tuple[int, ...], ...]
    top_logits: tuple[tuple[float, ...], ...]
    finite: bool


def compare(
    found: Generation, reference: Generation, bound: float, text_means_nothing: bool = False
) -> tuple[Agreement, str, dict[str, Any]]:
    """Return verdict, reason and the finding's numbers for a generation against the reference."""
    pairs = zip(found.tokens, reference.tokens, strict=False)
    shared = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(found.tokens), len(reference.tokens)))
    parted = None if found.tokens == reference.tokens else shared
    error = max((_difference(found, reference, i) for i in range(min(shared + 1, len(found.tokens)))), default=0.0)
    numbers: dict[str, Any] = {
        "tokens": len(found.tokens), "parted_at": parted, "error": error, "bound": bound,
        "doubled": doubled_words(found.text), "run": longest_run(found.tokens),
    }  # fmt: skip
    if not found.finite:
        return "faulty", "its logits hold NaN or inf", numbers | {"error": None}
    if error > bound:
        where = "" if parted is None else f", and the text parts at token {parted}"
        return "faulty", f"a logit is {error:.2g} deviations off, where rounding explains {bound:.2g}{where}", numbers
    if not text_means_nothing and numbers["doubled"] > doubled_words(reference.text):
        return (
            "faulty",
            f"{numbers['doubled']} words are doubled, {doubled_words(reference.text)} by reference",
            numbers,
        )
    if not text_means_nothing and numbers["run"] > max(8, 2 * longest_run(reference.tokens)):
        return "faulty", f"one token is repeated {numbers['run']} times on end", numbers
    if parted is None:
        return "same text", "", numbers
    return "within rounding", f"another token at {parted}, where rounding explains it", numbers


def doubled_words(text: str) -> int:
    """Return how many words of three letters or more follow themselves, as in `the the`."""
    words = [word for word in re.findall(r"\w+", text.lower()) if len(word) > 2]
    return sum(a == b for a, b in pairwise(words))


def longest_run(tokens: tuple[int, ...]) -> int:
    """Return the longest run of one token, 0 for none."""
    return max((len(list(group)) for _, group in groupby(tokens)), default=0)


def _difference(found: Generation, reference: Generation, step: int) -> float:
    """Return the largest difference at a step over the reference's highest tokens.

    A token that fell out of the highest counts with the lowest of them.
    """
    if step >= len(reference.top_ids):
        return 0.0
    mine = dict(zip(found.top_ids[step], found.top_logits[step], strict=True))
    lowest = min(found.top_logits[step])
    theirs = zip(reference.top_ids[step], reference.top_logits[step], strict=True)
    return max(abs(mine.get(token, min(lowest, value)) - value) for token, value in list(theirs)[: TOP // 2])


# What the machine answered, to look at: the probe matrix, which build runs on which card, the canary's findings.


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
