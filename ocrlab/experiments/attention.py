"""How far a setting's numbers are from float32: one pass over prompt, image and the reference's answer, page by page.

Every setting is given the reference's answer (teacher forcing), so that all are asked the same at every position and
errors do not compound. One pass runs the vision tower and the kernels of the prefill; those that decode token by token
are the canary's to judge.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from ocrlab.machine.attention import SDPA_KERNELS, pinned
from ocrlab.machine.hardware import tf32
from ocrlab.machine.worker import Worker
from ocrlab.pages import Page
from ocrlab.reading.inputs import open_for
from ocrlab.reading.isolated import attempt, reader_here
from ocrlab.reading.page_reader import held_in_quarantine
from ocrlab.reading.reader import Reader, in_this_process
from ocrlab.reading.settings import Settings
from ocrlab.scoring.outcomes import Status
from ocrlab.study.plots import COLOURS, GREY, blank_figure

if TYPE_CHECKING:
    import pandas as pd
    import torch


#: Called in the worker before a measurement: tests plant their faults with it.
Prepare = Callable[[], None]
ATTENTIONS = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flash_attention_4", "flex_attention")
_DISTANCES = ("kl_mean", "kl_max", "logit_error", "logit_error_sd", "same_argmax", "first_difference")
_NUMBERS = ("image_tokens", "positions", *_DISTANCES, "weight_bytes")
_TIMEOUT_S = 600
_BLOCK = 32  # positions compared at once: with 150,000 tokens in the vocabulary, some 40 MB per float64 copy


def all_variants(base: Settings, dtypes: Iterable[str]) -> list[Settings]:
    """Return `base` in every dtype and attention, SDPA also pinned to each of its kernels."""
    return [
        replace(base, dtype=dtype, attn_implementation=attention, sdpa_kernel=kernel)  # type: ignore[arg-type]
        for dtype in dtypes
        for attention in ATTENTIONS
        for kernel in ((None, *SDPA_KERNELS) if attention == "sdpa" else (None,))
        if not (attention.startswith("flash_attention") and dtype == "float32")
    ]


def reference_of(settings: Settings) -> Settings:
    """Return the settings that the others are held against: the same in float32, SDPA's math kernel, read greedily."""
    greedy = replace(settings, do_sample=False, temperature=None, top_p=None, top_k=None, num_beams=1, batch_size=1)
    plain = replace(greedy, compile=False, cache_implementation=None, quantization=None)
    return replace(plain, dtype="float32", attn_implementation="sdpa", sdpa_kernel="math")


def measure_fidelity(
    runs: Sequence[Settings], pages: Sequence[Page], worker: Worker, prepare: Prepare | None = None
) -> pd.DataFrame:
    """Return one line per setting and page: every setting, how far its logits are from the reference's, status, reason.

    `kl_mean` and `kl_max` are KL(reference || setting) of the next token over the answer's positions, in nats;
    `logit_error` is the largest difference of a logit, `logit_error_sd` the same in standard deviations of its step;
    `same_argmax` is the share of positions where both put the same token first, `first_difference` the first where
    they do not; `reference` is the reference's own status. All run in the worker, which may die; `prepare` is called
    in it before each but the references.
    """
    import pandas as pd

    known: dict[tuple[Settings, str], tuple[Path, Status, str]] = {}
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        exact = dict.fromkeys(reference_of(settings) for settings in runs)
        for settings, page in tqdm(list(product(exact, pages)), desc="references", unit="pass"):
            file = Path(folder) / f"{len(known)}.npz"
            _, status, reason = attempt(worker, keep_reference, settings, page, file, timeout_s=_TIMEOUT_S)
            known[settings, page.id] = file, status, reason
        for settings, page in tqdm(list(product(runs, pages)), desc="fidelity", unit="pass"):
            file, status, reason = known[reference_of(settings), page.id]
            line = settings.as_dict() | {"page": page.id, "reference": status} | dict.fromkeys(_NUMBERS)
            found: dict[str, Any] | None = None
            if held := held_in_quarantine(settings):
                status, reason = "unsupported", held
            elif status == "ok":
                call = (distance_here, settings, page, file, prepare)
                found, status, reason = attempt(worker, *call, timeout_s=_TIMEOUT_S)
            else:
                reason = f"its reference in float32: {reason}"
            lines.append(line | {"status": status, "reason": reason} | (found or {}))
    return pd.DataFrame(lines)


# A page with a given answer through a model in one pass: the logits at every position, and how far two of them are.


def keep_reference(settings: Settings, page: Page, file: Path) -> None:
    """Read a page greedily here and keep the answer's tokens and the logits of one pass over them in a file."""
    with tf32(False):  # cuDNN's convolutions use it by default, and the patches pass through one
        reader = in_this_process(reader_here(settings))
        tokens = reader.generate(page)
        logits, _ = teacher_forced_logits(reader, page, tokens)
    if not bool(logits.isfinite().all()):
        raise ArithmeticError("the reference's own logits hold NaN or infinity; see reader.trace_nonfinite(page)")
    np.savez(file, tokens=np.array(tokens), logits=logits.numpy())


def distance_here(settings: Settings, page: Page, file: Path, prepare: Prepare | None = None) -> dict[str, Any]:
    """Return the distances of a setting's logits here from the reference's in the file, and the weights' size."""
    import torch

    if prepare is not None:
        prepare()
    kept = np.load(file)
    reader = in_this_process(reader_here(settings))
    logits, image_tokens = teacher_forced_logits(reader, page, kept["tokens"].tolist())
    found = distance(logits, torch.from_numpy(kept["logits"]))
    return found | {"image_tokens": image_tokens, "weight_bytes": reader.weight_bytes}


def teacher_forced_logits(reader: Reader, page: Page, tokens: Sequence[int]) -> tuple[torch.Tensor, int]:
    """Return a page's logits at each position of a given answer, (tokens, vocabulary) in float32, and its image tokens.

    Row i is what the model says after the prompt and `tokens[:i]`.
    """
    import torch
    from torch.nn.functional import pad

    inputs = reader.builder.build([open_for(reader.builder, page)], reader.settings.prompt)
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

    found: dict[str, Any] = {"positions": len(logits)}
    if broken := int((~logits.isfinite().all(-1)).sum()):
        reason = f"NaN or infinity among the logits of {broken} of {len(logits)} positions"
        return found | {"status": "invalid", "reason": reason}
    divergences, errors, deviations = [], [], []
    for mine, theirs in zip(logits.split(_BLOCK), reference.split(_BLOCK), strict=True):
        mine, theirs = mine.double(), theirs.double()
        p, q = theirs.log_softmax(-1), mine.log_softmax(-1)
        divergences.append((p.exp() * (p - q)).sum(-1))
        errors.append((mine - theirs).abs().amax(-1))
        deviations.append(theirs.std(-1).clamp_min(1e-12))
    kl, error = torch.cat(divergences).clamp_min(0), torch.cat(errors)  # rounding may leave -1e-17 for 0
    different = logits.argmax(-1) != reference.argmax(-1)
    found |= {"kl_mean": float(kl.mean()), "kl_max": float(kl.max())}
    found |= {"logit_error": float(error.max()), "logit_error_sd": float((error / torch.cat(deviations)).max())}
    first = int(different.nonzero()[0]) if different.any() else None
    return found | {"same_argmax": 1 - float(different.double().mean()), "first_difference": first}


# Variants to look at: how far each is from float32, what it changes in the text, and its time by phase.


def divergence_plot(fidelity: pd.DataFrame) -> Figure:
    """Return KL to float32 by variant on a log axis: a dot per page, median, quartiles, in grey what could not run.

    A page whose every logit is the reference's own has KL 0, which a log axis does not have: it is drawn, hollow, left
    of all others.
    """
    variants = list(dict.fromkeys(fidelity["variant"]))
    positive = fidelity["kl_mean"][fidelity["kl_mean"] > 0]
    zero = float(positive.min()) / 10 if len(positive) else 1e-16
    figure, axes = blank_figure(7.5, 1.0 + 0.36 * len(variants))
    for y, variant in enumerate(variants):
        mine = fidelity[fidelity["variant"] == variant]
        known = mine["kl_mean"].dropna().astype(float)
        if known.empty:
            axes.axhspan(y - 0.4, y + 0.4, color=GREY, alpha=0.25, lw=0)
            words = in_short(mine["status"].iloc[0], mine["reason"].iloc[0], most=80)
            axes.text(0.01, y, words, va="center", fontsize=7, transform=axes.get_yaxis_transform())
            continue
        colour, shown = COLOURS[y % len(COLOURS)], known.clip(lower=zero)
        faces = ["none" if value == 0 else colour for value in known]
        spread = np.linspace(-0.18, 0.18, len(known)) if len(known) > 1 else 0
        axes.scatter(shown, y + spread * np.ones(len(known)), s=14, facecolors=faces, edgecolors=colour)
        low, middle, high = np.percentile(shown, [25, 50, 75])
        ends = [[middle - low], [high - middle]]
        axes.errorbar(middle, y, xerr=ends, fmt="|", ms=16, mew=2, capsize=4, color="black")
    axes.set(xscale="log", ylim=(len(variants) - 0.5, -0.5), xlabel="KL(float32 || setting), nats per token, page mean")
    axes.set_xlim(zero / 2, max(float(positive.max()) * 3 if len(positive) else 1.0, zero * 10))
    if (fidelity["kl_mean"] == 0).any():
        axes.axvline(zero, color=GREY, lw=1, ls=":")
        axes.text(zero, len(variants) - 0.55, " KL 0", fontsize=7, color="#555555", va="bottom")
    axes.set_yticks(range(len(variants)), variants, fontsize=8)
    axes.set_title(f"{model_words(fidelity)}: a dot per page; median and quartiles", fontsize=9)
    return figure


def in_short(verdict: str, reason: str, most: int = 105) -> str:
    """Return verdict and the reason's first clause, without an exception's name, of at most `most` characters."""
    words = reason.split(": ", 1)[-1] if reason.split(":")[0].endswith(("Error", "Unsupported")) else reason
    words = words.split(";")[0].split(". ")[0].removesuffix(".")
    return f"{verdict}: {words[:most]}{'…' if len(words) > most else ''}"


def model_words(rows: pd.DataFrame) -> str:
    """Return the rows' model in a few words, for a title."""
    first = rows.dropna(subset=["model_id"]).iloc[0]
    return f"{first['model_id'].split('/')[-1]}{', random weights' if first.get('weights') == 'dummy' else ''}"


def fidelity_table(fidelity: pd.DataFrame) -> pd.DataFrame:
    """Return one line per variant: pages, KL over pages, the largest KL and logit error, how many positions agree."""
    import pandas as pd

    lines = []
    for variant, mine in fidelity.groupby("variant", sort=False):
        done, bad = mine.dropna(subset=["kl_mean"]), mine[mine["status"] != "ok"]
        line: dict[str, Any] = {"variant": variant, "pages": f"{len(done)} of {len(mine)}"}
        if len(done):
            low, middle, high = np.percentile(done["kl_mean"], [25, 50, 75])
            agree = float(np.average(done["same_argmax"], weights=done["positions"]))
            first = done["first_difference"].min()
            line |= {
                "KL, nats (quartiles over pages)": f"{middle:.2g} ({low:.2g} to {high:.2g})",
                "largest KL": f"{done['kl_max'].max():.2g}",
                "largest logit error (SD)": f"{done['logit_error'].max():.2g} ({done['logit_error_sd'].max():.2g})",
                "same first token": f"{agree:.2%} of {done['positions'].sum():.0f}",
                "first difference at": "nowhere" if pd.isna(first) else f"{first:.0f}",
            }
        line["problem"] = "" if bad.empty else in_short(*bad[["status", "reason"]].iloc[0])
        lines.append(line)
    return pd.DataFrame(lines).fillna("").set_index("variant")


_CONTRAST = {
    "pages": "{pages:.0f} of {of:.0f}",
    "same text": "{same_text:.0%}",
    "first letter that differs": "{first_difference:.0f}",
    "CER": "{cer:.2%} ({cer_low:.2%} to {cer_high:.2%})",
    "difference, CER points": "{difference:+.2f} ({low:+.2f} to {high:+.2f})",
}


def contrast_table(contrasts: pd.DataFrame) -> pd.DataFrame:
    """Return one line per variant, rounded: pages read, same text, CER with interval, verdict, what failed."""
    import pandas as pd

    lines = []
    for found in contrasts.to_dict("records"):
        known = {name: math.nan if value is None else value for name, value in found.items()}
        known |= {name: 100 * known[name] for name in ("difference", "low", "high")}
        cells = {name: words.format_map(known) for name, words in _CONTRAST.items()}
        line = {"variant": known["variant"]} | {name: "" if "nan" in words else words for name, words in cells.items()}
        verdict = known["kind"] or known["words"]
        line["verdict"] = verdict if isinstance(verdict, str) else ""
        line["problem"] = "" if known["status"] == "ok" else in_short(str(known["status"]), str(known["reason"]))
        lines.append(line)
    return pd.DataFrame(lines).set_index("variant")


def phases_plot(speed: pd.DataFrame) -> Figure:
    """Return vision, prefill and decode time against image tokens, one panel each and a line per variant.

    Medians with quartiles over a page's repetitions; what could not run is in the legend, grey, with its reason.
    """
    figure, panels = blank_figure(9.5, 3.6, ncols=3)
    for axes, phase in zip(panels, ("vision", "prefill", "decode"), strict=True):
        for i, (variant, mine) in enumerate(speed.groupby("variant", sort=False)):
            known = mine.dropna(subset=[f"{phase}_s"])
            if known.empty:
                words = in_short(mine["status"].iloc[0], mine["reason"].iloc[0], most=44)
                axes.plot([], [], color=GREY, lw=4, label=f"{variant}: {words}")
                continue
            by_size = (known[f"{phase}_s"] * 1000).groupby(known["image_tokens"])
            low, middle, high = (by_size.quantile(q) for q in (0.25, 0.5, 0.75))
            style: dict[str, Any] = {"marker": "os^Dv"[i % 5], "color": COLOURS[i % len(COLOURS)], "label": variant}
            ends = [middle - low, high - middle]
            axes.errorbar(middle.index, middle, yerr=ends, ms=5, lw=1.2, capsize=3, **style)
        axes.set(xlabel="image tokens", ylabel=f"{phase}, ms")
        axes.set_ylim(0, None)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, fontsize=8, frameon=False)
    return figure
