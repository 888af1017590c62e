"""The canary: read a long page greedily in every dtype and attention, and hold each against the float32 math kernel.

Some faults show only after hundreds of tokens: cuDNN's SDPA on a B200 doubled words in text of the Qwen2 family
(pytorch/pytorch#193893). Two ways that share a prefix must agree in their logits up to what rounding explains, so the
comparison ends where the texts part; doubled words and runs of one token are counted over the whole text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from ocrlab.machine.describe import choose_device, choose_dtype
from ocrlab.machine.kernels import pinned
from ocrlab.machine.quarantine import Way, judge_ways, reason_against
from ocrlab.machine.worker import Outcome, Worker
from ocrlab.pages import Page
from ocrlab.reading.address import is_endpoint
from ocrlab.reading.isolated import reader_here
from ocrlab.reading.settings import Settings
from ocrlab.study.divergence import TOP, Generation, compare

if TYPE_CHECKING:
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
    def way(self) -> Way:
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
                judge_ways({finding.way: f"{finding.reason} ({settings.model_id})" if bad else None})
            yield finding


def generate(settings: Settings, page: Page, prepare: Prepare | None = None) -> Generation:
    """Read a page greedily here and note each step's logits; the model stays loaded for the next setting."""
    import torch

    if prepare is not None:
        prepare()
    reader = reader_here(settings)
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


def held_in_quarantine(settings: Settings) -> str | None:
    """Return why the canary holds a setting on this machine, or None; experiments refuse one that it holds."""
    if is_endpoint(settings.model_id):
        return None  # its kernels are not this machine's
    try:
        dtype = choose_dtype(settings.dtype, choose_device(settings.device).value).value
    except ValueError:
        return None  # no such device: loading says so
    return reason_against((dtype, settings.attn_implementation, settings.sdpa_kernel))
