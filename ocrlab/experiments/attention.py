"""How far a setting's numbers are from float32: one pass over prompt, image and the reference's answer, page by page.

The answer is forced, so that every setting is asked the same at every position and errors do not compound. One pass
runs the vision tower and the kernels of the prefill; those that decode token by token are the canary's to judge.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import psutil
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter
from PIL import Image
from tqdm.auto import tqdm

from ocrlab.experiments.machine import in_short
from ocrlab.machine.attention import kernel_name, pinned, profiler
from ocrlab.machine.describe import choose_device
from ocrlab.machine.worker import Worker
from ocrlab.pages import Page
from ocrlab.reading.isolated import attempt, reader_here
from ocrlab.reading.limits import score_bytes
from ocrlab.reading.quarantine import held_in_quarantine
from ocrlab.reading.reader import Reader, in_this_process
from ocrlab.reading.settings import Settings
from ocrlab.scoring.outcomes import Status
from ocrlab.study.plots import COLOURS, GREY, blank_figure

if TYPE_CHECKING:
    import pandas as pd
    import torch


NUMBERS = (
    "image_tokens", "positions", "kl_mean", "kl_max", "logit_error", "logit_error_sd", "same_argmax", "parted_at",
    "weight_bytes",
)  # fmt: skip


def reference_of(settings: Settings) -> Settings:
    """Return the settings that the others are held against: the same in float32, SDPA's math kernel, read greedily."""
    return replace(
        settings, dtype="float32", quantization=None, attn_implementation="sdpa", sdpa_kernel="math", do_sample=False,
        temperature=None, top_p=None, top_k=None, num_beams=1, compile=False, cache_implementation=None, batch_size=1,
    )  # fmt: skip


def measure_fidelity(
    runs: Sequence[Settings], pages: Sequence[Page], *, prepare: Prepare | None = None, timeout_s: float = 600,
    worker: Worker | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Return one line a setting × page: every setting, how far its logits are from the reference's, status and reason.

    `kl_mean` and `kl_max` are KL(reference || setting) of the next token over the answer's positions, in nats;
    `logit_error` is the largest difference of a logit, `logit_error_sd` the same in standard deviations of its step;
    `same_argmax` is the share of positions where both put the same token first, `parted_at` the first where they do
    not; `reference` is the reference's own status. All run in a process that may die (`worker`, where one is given);
    `prepare` is called in it before each but the references: tests plant their faults with it.
    """
    import pandas as pd

    exact = list(dict.fromkeys(reference_of(settings) for settings in runs))
    with (
        tempfile.TemporaryDirectory() as folder,
        nullcontext(worker) if worker else Worker() as process,
        tqdm(total=(len(exact) + len(runs)) * len(pages), desc="fidelity", unit="pass") as bar,
    ):
        known: dict[tuple[Settings, str], _Reference] = {}
        for settings in exact:
            for page in pages:
                file = Path(folder) / f"{len(known)}.npz"
                _, status, reason = attempt(process, keep_reference, settings, page, file, timeout_s=timeout_s)
                known[settings, page.id] = _Reference(file, status, reason)
                bar.update()
        lines = []
        for settings in runs:
            for page in pages:
                reference = known[reference_of(settings), page.id]
                lines.append(_line(process, settings, page, reference, prepare, timeout_s))
                bar.update()
    return pd.DataFrame(lines)


class _Reference(NamedTuple):
    file: Path
    status: Status
    reason: str


def _line(
    process: Worker, settings: Settings, page: Page, reference: _Reference, prepare: Prepare | None, timeout_s: float
) -> dict[str, Any]:
    found: dict[str, Any] | None = None
    status, reason = reference.status, f"its reference in float32: {reference.reason}"
    if held := held_in_quarantine(settings):
        status, reason = "unsupported", held
    elif reference.status == "ok":
        found, status, reason = attempt(
            process, distance_here, settings, page, reference.file, prepare, timeout_s=timeout_s
        )
    asked = settings.as_dict() | {"page": page.id, "reference": reference.status}
    return asked | dict.fromkeys(NUMBERS) | {"status": status, "reason": reason} | (found or {})


# A page with a given answer through a model in one pass: the logits at every position, and how far two of them are.


Prepare = Callable[[], None]
_BLOCK = 32  # positions compared at once: with 150,000 tokens in the vocabulary, some 40 MB a float64 copy


def keep_reference(settings: Settings, page: Page, file: Path) -> None:
    """Read a page greedily here and keep the answer's tokens and the logits of one pass over them in a file."""
    with tf32(False):  # cuDNN's convolutions use it by default, and the patches pass through one
        reader = in_this_process(reader_here(settings))
        tokens = answer_tokens(reader, page)
        logits, _ = forced_logits(reader, page, tokens)
    if not bool(logits.isfinite().all()):
        raise ArithmeticError("the reference's own logits hold NaN or infinity; see reader.trace_nonfinite(page)")
    np.savez(file, tokens=np.array(tokens), logits=logits.numpy())


def answer_tokens(reader: Reader, page: Page) -> list[int]:
    """Return the tokens of a page's answer as the reader's settings generate it, the end's token included."""
    import torch

    tensors = reader.tensors(page.open())
    with torch.inference_mode(), pinned(reader.settings.sdpa_kernel):
        output = reader.model.generate(**tensors)
    return [int(token) for token in output[0, tensors["input_ids"].shape[1] :]]


@contextmanager
def tf32(on: bool) -> Iterator[None]:
    """Let float32 products and convolutions use TF32 inside the block, or forbid it; other devices do not mind."""
    import torch

    places: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [place.allow_tf32 for place in places]
    for place in places:
        place.allow_tf32 = on
    try:
        yield
    finally:
        for place, was in zip(places, before, strict=True):
            place.allow_tf32 = was


def distance_here(settings: Settings, page: Page, file: Path, prepare: Prepare | None = None) -> dict[str, Any]:
    """Return the distances of a setting's logits here from the reference's in the file, and the weights' size."""
    import torch

    if prepare is not None:
        prepare()
    kept = np.load(file)
    reader = in_this_process(reader_here(settings))
    logits, image_tokens = forced_logits(reader, page, kept["tokens"].tolist())
    found = distance(logits, torch.from_numpy(kept["logits"]))
    return found | {"image_tokens": image_tokens, "weight_bytes": reader.weight_bytes}


def forced_logits(reader: Reader, page: Page, tokens: Sequence[int]) -> tuple[torch.Tensor, int]:
    """Return a page's logits at each position of a given answer, (tokens, vocabulary) in float32, and its image tokens.

    Row i is what the model says after the prompt and `tokens[:i]`.
    """
    import torch
    from torch.nn.functional import pad

    inputs = reader.builder.build([page.open()], reader.settings.prompt)
    tensors = dict(inputs.tensors)
    config = reader.model.config
    places = {config.image_token_id, config.video_token_id}  # random weights say them; in a prompt they ask for pixels
    answer = torch.tensor([[0 if token in places else token for token in tokens]])
    tensors["input_ids"] = torch.cat([tensors["input_ids"], answer], 1)
    tensors["attention_mask"] = torch.ones_like(tensors["input_ids"])
    tensors["mm_token_type_ids"] = pad(tensors["mm_token_type_ids"], (0, len(tokens)))
    tensors = {name: tensor.to(reader.device) for name, tensor in tensors.items()}
    with torch.inference_mode(), pinned(reader.settings.sdpa_kernel):
        output = reader.model(**tensors, use_cache=False, logits_to_keep=len(tokens) + 1)
    return output.logits[0, :-1].float().cpu(), inputs.image_tokens[0]


def distance(logits: torch.Tensor, reference: torch.Tensor) -> dict[str, Any]:
    """Return the distances of logits (positions, vocabulary) from the reference's, under the names of the rows.

    Logits that are not finite give the status invalid and no number.
    """
    import torch

    broken = int((~logits.isfinite().all(-1)).sum())
    if broken:
        reason = f"NaN or infinity among the logits of {broken} of {len(logits)} positions"
        return {"positions": len(logits), "status": "invalid", "reason": reason}
    divergences, errors, deviations = [], [], []
    for mine, theirs in zip(logits.split(_BLOCK), reference.split(_BLOCK), strict=True):
        mine, theirs = mine.double(), theirs.double()
        p, q = theirs.log_softmax(-1), mine.log_softmax(-1)
        divergences.append((p.exp() * (p - q)).sum(-1))
        errors.append((mine - theirs).abs().amax(-1))
        deviations.append(theirs.std(-1).clamp_min(1e-12))
    kl, error = torch.cat(divergences).clamp_min(0), torch.cat(errors)  # rounding may leave -1e-17 for 0
    same = logits.argmax(-1) == reference.argmax(-1)
    parted = (~same).nonzero()
    return {
        "positions": len(logits), "kl_mean": float(kl.mean()), "kl_max": float(kl.max()),
        "logit_error": float(error.max()), "logit_error_sd": float((error / torch.cat(deviations)).max()),
        "same_argmax": float(same.float().mean()), "parted_at": int(parted[0]) if len(parted) else None,
    }  # fmt: skip


# Ways of computing to look at: how far each is from float32, what it changes in the text, and its time by phase.


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


# How peak memory grows with the image: blank pages of chosen image tokens, one fresh process an attention.


_NUMBERS = ("image_tokens", "patches", "vision_heads", "peak_memory_bytes", "vision_s", "prefill_s")
_TOKENS = 2  # enough for the prompt's pass and one step
PATCHES_PER_TOKEN = 4
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def measure_growth(
    runs: Sequence[Settings], image_tokens: Sequence[int], *, memory_limit_bytes: int | None = None,
    exact: bool = False, timeout_s: float = 600,
) -> pd.DataFrame:  # fmt: skip
    """Return one line a setting × size: peak memory in bytes above the model at rest, seconds, status and reason.

    A blank page of nearly `image_tokens` tokens is read for two tokens; pixel limits are set to let it through. Sizes
    run upwards in one process a setting, so that an allocator's habits stay with the setting they belong to. On a CPU
    a process may hold `memory_limit_bytes` beyond its start, by default half of what is free; more is status oom.
    `exact` gives every larger piece of memory back to the system at once (glibc; others ignore it): the allocator
    otherwise keeps up to twice of what a small model really holds. It costs time, so speed is measured without it.
    """
    import pandas as pd

    lines: list[dict[str, Any]] = []
    with (
        tqdm(total=len(runs) * len(image_tokens), desc="growth", unit="page") as bar,
        Worker(_limit(runs, memory_limit_bytes)) as worker,
    ):
        for settings in runs:
            measured = False
            for count in sorted(image_tokens):
                found, status, reason = attempt(worker, peak_here, settings, count, exact, timeout_s=timeout_s)
                blank = dict.fromkeys(_NUMBERS) | {"asked_tokens": count, "status": status, "reason": reason}
                lines.append(settings.as_dict() | blank | (found or {}))
                measured = measured or found is not None
                bar.update()
            if measured:
                worker.close()  # the next setting starts in a fresh process
    return pd.DataFrame(lines)


def _limit(runs: Sequence[Settings], asked: int | None) -> int | None:
    """A quadratic attention must not take the machine down; a card refuses by itself."""
    if any(settings.device.startswith("cuda") for settings in runs) or choose_device("auto").value != "cpu":
        return None
    return asked or psutil.virtual_memory().available // 2


def peak_here(settings: Settings, count: int, exact: bool) -> dict[str, Any]:
    """Read a blank page of about so many image tokens here; return its numbers, or status and reason of its failure."""
    if exact:
        _give_memory_back_at_once()
    reader = in_this_process(reader_here(replace(settings, max_new_tokens=_TOKENS, min_new_tokens=None)))
    rows = math.isqrt(count)
    side = math.isqrt(reader.builder.cell_pixels)
    size = (count // rows * side, rows * side)
    reader = in_this_process(reader_here(replace(reader.settings, min_pixels=1, max_pixels=size[0] * size[1])))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "blank.png"
        Image.new("RGB", size, "white").save(file)
        reading = reader.read(Page(f"blank-{count}", file, "", "growth"))
    if reading.peak_memory_bytes is None:
        return {"status": reading.status, "reason": reading.reason}
    return {
        "image_tokens": reading.image_tokens, "patches": reading.image_tokens * PATCHES_PER_TOKEN,
        "vision_heads": int(reader.model.config.vision_config.num_heads),
        "peak_memory_bytes": reading.peak_memory_bytes, "vision_s": reading.vision_s, "prefill_s": reading.prefill_s,
    }  # fmt: skip


def _give_memory_back_at_once() -> None:
    """Fix glibc's thresholds for mapping and trimming, which otherwise rise with what was freed (`man mallopt`)."""
    with contextlib.suppress(OSError, AttributeError):
        allocator = ctypes.CDLL(None).mallopt
        for threshold, size in ((_M_MMAP_THRESHOLD, 65_536), (_M_TRIM_THRESHOLD, 131_072)):
            allocator(threshold, size)


def growth_exponents(growth: pd.DataFrame, largest: int = 3) -> pd.DataFrame:
    """Return for each `way` the exponent of memory over image tokens, fitted in log-log over its largest sizes.

    `low` and `high` are the slopes between neighbouring sizes there; `factor` makes bytes = factor × tokens ^ exponent.
    A way with fewer than two sizes has none, and keeps its reason.
    """
    import pandas as pd

    lines = []
    for way, mine in growth.groupby("way", sort=False):
        done = mine.dropna(subset=["peak_memory_bytes"]).sort_values("image_tokens").tail(largest)
        bad = mine[mine["peak_memory_bytes"].isna()]
        line: dict[str, Any] = {"way": way, "sizes": len(done)}
        if len(done) > 1:
            line |= fit_exponent(done["image_tokens"].tolist(), done["peak_memory_bytes"].tolist())
        lines.append(line | {"reason": "" if bad.empty else bad["reason"].iloc[0]})
    return pd.DataFrame(lines)


def fit_exponent(sizes: Sequence[float], values: Sequence[float]) -> dict[str, float]:
    """Return exponent and factor of values = factor × sizes ^ exponent, and the slopes' range between neighbours."""
    x, y = np.log(np.asarray(sizes, float)), np.log(np.asarray(values, float))
    exponent, constant = np.polyfit(x, y, 1)
    slopes = np.diff(y) / np.diff(x)
    return {
        "exponent": float(exponent), "low": float(slopes.min()), "high": float(slopes.max()),
        "factor": float(np.exp(constant)),
    }  # fmt: skip


def eager_limits(memory_gib: Sequence[float], heads: int = 16, cell_pixels: int = 784) -> pd.DataFrame:
    """Return at how many image tokens eager vision attention alone exceeds each memory: derived, not measured.

    heads × P² × 8 bytes with P = 4 × image tokens; the defaults are Qwen2-VL-2B's heads and its 28 × 28 pixels a token.
    """
    import pandas as pd

    score = score_bytes(Settings(attn_implementation="eager"), size=2, on_cpu=False)
    lines = []
    for memory in memory_gib:
        patches = math.isqrt(int(memory * 2**30) // (heads * score))
        tokens = patches // PATCHES_PER_TOKEN
        lines.append({"memory_gib": memory, "image_tokens": tokens, "megapixels": tokens * cell_pixels / 1e6})
    return pd.DataFrame(lines)


# How near a limit is: memory that grows with the image, and the bits that are left before float16 ends.


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


# Which SDPA kernels a reading really called: torch's profiler counts them, whatever the settings say.


KERNELS = ("math", "flash", "efficient", "cudnn")


def count_kernels(
    runs: Sequence[Settings], page: Page, *, new_tokens: int = 4, timeout_s: float = 600, worker: Worker | None = None
) -> pd.DataFrame:
    """Return one line a setting: its calls of each SDPA kernel in one reading of at most `new_tokens` tokens.

    The columns are every setting, math, flash, efficient, cudnn, `fused` (their sum without math), `took` in words,
    status and reason; counts are empty where the setting cannot run. A vision layer calls once an image, a text layer
    once for the prompt and once a token.
    """
    import pandas as pd

    lines = []
    with nullcontext(worker) if worker else Worker() as process:
        for settings in runs:
            short = replace(settings, max_new_tokens=new_tokens, min_new_tokens=None)
            found, status, reason = attempt(process, kernels_here, short, page, timeout_s=timeout_s)
            blank = dict.fromkeys((*KERNELS, "fused")) | {"took": "", "status": status, "reason": reason}
            lines.append(settings.as_dict() | blank | (found or {}))
    return pd.DataFrame(lines)


def kernels_here(settings: Settings, page: Page) -> dict[str, Any]:
    """Return how often a reading of the page here called each SDPA kernel, or status and reason of its failure."""
    import torch

    reader = in_this_process(reader_here(settings))
    with profiler(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        reading = reader.read(page)
    if not reading.tokens and reading.status != "empty":
        return {"status": reading.status, "reason": reading.reason}
    counts = dict.fromkeys(KERNELS, 0)
    for event in profile.key_averages():
        if name := kernel_name(event.key):
            counts[name] += event.count
    took = ", ".join(f"{name} × {count}" for name, count in counts.items() if count) or "none"
    return counts | {"fused": sum(counts.values()) - counts["math"], "took": took}
