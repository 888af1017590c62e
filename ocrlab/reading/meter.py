"""What a reading costs: time by phase, tokens, peak memory; and whether the logits stayed finite."""

from __future__ import annotations

import contextlib
import ctypes
import inspect
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    import torch

_PHASES = ("vision_s", "prefill_s", "decode_s", "ttft_s", "tpot_s")
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class Memory:
    """Peak bytes above the model at rest (CPU: resident; CUDA: allocated), and CUDA's peak reserved bytes in all."""

    peak_memory_bytes: int = 0
    reserved_memory_bytes: int | None = None


class MemoryMeter:
    """Measures what readings hold above a loaded model at rest; made anew when settings are put in force.

    CUDA's own counters tell each batch's peak. On a CPU the allocator keeps memory from page to page, so there the
    figure is the highest since the settings were put in force: on Linux the kernel's high-water mark, after the
    allocator gave back what it had kept; elsewhere what a thread samples every 5 ms.
    """

    def __init__(self, device: str) -> None:
        self.cuda = device.startswith("cuda")
        self.process = psutil.Process()
        self.sampled = 0
        if self.cuda:
            import torch

            self.rest = int(torch.cuda.memory_allocated())
            return
        self.exact = _reset_peak()
        self.rest = self.process.memory_info().rss

    @contextmanager
    def measure(self) -> Iterator[Memory]:
        """Yield a Memory that is filled when the block ends."""
        memory = Memory()
        if self.cuda:
            import torch

            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            yield memory
            torch.cuda.synchronize()
            memory.peak_memory_bytes = torch.cuda.max_memory_allocated() - self.rest
            memory.reserved_memory_bytes = torch.cuda.max_memory_reserved()
        else:
            with contextlib.nullcontext() if self.exact else self._sampling():
                yield memory
            peak = _high_water_bytes() if self.exact else self.sampled
            memory.peak_memory_bytes = max(0, peak - self.rest)

    @contextmanager
    def _sampling(self) -> Iterator[None]:
        stop = threading.Event()

        def sample() -> None:
            while not stop.wait(0.005):
                self.sampled = max(self.sampled, self.process.memory_info().rss)

        thread = threading.Thread(target=sample, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            self.sampled = max(self.sampled, self.process.memory_info().rss)


def _reset_peak() -> bool:
    """Let the kernel's high-water mark begin anew; return whether it has one."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # other allocators keep what they have
        ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError):
        return bool(_RESET.write_text("5", encoding="ascii"))
    return False


def _high_water_bytes() -> int:
    status = _STATUS.read_text(encoding="ascii")
    return int(status.partition("\nVmHWM:")[2].split(maxsplit=1)[0]) * 1024


class StepMeter:
    """A logits processor that changes nothing: it notes when each token's logits were ready and if any was not finite.

    On CUDA it records events and keeps the scores' maxima on the device, so that no step waits for the host.
    """

    def __init__(self, device: str) -> None:
        self.cuda = device.startswith("cuda")
        self.marks: list[Any] = []
        self.vision: list[Any] = []
        self.highest: list[torch.Tensor] = []
        self.start = self.mark()

    def mark(self) -> Any:
        """Return now, as a CUDA event or in seconds."""
        if not self.cuda:
            return time.perf_counter()
        import torch

        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.marks.append(self.mark())
        # Banned tokens are -inf by rights; a NaN or +inf, or no finite score at all, shows in the highest.
        self.highest.append(scores.amax(-1))
        return scores

    # `generate` asks for the signature at every step; kept here, a step of the embedded reader is 1 % shorter.
    __call__.__signature__ = inspect.signature(__call__)  # type: ignore[attr-defined]

    def finite(self, pages: int) -> list[bool]:
        """Return for each page of the batch whether the logits of all its steps (and beams) were finite."""
        if not self.highest:
            return [True] * pages
        import torch

        steps = torch.stack(self.highest).isfinite().all(0)
        return [bool(flag) for flag in steps.view(pages, -1).all(-1).tolist()]

    @contextmanager
    def around(self, visual: Any) -> Iterator[None]:
        """Note when the vision tower begins and ends."""

        def note(*_: Any) -> None:
            self.vision.append(self.mark())

        with visual.register_forward_pre_hook(note), visual.register_forward_hook(note):
            yield

    def seconds(self, begin: Any, end: Any) -> float:
        """Return the seconds between two marks."""
        return float(begin.elapsed_time(end) / 1000) if self.cuda else float(end - begin)

    def phases(self, steps: int) -> dict[str, float | None]:
        """Return vision_s, prefill_s, decode_s, ttft_s and tpot_s for a batch of `steps` decoding steps."""
        if self.cuda:
            import torch

            torch.cuda.synchronize()
        if not self.marks or not self.vision:
            return dict.fromkeys(_PHASES)
        last = self.marks[min(steps, len(self.marks)) - 1]
        ttft = self.seconds(self.start, self.marks[0])
        vision = sum(map(self.seconds, self.vision[::2], self.vision[1::2]))  # tiles may go in several calls
        decode = self.seconds(self.marks[0], last)
        tpot = decode / (steps - 1) if steps > 1 else None
        return dict(zip(_PHASES, (vision, ttft - vision, decode, ttft, tpot), strict=True))
