"""How a NaN comes to be and what becomes of it: what 06-assert tries in processes that may die, and its words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


def choose_token(logits: Sequence[float], how: str, device: str) -> int:
    """Return the index of the next token as `generate` would choose it; raise what it would raise."""
    import torch
    from transformers import InfNanRemoveLogitsProcessor

    torch.manual_seed(0)
    scores = torch.tensor([logits], device=device)
    if how == "greedy":
        return int(scores.argmax(-1))
    if how == "remove_invalid_values":
        scores = InfNanRemoveLogitsProcessor()(torch.zeros(1, 1, dtype=torch.long, device=device), scores)
    return int(torch.multinomial(scores.softmax(-1), 1))


def overflow_words(overflow: pd.DataFrame) -> str:
    """Return in words where float16 overflows in the findings `overflow`, and whether the other dtypes do."""
    overflow = overflow.rename(columns={"way": "variant"})  # the column's name in earlier runs
    bad = overflow[overflow["not_finite"] > 0]
    half = bad[bad["dtype"] == "float16"]
    if half.empty:
        return f"float16 does not overflow up to scores of {overflow['largest_score'].max():.3g}"
    others = sorted(set(bad["dtype"]) - {"float16"})
    safe = sorted(set(overflow[overflow["dtype"] == "float16"]["variant"]) - set(half["variant"]))
    return (
        f"float16 overflows in {', '.join(sorted(set(half['variant'])))} from scores of "
        f"{half['largest_score'].min():.3g} on (its end is 65504), and not in {', '.join(safe) or 'any other'}; "
        f"{', '.join(others) or 'float32 and bfloat16'} {'overflow too' if others else 'stay finite'}"
    )


# Can a process go on after a device-side assert? Try it, list every step, and then ask a new process.


def assert_and_try(device: str) -> list[tuple[str, str, bool]]:
    """Raise the device-side assert here and try to recover; return (attempt, outcome, works) of each try.

    For a process of its own, which is lost afterwards.
    """
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
        "a matrix product": lambda: matrix_product(device),
    }
    lines = []
    for name, attempt in attempts.items():
        try:
            attempt()
        except RuntimeError as error:
            lines.append((name, str(error).splitlines()[0], False))
        else:
            lines.append((name, "no error", True))
    return lines


def matrix_product(device: str) -> float:
    """Return the sum of a small matrix product on the device: 4096 where the device works."""
    import torch

    return float((torch.ones(16, 16, device=device) @ torch.ones(16, 16, device=device)).sum())
