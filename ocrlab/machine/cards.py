"""Machines to predict for: cards by their datasheets, or this one as measured."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

# What a CUDA context and its libraries hold beside a model, and what the allocator cannot use: as seen by others on
# RTX 50 cards (0.4 to 0.6 GiB); to be measured on each card.
CONTEXT_BYTES = 600 * 2**20


@dataclass(frozen=True)
class Machine:
    """What bounds a reading: memory in bytes, bandwidth in bytes a second, matmul rate in operations a second.

    `source` says where the figures are from.
    """

    name: str
    memory_bytes: int
    bandwidth_bytes_s: float
    matmul_flops_s: float
    source: str
    device: str = "cuda"


class UnknownCard(ValueError):
    """No such card in the list; the message names the nearest."""


@cache
def cards() -> dict[str, Machine]:
    """Return the cards of `cards.yaml` by name."""
    listed: dict[str, dict[str, Any]] = yaml.safe_load(
        (Path(__file__).parent / "cards.yaml").read_text(encoding="utf-8")
    )
    return {
        name: Machine(name, int(c["memory_gb"] * 2**30), c["bandwidth_gbs"] * 1e9, c["bf16_tflops"] * 1e12, "datasheet")
        for name, c in listed.items()
    }


def card(name: str) -> Machine:
    """Return a card by name, whatever its case.

    Raises:
        UnknownCard: it is not in the list.
    """
    known = {key.lower(): machine for key, machine in cards().items()}
    wanted = name.lower().replace("nvidia", "").replace("geforce", "").strip()
    if wanted in known:
        return known[wanted]
    near = difflib.get_close_matches(wanted, known, 3, cutoff=0.3)
    hint = f"; did you mean {' or '.join(known[n].name for n in near)}?" if near else ""
    raise UnknownCard(f"{name!r} is not in the list of cards ({', '.join(cards())}){hint}")


def measured_machine(dtype: str, device: str = "cpu") -> Machine:
    """Return this machine as `ceilings` measures it now for a dtype: gemv bandwidth and matmul rate.

    Raises:
        ValueError: the device cannot compute in the dtype.
    """
    import psutil

    from ocrlab.machine.ceilings import measure_ceilings
    from ocrlab.machine.describe import describe_machine, machine_name

    found = {m.ceiling: m.spread for m in measure_ceilings(device, (dtype,))}
    gemv, matmul = found["gemv"], found["matmul"]
    if gemv is None or matmul is None:
        raise ValueError(f"{dtype} cannot be measured on {device}: see 01-machine")
    memory = describe_machine().get("gpu_memory_bytes") if device.startswith("cuda") else None
    held = int(memory or psutil.virtual_memory().total)
    return Machine(machine_name(), held, gemv.median * 1e9, matmul.median * 1e12, "measured here", device.split(":")[0])
