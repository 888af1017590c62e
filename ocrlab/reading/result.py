"""What came of a reading: the text, how it ended, what it cost; and which status an exception means."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from ocrlab.machine.worker import kind_of
from ocrlab.scoring.outcomes import STATUSES, Status

#: How this package reads: raise it where the same page, settings and weights may now give another text or status.
#: It covers how pages are opened and resized, what the model is given, how it generates, and how a reading is judged.
#: A test holds the texts of each version, and fails where they change and this number does not.
READING_VERSION = 1

# What torch and transformers say where a kernel or an attention does not exist for a device, dtype or model.
_NO_SUCH_KERNEL = ("No viable backend for", "No available kernel", "does not support an attention implementation")
FIXED_LENGTH: tuple[Status, str] = ("ok", "length fixed by min_new_tokens: a speed row, not a reading")


@dataclass(frozen=True)
class Reading:
    """One page read once. Times in seconds, memory in bytes, tokens as counts; None where not measured.

    In a batch, times of phases are the batch's, `page_s` is the batch's time over its pages, memory the batch's.
    `resident_bytes` is what the whole process holds afterwards, where it is an isolated one.
    `prepare_s` is the work of opening the pages, `wait_s` what the model waited for it, `generate_s` the whole call of
    `generate`; `page_s` counts the last two. `retried` says in words that the page was read otherwise than asked;
    `blank` that its image shows nothing.
    """

    page: str
    text: str
    status: Status
    reason: str
    stop_reason: str = ""
    tokens: int = 0
    image_tokens: int = 0
    prompt_tokens: int = 0
    prepare_s: float | None = None
    wait_s: float | None = None
    generate_s: float | None = None
    vision_s: float | None = None
    prefill_s: float | None = None
    decode_s: float | None = None
    ttft_s: float | None = None
    tpot_s: float | None = None
    page_s: float | None = None
    tokens_per_second: float | None = None
    peak_memory_bytes: int | None = None
    reserved_memory_bytes: int | None = None
    resident_bytes: int | None = None
    batch_pages: int = 1
    blank: bool | None = None
    retried: str = ""
    token_ids: tuple[int, ...] = field(default=(), repr=False)

    def measured(self) -> dict[str, Any]:
        """Return what was measured, without page, text and outcome."""
        others = {"page", "text", "status", "reason", "token_ids"}
        return {name: value for name, value in asdict(self).items() if name not in others}


def failed(page: str, error: BaseException) -> Reading:
    """Return the reading of a page that raised."""
    return Reading(page, "", *status_of(error))


def status_of(error: BaseException) -> tuple[Status, str]:
    """Return an exception's status and its reason in words; one with its own `status` keeps it."""
    own = getattr(error, "status", None)
    if own in STATUSES:
        return own, str(error)
    text = " ".join(str(error).split()) or type(error).__name__
    name = type(error).__name__
    if kind_of(f"{name}: {text}") == "oom":
        return "oom", f"out of memory: {text[:300]}; lower max_pixels or batch_size, or use sdpa"
    if "probability tensor contains" in text:
        return "invalid", f"the logits held NaN or inf when sampling: {text[:200]}"
    if name in {"Unsupported", "CheckpointError"} or isinstance(error, NotImplementedError):
        return "unsupported", text[:500]
    if any(sign in text for sign in _NO_SUCH_KERNEL):
        return "unsupported", f"{text[:300]}; use attn_implementation='sdpa' without a pinned kernel, or eager"
    if isinstance(error, TimeoutError):
        return "timeout", text[:300]
    if name == "PageError":
        return "error", text[:500]
    return "error", f"{name}: {text[:500]}"
