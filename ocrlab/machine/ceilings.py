"""What this machine can do at most, measured: bytes copied, bytes that a matrix-vector product reads, products."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ocrlab.scoring.statistics import Spread, median_spread

if TYPE_CHECKING:
    import pandas as pd

Ceiling = Literal["copy", "gemv", "matmul"]
_SLOW_S = 0.5
_UNITS = {"copy": "GB/s", "gemv": "GB/s", "matmul": "TFLOP/s"}


@dataclass(frozen=True)
class Measured:
    """One ceiling: its spread over repetitions in `unit`, or the reason why it could not be measured."""

    ceiling: Ceiling
    dtype: str
    unit: str
    spread: Spread | None
    reason: str = ""


def measure_ceilings(device: str, dtypes: tuple[str, ...] = (), repeats: int = 7) -> list[Measured]:
    """Return copy and gemv bandwidth (GB/s) and matmul rate (TFLOP/s) per dtype, each after a warm-up.

    `dtypes` defaults to float32, tf32 (float32 tensors with TF32 on, CUDA only), bfloat16, float16 and
    float8_e4m3fn where the card has it. Bytes count what must cross: read and written for a copy, the matrix for gemv.
    """
    names = dtypes or _dtypes(device)
    found = [_measure("copy", "float32", device, repeats)]
    for ceiling in ("gemv", "matmul"):
        found += [_measure(ceiling, name, device, repeats) for name in names]
    return found


def as_table(found: list[Measured]) -> pd.DataFrame:
    """Return the ceilings as a table: ceiling, dtype, median, quartiles, unit, reason."""
    import pandas as pd

    return pd.DataFrame(
        {"ceiling": m.ceiling, "dtype": m.dtype, "unit": m.unit, "reason": m.reason}
        | (m.spread._asdict() if m.spread else {})
        for m in found
    )


def _dtypes(device: str) -> tuple[str, ...]:
    import torch

    if not device.startswith("cuda"):
        return ("float32", "bfloat16", "float16")
    fp8 = ("float8_e4m3fn",) if torch.cuda.get_device_capability(device) >= (8, 9) else ()
    return ("float32", "tf32", "bfloat16", "float16", *fp8)


def _measure(ceiling: Ceiling, dtype: str, device: str, repeats: int) -> Measured:
    unit = _UNITS[ceiling]
    if dtype.startswith("float8") and ceiling == "gemv":
        return Measured(ceiling, dtype, unit, None, "torch has no matrix-vector product in float8")
    try:
        with _tf32(dtype == "tf32"):
            work, amount = _work(ceiling, "float32" if dtype == "tf32" else dtype, device)
            seconds = _timed(work, device, repeats)
    except (RuntimeError, NotImplementedError) as error:
        return Measured(ceiling, dtype, unit, None, " ".join(str(error).split())[:200])
    scale = 1e12 if ceiling == "matmul" else 1e9
    return Measured(ceiling, dtype, unit, median_spread([amount / s / scale for s in seconds]))


def _work(ceiling: Ceiling, dtype: str, device: str) -> tuple[Callable[[], Any], float]:
    """Return one unit of work and what it moves (bytes) or computes (floating-point operations)."""
    import torch
    from torch.nn import functional

    kind, cuda = getattr(torch, dtype), device.startswith("cuda")
    if ceiling == "copy":
        source = torch.ones((1 << 30 if cuda else 1 << 28) // 4, device=device)
        target = torch.empty_like(source)
        return lambda: target.copy_(source), 2.0 * source.numel() * 4
    side = 8192 if cuda else 1024
    if ceiling == "gemv":
        rows = 32_768 if cuda else 8_192  # beyond any cache
        matrix, vector = torch.ones(rows, 8192, device=device).to(kind), torch.ones(1, 8192, device=device).to(kind)
        # As a model decodes: `torch.mv` is another path, half as fast in bfloat16 on a CPU (LOG.md).
        return lambda: functional.linear(vector, matrix), float(matrix.numel() * matrix.element_size())
    left, right = (torch.randn(side, side, device=device).to(kind) for _ in range(2))
    if dtype.startswith("float8"):
        one = torch.ones((), device=device)
        turned = right.t().contiguous().t()
        scaled: Any = torch._scaled_mm
        return lambda: scaled(left, turned, scale_a=one, scale_b=one, out_dtype=torch.bfloat16), 2.0 * side**3
    return lambda: left @ right, 2.0 * side**3


def _timed(work: Callable[[], Any], device: str, repeats: int) -> list[float]:
    import torch

    def settle() -> None:
        if device.startswith("cuda"):
            torch.cuda.synchronize()

    def lap(times: int) -> float:
        started = time.perf_counter()
        for _ in range(times):
            work()
        settle()
        return (time.perf_counter() - started) / times

    slow = lap(1) > _SLOW_S  # float16 products on a CPU that has none take seconds, with little spread
    inner = 1 if slow else max(1, int(0.02 / max(lap(2), 1e-6)))  # at least 20 ms a repetition
    return [lap(inner) for _ in range(min(repeats, 3) if slow else repeats)]


@contextmanager
def _tf32(on: bool) -> Iterator[None]:
    import torch

    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = on
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
