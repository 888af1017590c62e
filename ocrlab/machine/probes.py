"""Launch each attention kernel in each dtype, in a process that may die, and compare it with a float64 reference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from ocrlab.machine.kernels import ATTENTIONS, attention, eager, kernel_name, pinned, profiler
from ocrlab.machine.worker import Outcome, Worker

if TYPE_CHECKING:
    import torch

Verdict = Literal["works", "wrong", "unsupported", "not installed", "crashed", "timed out"]
Case = Literal["vision", "prefill", "padded", "decode"]

CASES: tuple[Case, ...] = ("vision", "prefill", "padded", "decode")
DTYPES = ("float32", "bfloat16", "float16")
SDPA_KERNELS = ("math", "flash", "efficient", "cudnn")
# (batch, query heads, key heads, query tokens, key tokens, width): Qwen2-VL-2B's own, on a page of 256 image tokens.
_SHAPES: dict[Case, tuple[int, int, int, int, int, int]] = {
    "vision": (1, 16, 16, 1024, 1024, 80),
    "prefill": (1, 12, 2, 512, 512, 128),
    "padded": (2, 12, 2, 512, 512, 128),
    "decode": (1, 12, 2, 1, 512, 128),
}
_PADDING = 100
_REMEDIES = {
    "flash_attention_2": "pip install flash-attn (wheels for Linux; from 2.8.0.post2 on with sm_120), or use sdpa",
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
    case: Case
    device: str = "cpu"


@dataclass(frozen=True)
class Result:
    """What a probe showed. `error` is the relative error (Frobenius norm) to float64, `bound` what rounding explains.

    `took` names the kernel that ran, as the profiler saw it.
    """

    probe: Probe
    verdict: Verdict
    reason: str = ""
    error: float | None = None
    bound: float | None = None
    took: str = ""
    seconds: float = 0.0

    def row(self) -> dict[str, Any]:
        """Return everything by name, flat."""
        return asdict(self.probe) | {k: v for k, v in asdict(self).items() if k != "probe"}


def all_probes(device: str, dtypes: Sequence[str] = DTYPES, cases: Sequence[Case] = CASES) -> list[Probe]:
    """Return every attention × kernel × dtype × case for a device."""
    ways = [(name, None) for name in ATTENTIONS] + [("sdpa", kernel) for kernel in SDPA_KERNELS]
    return [Probe(name, kernel, dtype, case, device) for name, kernel in ways for dtype in dtypes for case in cases]


def run_probes(probes: Sequence[Probe], timeout_s: float = 120) -> Iterator[Result]:
    """Yield each probe's result; a probe that kills its process costs that result only."""
    with Worker() as worker:
        for probe in probes:
            yield _result(probe, worker.call(launch, probe, timeout_s=timeout_s))


def _result(probe: Probe, outcome: Outcome) -> Result:
    if outcome.ok:
        return Result(**outcome.value, probe=probe, seconds=outcome.seconds)
    if outcome.kind == "timeout":
        return Result(probe, "timed out", outcome.reason, seconds=outcome.seconds)
    if outcome.fatal:
        return Result(probe, "crashed", outcome.reason, seconds=outcome.seconds)
    remedy = _REMEDIES.get(probe.attention, "use sdpa, or eager")
    missing = outcome.reason.startswith(("ModuleNotFoundError", "ImportError"))
    verdict: Verdict = "not installed" if missing else "unsupported"
    return Result(probe, verdict, f"{outcome.reason[:300]}; {remedy}", seconds=outcome.seconds)


def launch(probe: Probe) -> dict[str, Any]:
    """Run a probe here and return verdict, error, bound and the kernel that ran; raise what the kernel raises."""
    import torch

    q, k, v, mask, causal, rows = _inputs(probe)
    expected = eager(q.double(), k.double(), v.double(), mask, causal)
    there: list[Any] = [t if t is None else t.to(probe.device) for t in (q, k, v, mask)]
    with torch.inference_mode(), pinned(probe.kernel), profiler() as profile:
        output = attention(probe.attention)(there[0], there[1], there[2], there[3], causal)
        output = output.double().cpu()
    error, bound = _distance(output[rows], expected[rows]), 8 * torch.finfo(q.dtype).eps
    took = ", ".join(sorted({kernel_name(e.key) for e in profile.key_averages()} - {""}))
    found = {"error": error, "bound": bound, "took": took}
    if not torch.isfinite(output[rows]).all():
        return found | {"verdict": "wrong", "error": None, "reason": "its output has values that are not finite"}
    if error > bound:
        return found | {
            "verdict": "wrong",
            "reason": f"relative error {error:.2g}, where rounding explains {bound:.2g}",
        }
    return found | {"verdict": "works"}


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


def _distance(output: torch.Tensor, expected: torch.Tensor) -> float:
    return float((output - expected).norm() / expected.norm())
