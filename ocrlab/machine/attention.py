"""Every attention that a reading may ask for, and each kernel tried in each dtype against a float64 reference."""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ocrlab.machine.worker import Outcome, Worker

if TYPE_CHECKING:
    from torch import Tensor

Attention = Callable[["Tensor", "Tensor", "Tensor", "Tensor | None", bool], "Tensor"]


def eager(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """Plain products as transformers' eager attention has them: scores in the dtype, softmax in float32."""
    import torch

    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    if causal:
        mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return scores.softmax(-1, dtype=torch.promote_types(torch.float32, scores.dtype)).to(q.dtype) @ v


def sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """torch's scaled_dot_product_attention, with whatever kernel it chooses in the caller's context."""
    import torch

    return torch.nn.functional.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=q.shape[1] != k.shape[1]
    )


def flex_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """torch's FlexAttention: compiled on CUDA, its unfused form elsewhere."""
    import torch
    from torch.nn.attention import flex_attention as flex

    def allowed(batch: Any, _head: Any, row: Any, column: Any) -> Any:
        seen = row >= column if causal else column >= 0
        return seen if mask is None else seen & mask[batch, 0, row, column]

    blocks = flex.create_block_mask(allowed, q.shape[0], None, q.shape[-2], k.shape[-2], device=q.device)
    call: Any = torch.compile(flex.flex_attention) if q.is_cuda else flex.flex_attention
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "flex_attention called without torch.compile")  # meant, off CUDA
        return call(q, k, v, block_mask=blocks, enable_gqa=q.shape[1] != k.shape[1])


def _flash(function: Callable[[], Any]) -> Attention:
    def call(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        kernel = function()
        if mask is not None:
            raise NotImplementedError("takes no mask: transformers unpads the batch for it instead")
        output = kernel(*(t.transpose(1, 2) for t in (q, k, v)), causal=causal)
        return (output[0] if isinstance(output, tuple) else output).transpose(1, 2)

    return call


def _from_hub() -> Any:
    """Return `kernels-community/flash-attn2` from the local Hub cache; it is never downloaded here."""
    return importlib.import_module("kernels").get_kernel("kernels-community/flash-attn2").flash_attn_func


ATTENTIONS: dict[str, Attention] = {
    "eager": eager,
    "sdpa": sdpa,
    "flash_attention_2": _flash(lambda: importlib.import_module("flash_attn").flash_attn_func),
    "flash_attention_3": _flash(lambda: importlib.import_module("flash_attn_interface").flash_attn_func),
    "flash_attention_4": _flash(lambda: importlib.import_module("flash_attn.cute").flash_attn_func),
    "hub_kernel": _flash(_from_hub),
    "flex_attention": flex_attention,
}


def attention(name: str) -> Attention:
    """Return an attention by name, or the function at a dotted path (which is how tests plant a corrupt one)."""
    return ATTENTIONS.get(name) or pkgutil.resolve_name(name)


def pinned(kernel: str | None) -> Any:
    """Return a context in which SDPA may use one kernel alone, or any when none is named."""
    if kernel is None:
        return nullcontext()
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return sdpa_kernel([getattr(SDPBackend, kernel.upper() + ("" if kernel == "math" else "_ATTENTION"))])


def profiler(**options: Any) -> Any:
    """Return `torch.profiler.profile(**options)` without the lines that it prints at every start."""
    import torch

    os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # read when the first profile of a process begins
    return torch.profiler.profile(**options)


def kernel_name(event: str) -> str:
    """Return the SDPA kernel that an operator's name in the profiler belongs to; empty for another operator."""
    found = re.search("_product_(?:({0})_attention|attention_({0}))".format("|".join(SDPA_KERNELS)), event)
    return next(filter(None, found.groups()), "") if found else ""


SDPA_KERNELS = ("math", "flash", "efficient", "cudnn")
DTYPES = ("float32", "bfloat16", "float16")
# (batch, query heads, key heads, query tokens, key tokens, width): Qwen2-VL-2B's own, on a page of 256 image tokens.
_SHAPES = {
    "vision": (1, 16, 16, 1024, 1024, 80),
    "prefill": (1, 12, 2, 512, 512, 128),
    "padded": (2, 12, 2, 512, 512, 128),
    "decode": (1, 12, 2, 1, 512, 128),
}
CASES = tuple(_SHAPES)
_PADDING = 100
_BLANK = {"verdict": "", "reason": "", "error": None, "bound": None, "took": "", "seconds": 0.0}
_REMEDIES = {
    "flash_attention_2": "use sdpa: wheels end at torch 2.8, and Windows has none; else it is a source build",
    "flash_attention_3": "it is built from source and for Hopper; use sdpa",
    "flash_attention_4": "pip install flash-attn-4 (beta), or use sdpa",
    "hub_kernel": "pip install kernels, and fetch kernels-community/flash-attn2 once while online; or use sdpa",
}


@dataclass(frozen=True)
class Probe:
    """One launch: an attention, for sdpa the kernel it is pinned to (None: its own choice), dtype, case, device."""

    attention: str
    kernel: str | None
    dtype: str
    case: str
    device: str = "cpu"


def all_probes(device: str, dtypes: Sequence[str] = DTYPES) -> list[Probe]:
    """Return every attention × kernel × dtype × case for a device."""
    variants = [(name, None) for name in ATTENTIONS] + [("sdpa", kernel) for kernel in SDPA_KERNELS]
    return [Probe(name, kernel, dtype, case, device) for name, kernel in variants for dtype in dtypes for case in CASES]


def run_probes(probes: Sequence[Probe], timeout_s: float = 120) -> Iterator[dict[str, Any]]:
    """Yield each probe as a row with what it showed; a probe that kills its process costs that row only.

    `verdict` is works, wrong, unsupported, not installed, crashed or timed out, with the reason unless it works.
    `error` is the relative error (Frobenius norm) to float64, `bound` what rounding explains; `took` names the kernel
    that ran, as the profiler saw it.
    """
    with Worker() as worker:
        for probe in probes:
            outcome = worker.call(launch, probe, timeout_s=timeout_s)
            shown = outcome.value if outcome.ok else _failure(probe, outcome)
            yield asdict(probe) | _BLANK | shown | {"seconds": outcome.seconds}


def _failure(probe: Probe, outcome: Outcome) -> dict[str, str]:
    if outcome.fatal:
        return {"verdict": "timed out" if outcome.kind == "timeout" else "crashed", "reason": outcome.reason}
    missing = outcome.reason.startswith(("ModuleNotFoundError", "ImportError"))
    reason = f"{outcome.reason[:300]}; {_REMEDIES.get(probe.attention, 'use sdpa, or eager')}"
    return {"verdict": "not installed" if missing else "unsupported", "reason": reason}


def launch(probe: Probe) -> dict[str, Any]:
    """Run a probe here and return verdict, error, bound and the kernel that ran; raise what the kernel raises."""
    import torch

    q, k, v, mask, causal, rows = _inputs(probe)
    there: list[Any] = [t if t is None else t.to(probe.device) for t in (q, k, v, mask)]
    with torch.inference_mode(), pinned(probe.kernel), profiler() as profile:
        output = attention(probe.attention)(there[0], there[1], there[2], there[3], causal).double().cpu()
    expected = eager(q.double(), k.double(), v.double(), mask, causal)[rows]  # last: most launches fail before it
    output = output[rows]
    error, bound = float((output - expected).norm() / expected.norm()), 8 * torch.finfo(q.dtype).eps
    took = ", ".join(sorted({kernel_name(e.key) for e in profile.key_averages()} - {""}))
    found = {"error": error, "bound": bound, "took": took, "verdict": "works"}
    if not output.isfinite().all():
        return found | {"verdict": "wrong", "error": None, "reason": "its output has values that are not finite"}
    if error > bound:
        reason = f"relative error {error:.2g}, where rounding explains {bound:.2g}"
        return found | {"verdict": "wrong", "reason": reason}
    return found


def _inputs(probe: Probe) -> tuple[Any, Any, Any, Any, bool, Any]:
    """Return q, k, v in the dtype, mask, causal, and which output rows count (padding's do not)."""
    import torch

    batch, heads, key_heads, queries, keys, width = _SHAPES[probe.case]
    generator = torch.Generator().manual_seed(0)
    dtype = getattr(torch, probe.dtype)
    q = torch.randn(batch, heads, queries, width, generator=generator).to(dtype)
    k, v = (torch.randn(batch, key_heads, keys, width, generator=generator).to(dtype) for _ in range(2))
    rows = torch.ones(batch, heads, queries, dtype=torch.bool)
    if probe.case != "padded":
        return q, k, v, None, probe.case == "prefill", rows
    real = torch.ones(batch, keys, dtype=torch.bool)
    real[0, :_PADDING] = False  # left padding, as batches need it
    mask = torch.ones(queries, keys, dtype=torch.bool).tril() & real[:, None, None, :]
    rows[0, :, :_PADDING] = False
    return q, k, v, mask, False, rows
