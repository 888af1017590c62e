"""Rows and findings by hand, written as a run writes them: what the ledger and the readiness checks are fed with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ocrlab.machine.describe import machine_name
from ocrlab.reading.settings import Settings
from ocrlab.study.records import RecordFile, keep_findings

Lines = list[dict[str, Any]]
Run = dict[str, Lines]

TWO_B = {"model_id": "Qwen/Qwen2-VL-2B-Instruct", "weights": "pretrained"}
CARD = {
    "gpu": "NVIDIA GeForce RTX 5070 Ti Laptop GPU", "compute_capability": "12.0", "gpu_memory_bytes": 11.94 * 2**30,
    "multiprocessors": 46, "power_limit_w": 115.0, "arch_list": ["sm_90", "sm_120"], "memory_bytes": 32 * 2**30,
}  # fmt: skip
CPU = {"gpu": None, "arch_list": [], "memory_bytes": 24 * 2**30}


def write_run(folder: Path, run: Run) -> Path:
    """Write tables by name (`findings/probes`, `rows/04-pixels`) into a run's folder."""
    for name, lines in run.items():
        part, own = name.split("/")
        if part == "findings":
            keep_findings(own, lines, folder)
            continue
        readings = RecordFile(folder / "readings" / f"{own}.jsonl")
        blank = {"asked": {}, "actual": {}, "text": "", "truth": None}  # not scored again: what is given is kept
        for number, line in enumerate(lines):
            given = {"experiment": own, "machine": machine_name()} | line
            readings.append({"key": f"{own} {number}", "status": "ok", **blank, "measured": given})
    return folder


def probe(attention: str = "eager", verdict: str = "works", **changes: Any) -> dict[str, Any]:
    blank = {"attention": attention, "kernel": None, "dtype": "bfloat16", "case": "vision", "verdict": verdict,
             "reason": "" if verdict == "works" else f"planted {verdict}"}  # fmt: skip
    return blank | changes


def contrast(variant: str, kind: str, pages: int = 8, **changes: Any) -> dict[str, Any]:
    low, high = {"worse": (0.02, 0.05), "better": (-0.05, -0.02)}.get(kind, (-0.001, 0.001))
    return TWO_B | {
        "variant": variant, "pages": pages, "of": 8, "kind": kind, "words": f"words of {kind}",
        "low": low, "high": high,
        "status": "ok" if pages == 8 else "invalid", "reason": "" if pages == 8 else "planted",
    } | changes  # fmt: skip


def fidelity(variant: str, kl: float | None, pages: int = 8, status: str = "ok") -> Lines:
    own = TWO_B | {"variant": variant, "kl_mean": kl, "reference": "ok", "status": status}
    return [own | {"page": f"p{i}", "reason": "" if status == "ok" else "NaN in logits"} for i in range(pages)]


def reading(page: int, **changes: Any) -> dict[str, Any]:
    """One row of a page with 100 letters."""
    own = Settings().as_dict() | TWO_B | {"dtype": "bfloat16", "max_pixels": 1003520}
    return own | {
        "page": f"p{page}", "set": "mine", "status": "ok", "reason": "", "repeat": 0, "actual_dtype": "bfloat16",
        "page_s": 1.0, "ttft_s": 0.5, "tpot_s": 0.01, "tokens": 50, "image_tokens": 1280, "cer_edits": 1,
        "cer_length": 100, "peak_memory_bytes": 2**30, "reserved_memory_bytes": None,
    } | changes  # fmt: skip


def readings(count: int = 24, **changes: Any) -> Lines:
    return [reading(i, **changes) for i in range(count)]


def speed(**page_s: float) -> Lines:
    """Speed rows of dtypes with sdpa: eight repetitions of one page."""
    return [
        TWO_B | {"dtype": dtype, "attn_implementation": "sdpa", "sdpa_kernel": None, "page": "p0", "repeat": n,
                 "page_s": seconds * (1 + n / 1000), "min_new_tokens": 8, "status": "ok", "reason": ""}
        for dtype, seconds in page_s.items() for n in range(8)
    ]  # fmt: skip


def load(cache: str, load_s: float = 1.0, **changes: Any) -> dict[str, Any]:
    return TWO_B | {
        "cache": cache, "load_s": load_s, "weight_bytes": 4_417_971_200, "prefill_bytes": 2**30, "decode_bytes": 2**29,
        "image_tokens": 1280, "tokens": 16, "dtype": "bfloat16", "device": "cuda", "status": "ok", "reason": "",
    } | changes  # fmt: skip
