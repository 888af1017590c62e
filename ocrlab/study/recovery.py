"""Can a process go on after a device-side assert? Try it, list every step, and then ask a new process."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ocrlab.machine.worker import Worker

if TYPE_CHECKING:
    import pandas as pd


def recovery_table(device: str) -> pd.DataFrame:
    """Return what came of each attempt to go on after the assertion: where, attempt, outcome, works.

    On CUDA a NaN is sampled, which ends the context; then everything that is said to recover it is tried in the same
    process, and a product in a new one. A CPU has no context to lose: there a process that aborts stands for it.
    """
    import pandas as pd

    with Worker() as worker:
        if device.startswith("cuda"):
            first = worker.call(assert_and_try, device, timeout_s=300)
            lines = first.value if first.ok else [_line("same process", "sample from NaN", first.reason, False)]
            worker.close()
        else:
            died = worker.call(os.abort, timeout_s=60)
            lines = [_line("same process", "abort, in place of a lost context", died.reason, died.ok)]
        again = worker.call(product, device, timeout_s=300)
    words = f"a product of {again.value:.0f}" if again.ok else again.reason
    return pd.DataFrame([*lines, _line("new process", "a matrix product", words, again.ok)])


def assert_and_try(device: str) -> list[dict[str, Any]]:
    """Raise the device-side assert here, then try to recover; for a process of its own, which is lost afterwards."""
    import torch

    def sample() -> None:
        torch.multinomial(torch.full((1, 4), float("nan"), device=device), 1)
        torch.cuda.synchronize()

    def collect() -> None:
        torch.cuda.empty_cache()
        torch.cuda.ipc_collect()
        torch.cuda.synchronize()

    attempts: dict[str, Callable[[], Any]] = {
        "sample from NaN": sample,
        "torch.cuda.synchronize": torch.cuda.synchronize,
        "empty_cache, ipc_collect, synchronize": collect,
        "reset_peak_memory_stats": torch.cuda.reset_peak_memory_stats,
        "a new tensor": lambda: torch.ones(4, device=device).sum().item(),
        "a matrix product": lambda: product(device),
    }
    lines = []
    for name, attempt in attempts.items():
        try:
            attempt()
        except RuntimeError as error:
            lines.append(_line("same process", name, str(error).splitlines()[0], False))
        else:
            lines.append(_line("same process", name, "no error", True))
    return lines


def product(device: str) -> float:
    """Return the sum of a small matrix product on the device: 4096 where the device works."""
    import torch

    return float((torch.ones(16, 16, device=device) @ torch.ones(16, 16, device=device)).sum())


def _line(where: str, attempt: str, outcome: str, works: bool) -> dict[str, Any]:
    return {"where": where, "attempt": attempt, "outcome": outcome[:160], "works": works}
