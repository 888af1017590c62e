"""The canary: read a long page greedily in every dtype and attention, and hold each against the float32 math kernel.

Some faults show only after hundreds of tokens: cuDNN's SDPA on a B200 doubled words in text of the Qwen2 family
(pytorch/pytorch#193893). Two variants that share a prefix must agree in their logits up to what rounding explains, so
the comparison ends where the texts differ; doubled words and runs of one token are counted over the whole text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any, Literal

from ocrlab.machine.attention import SDPA_KERNELS
from ocrlab.machine.quarantine import Variant, judge
from ocrlab.machine.worker import Outcome, Worker
from ocrlab.pages import Page
from ocrlab.reading.isolated import reader_here
from ocrlab.reading.reader import in_this_process
from ocrlab.reading.settings import Settings

if TYPE_CHECKING:
    import torch


Verdict = Literal["same text", "within rounding", "faulty", "unsupported", "crashed", "timed out"]
#: Called in the worker before a measurement: tests plant their faults with it.
Prepare = Callable[[], None]

# About five times the most that healthy kernels showed on the embedded reader (LOG.md): 1e-5, 0.10 and 0.034.
#: The largest difference of a logit that rounding explains, in standard deviations of the step's logits.
ROUNDING = {"float32": 1e-4, "bfloat16": 0.5, "float16": 0.15}
ATTENTIONS = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flash_attention_4", "flex_attention")
_TIMEOUT_S = 600
_NUMBERS = {"tokens": 0, "first_difference": None, "error": None, "bound": None, "doubled": 0, "run": 0}


def all_variants(base: Settings, dtypes: Iterable[str]) -> list[Settings]:
    """Return `base` in every dtype and attention, SDPA also pinned to each of its kernels."""
    return [
        replace(base, dtype=dtype, attn_implementation=attention, sdpa_kernel=kernel)  # type: ignore[arg-type]
        for dtype in dtypes
        for attention in ATTENTIONS
        for kernel in ((None, *SDPA_KERNELS) if attention == "sdpa" else (None,))
        if not (attention.startswith("flash_attention") and dtype == "float32")
    ]


def run_canary(runs: Sequence[Settings], page: Page, prepare: Prepare | None = None) -> Iterator[dict[str, Any]]:
    """Yield a row for each setting, read in a process that may die; faulty ones are put into quarantine.

    `first_difference` is the first token that differs, None where none does; `error` is the largest difference of a
    logit up to there, `bound` what rounding explains, both in standard deviations of the step's logits; `doubled`
    counts words that follow themselves, `run` is the longest of one token.

    The reference (float32, sdpa, math) is read without `prepare`. Where it cannot be read, nothing is judged, and every
    row says why.
    """
    exact = replace(runs[0], dtype="float32", attn_implementation="sdpa", sdpa_kernel="math")
    with Worker() as worker:
        reference = worker.call(generate, exact, page, timeout_s=_TIMEOUT_S)
        for settings in runs:
            outcome = reference
            if reference.ok:
                outcome = worker.call(generate, settings, page, prepare, timeout_s=_TIMEOUT_S)
            finding = _finding(settings, outcome, reference.value)
            if reference.ok and finding["verdict"] in {"faulty", "same text", "within rounding", "crashed"}:
                bad = finding["verdict"] in {"faulty", "crashed"}
                judge({_variant(settings): f"{finding['reason']} ({settings.model_id})" if bad else None})
            yield finding


def generate(settings: Settings, page: Page, prepare: Prepare | None = None) -> Generation:
    """Read a page greedily here and note each step's logits; the model stays loaded for the next setting."""
    import torch

    if prepare is not None:
        prepare()
    reader = in_this_process(reader_here(settings))
    steps: list[tuple[torch.Tensor, torch.Tensor]] = []

    def note(_: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        wide = scores[0].float()
        top = wide.topk(TOP)
        steps.append((top.indices, (top.values - wide.mean()) / wide.std()))
        return scores

    ids = reader.generate(page, logits_processor=[note])
    text = reader.builder.tokenizer.decode(ids, skip_special_tokens=True)
    top_ids, logits = map(torch.stack, zip(*steps, strict=True))
    return Generation(ids, text, top_ids.tolist(), logits.nan_to_num().tolist(), bool(logits.isfinite().all()))


def _variant(settings: Settings) -> Variant:
    return settings.dtype, settings.attn_implementation, settings.sdpa_kernel


def _finding(settings: Settings, outcome: Outcome, reference: Generation) -> dict[str, Any]:
    verdict: Verdict
    if outcome.ok:
        bound = ROUNDING[settings.dtype]
        verdict, reason, numbers = compare(outcome.value, reference, bound, settings.weights == "dummy")
    else:
        verdict = "timed out" if outcome.kind == "timeout" else "crashed" if outcome.fatal else "unsupported"
        reason, numbers = outcome.reason, {}
    row = dict(zip(("dtype", "attn_implementation", "sdpa_kernel"), _variant(settings), strict=True))
    return row | {"verdict": verdict, "reason": reason} | _NUMBERS | numbers | {"seconds": outcome.seconds}


# Two greedy generations: how far they agree where they share a prefix, and what either repeats.


TOP = 16


@dataclass(frozen=True)
class Generation:
    """A greedy generation: tokens, text, and at each step the highest logits in standard deviations from their mean."""

    tokens: Sequence[int]
    text: str
    top_ids: Sequence[Sequence[int]]
    top_logits: Sequence[Sequence[float]]
    finite: bool


def compare(
    found: Generation, reference: Generation, bound: float, text_means_nothing: bool = False
) -> tuple[Verdict, str, dict[str, Any]]:
    """Return verdict, reason and the finding's numbers for a generation against the reference."""
    pairs = zip(found.tokens, reference.tokens, strict=False)
    shared = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(found.tokens), len(reference.tokens)))
    first = None if found.tokens == reference.tokens else shared
    error = max((_difference(found, reference, i) for i in range(min(shared + 1, len(found.tokens)))), default=0.0)
    doubled, run = doubled_words(found.text), longest_run(found.tokens)
    numbers: dict[str, Any] = {"tokens": len(found.tokens), "first_difference": first, "doubled": doubled, "run": run}
    if not found.finite:
        return "faulty", "its logits hold NaN or inf", numbers | {"bound": bound}
    numbers |= {"error": error, "bound": bound}
    if error > bound:
        where = "" if first is None else f", and the texts differ from token {first} on"
        return "faulty", f"a logit is {error:.2g} deviations off, where rounding explains {bound:.2g}{where}", numbers
    if not text_means_nothing and doubled > (expected := doubled_words(reference.text)):
        return "faulty", f"{doubled} words are doubled, {expected} in the reference", numbers
    if not text_means_nothing and run > max(8, 2 * longest_run(reference.tokens)):
        return "faulty", f"one token is repeated {run} times in a row", numbers
    if first is None:
        return "same text", "", numbers
    return "within rounding", f"another token at {first}, where rounding explains it", numbers


def doubled_words(text: str) -> int:
    """Return how many words of three letters or more follow themselves, as in `the the`."""
    words = [word for word in re.findall(r"\w+", text.lower()) if len(word) > 2]
    return sum(a == b for a, b in pairwise(words))


def longest_run(tokens: Sequence[int]) -> int:
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


def in_short(verdict: str, reason: str, most: int = 105) -> str:
    """Return verdict and the reason's first clause, without an exception's name, of at most `most` characters."""
    words = reason.split(": ", 1)[-1] if reason.split(":")[0].endswith(("Error", "Unsupported")) else reason
    words = words.split(";")[0].split(". ")[0].removesuffix(".")
    return f"{verdict}: {words[:most]}{'…' if len(words) > most else ''}"
