"""Hardware: cards by their datasheets, the torch builds that carry code for them, what this machine does at most.

Which build runs on which card is NVIDIA's rule (CUDA C++ Programming Guide, "Application compatibility" and
"Family-specific features"): machine code (`sm_XY`) runs on the same major capability with an equal or higher minor
one; `compute_XY` is PTX, which a driver compiles for any equal or higher capability; a suffix `a` binds code to that
exact capability, `f` to its family, which is the same major capability from that minor one on.
"""

from __future__ import annotations

import difflib
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from ocrlab.machine.describe import describe_machine, machine_name
from ocrlab.scoring.statistics import median_spread

# What a CUDA context and its libraries hold beside a model, and what the allocator cannot use: as seen by others on
# RTX 50 cards (0.4 to 0.6 GiB); to be measured on each card.
CONTEXT_BYTES = 600 * 2**20
_ARCHITECTURE = re.compile(r"(sm|compute)_\d{2,}([af]?)")
_DRIVERS_WORDS = re.compile(r"\b(nvidia|geforce|gpu|hbm3|pcie|sxm4|max-q|workstation|server|edition)\b|-")
_SLOW_S = 0.5
_UNITS = {"copy": "GB/s", "gemv": "GB/s", "matmul": "TFLOP/s"}
Capability = tuple[int, int]
How = Literal["native", "ptx", "no"]
Ceiling = Literal["copy", "gemv", "matmul"]


@dataclass(frozen=True)
class Machine:
    """What bounds a reading: memory in bytes, bandwidth in bytes per second, matmul rate in operations per second.

    NaN stands for a rate that is not known; `source` says where the figures are from.
    """

    name: str
    memory_bytes: int
    bandwidth_bytes_s: float = math.nan
    matmul_flops_s: float = math.nan
    source: str = "asked for"
    device: str = "cuda"


class UnknownCard(ValueError):
    """No such card in the list; the message names the nearest."""


@cache
def cards() -> dict[str, Machine]:
    """Return the cards of `cards.yaml` by name."""
    file = Path(__file__).parent / "cards.yaml"
    listed: dict[str, dict[str, Any]] = yaml.safe_load(file.read_text(encoding="utf-8"))
    known = {name: {"bf16_tflops": math.nan} | values for name, values in listed.items()}
    return {
        name: Machine(name, int(c["memory_gb"] * 2**30), c["bandwidth_gbs"] * 1e9, c["bf16_tflops"] * 1e12, "datasheet")
        for name, c in known.items()
    }


def card(name: str) -> Machine:
    """Return a card by name, whatever its case, or by what NVIDIA's driver calls it.

    Raises:
        UnknownCard: it is not in the list.
    """
    known = {key.lower(): machine for key, machine in cards().items()}
    wanted = " ".join(_DRIVERS_WORDS.sub(" ", name.lower().replace("80gb", "80 gb")).split())
    if wanted in known:
        return known[wanted]
    near = difflib.get_close_matches(wanted, known, 3, cutoff=0.3)
    hint = f"; did you mean {' or '.join(known[n].name for n in near)}?" if near else ""
    listed = ", ".join(cards())
    raise UnknownCard(f"{name!r} is not in the list of cards ({listed}){hint}; any card is asked about by its memory")


def card_here() -> Machine | None:
    """Return this machine's card by its datasheet; None where there is none, or none that is listed."""
    with suppress(UnknownCard):
        return card(describe_machine()["gpu"] or "none")
    return None


def measured_machine(dtype: str, device: str = "cpu") -> Machine:
    """Return this machine as `ceilings` measures it now for a dtype: gemv bandwidth and matmul rate.

    Raises:
        ValueError: the device cannot compute in the dtype.
    """
    found = {row["ceiling"]: row.get("median") for row in measure_ceilings(device, (dtype,))}
    gemv, matmul = found["gemv"], found["matmul"]
    if gemv is None or matmul is None:
        raise ValueError(f"{dtype} cannot be measured on {device}: see 01-machine")
    held = describe_machine()["gpu_memory_bytes" if device.startswith("cuda") else "memory_bytes"]
    return Machine(machine_name(), held, gemv * 1e9, matmul * 1e12, "measured here", device.split(":")[0])


class Coverage(NamedTuple):
    """Whether and how a build runs on a card, and why in words."""

    how: How
    reason: str


def runs_on(architecture: str, card: Capability) -> bool:
    """Return whether code for an architecture, named as in `torch.cuda.get_arch_list()`, can run on a card.

    Raises:
        ValueError: not such a name.
    """
    match = _ARCHITECTURE.fullmatch(architecture)
    if match is None:
        raise ValueError(f"{architecture!r} is not an architecture; one looks like sm_90, sm_120f or compute_120")
    own = _capability(architecture)
    if match[2] == "a":
        return card == own
    return card >= own and (card[0] == own[0] or (match[1] == "compute" and not match[2]))


def _capability(architecture: str) -> Capability:
    digits = re.sub(r"\D", "", architecture)
    return int(digits[:-1]), int(digits[-1])


def coverage(build: Sequence[str], card: Capability) -> Coverage:
    """Return how a build with this architecture list runs on a card: natively, through PTX, or not at all.

    `build` is what `torch.cuda.get_arch_list()` returns; an empty list is a CPU build. Raises ValueError for a name
    that is no architecture.
    """
    if not build:
        return Coverage("no", "this is a CPU build of torch; install a CUDA build (make setup takes one)")
    said = f"{card[0]}.{card[1]}"
    runs = sorted((name for name in build if runs_on(name, card)), key=_capability)
    if native := [name for name in runs if name.startswith("sm")]:
        other = "" if _capability(native[-1]) == card else f" and runs on {said}, its own major"
        return Coverage("native", f"{native[-1]} is in the build{other}")
    if runs:
        return Coverage("ptx", f"only {runs[-1]} suits: the driver compiles it at the first start, which takes minutes")
    return Coverage("no", f"no kernel image: this build has {', '.join(build)}; your card is {said}; {_remedy(card)}")


def known_builds() -> dict[str, list[str]]:
    """Return the architecture list of each official build of torch by its CUDA version, from `builds.yaml`."""
    return dict(yaml.safe_load((Path(__file__).parent / "builds.yaml").read_text(encoding="utf-8")))


def _remedy(card: Capability) -> str:
    if card < (7, 5):
        return "CUDA 13 builds end at 7.5: install a CUDA 12.6 build of torch, or use the CPU"
    if card >= (10, 0):
        return "install the CUDA 13.0 build (make setup takes it, and it needs NVIDIA's driver 580 or newer)"
    return "install the default build of a current torch"


def measure_ceilings(device: str, dtypes: tuple[str, ...] = (), repeats: int = 7) -> list[dict[str, Any]]:
    """Return copy and gemv bandwidth (GB/s) and matmul rate (TFLOP/s) per dtype, each after a warm-up: a row each.

    A row has `ceiling`, `dtype`, `unit` and the repetitions' `Spread`, or the `reason` why it could not be measured.

    `dtypes` defaults to float32, tf32 (float32 tensors with TF32 on, CUDA only), bfloat16, float16 and
    float8_e4m3fn where the card has it. Bytes count what must cross: read and written for a copy, the matrix for gemv.
    """
    names = dtypes or _dtypes(device)
    found = [_measure("copy", "float32", device, repeats)]
    for ceiling in ("gemv", "matmul"):
        found += [_measure(ceiling, name, device, repeats) for name in names]
    return found


@cache
def emulated(dtype: str) -> bool:
    """Return whether one core of this processor multiplies more slowly in a dtype than in float32, measured once."""
    import torch
    from torch.utils.benchmark import Timer

    times = []
    for kind in (torch.float32, getattr(torch, dtype)):
        matrices = {"a": torch.ones(64, 512, dtype=kind), "b": torch.ones(512, 512, dtype=kind).t()}
        times.append(min(Timer("a @ b", globals=matrices).timeit(2).mean for _ in range(4)))
    return times[1] > times[0]


def _dtypes(device: str) -> tuple[str, ...]:
    import torch

    if not device.startswith("cuda"):
        return ("float32", "bfloat16", "float16")
    fp8 = ("float8_e4m3fn",) if torch.cuda.get_device_capability(device) >= (8, 9) else ()
    return ("float32", "tf32", "bfloat16", "float16", *fp8)


@contextmanager
def tf32(on: bool) -> Iterator[None]:
    """Let float32 products and convolutions use TF32 inside the block, or forbid it; other devices ignore both."""
    import torch

    places: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [place.allow_tf32 for place in places]
    for place in places:
        place.allow_tf32 = on
    try:
        yield
    finally:
        for place, was in zip(places, before, strict=True):
            place.allow_tf32 = was


def _measure(ceiling: Ceiling, dtype: str, device: str, repeats: int) -> dict[str, Any]:
    row = {"ceiling": ceiling, "dtype": dtype, "unit": _UNITS[ceiling], "reason": ""}
    if dtype.startswith("float8") and ceiling == "gemv":
        return row | {"reason": "torch has no matrix-vector product in float8"}
    try:
        with tf32(dtype == "tf32"):
            work, amount = _work(ceiling, "float32" if dtype == "tf32" else dtype, device)
            seconds = _timed(work, device, repeats)
    except (RuntimeError, NotImplementedError) as error:
        return row | {"reason": " ".join(str(error).split())[:200]}
    scale = 1e12 if ceiling == "matmul" else 1e9
    return row | median_spread([amount / s / scale for s in seconds])._asdict()


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
