"""How a call or its process ended, from an error's text, an exit code, and the system's own counter."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Literal

Kind = Literal["ok", "exception", "oom", "timeout", "stopped", "signal", "exit", "assert", "illegal_address"]

# Errors after which a CUDA context answers nothing but the same error again; the process must end.
_STICKY: dict[str, Kind] = {
    "device-side assert": "assert",
    "illegal memory access": "illegal_address",
    "misaligned address": "illegal_address",
    "an illegal instruction was encountered": "illegal_address",
    "unspecified launch failure": "illegal_address",
}
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "Unable to allocate", "std::bad_alloc")


def sticky(reason: str) -> Kind | None:
    """Return which lasting CUDA fault an error's text tells of, or None: after one, only a new process helps."""
    return next((kind for sign, kind in _STICKY.items() if sign in reason), None)


def kind_of(reason: str) -> Kind:
    """Return what an exception's text, as `Name: message`, tells of: a lasting fault, out of memory, or neither."""
    if (kind := sticky(reason)) is not None:
        return kind
    if reason.startswith("MemoryError") or any(sign in reason for sign in _OUT_OF_MEMORY):
        return "oom"
    return "exception"


def death(exit_code: int | None, killed_by_kernel: bool) -> tuple[Kind, str]:
    """Return how a process died and the words for it, from its exit code: negative for a signal."""
    if exit_code is None:
        return "exit", "the process closed its connection and did not end"
    if exit_code < 0:
        name = signal.Signals(-exit_code).name if -exit_code in set(signal.Signals) else f"signal {-exit_code}"
        if name == "SIGKILL" and killed_by_kernel:
            return "oom", "ended by the system's out-of-memory killer (SIGKILL, and its counter rose)"
        words = {"SIGSEGV": "a segmentation fault", "SIGABRT": "an abort", "SIGKILL": "killed from outside"}
        return "signal", f"{name}: {words.get(name, 'ended by a signal')}"
    return "exit", f"the process ended by itself with exit code {exit_code}"


def kernel_kills() -> int:
    """Return how often the out-of-memory killer has struck since the machine started; 0 where that is not told."""
    try:
        for line in Path("/proc/vmstat").read_text(encoding="ascii").splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    except OSError:
        pass
    return 0
