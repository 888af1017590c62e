"""Functions that end in every way a process can; they run in workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

KEPT: dict[str, int] = {}


def add(a: int, b: int) -> int:
    return a + b


def count() -> int:
    KEPT["calls"] = KEPT.get("calls", 0) + 1
    return KEPT["calls"]


def has_imported(module: str) -> bool:
    return module in sys.modules


def variable(name: str) -> str | None:
    return os.environ.get(name)


def die_by(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(5)


def segfault() -> None:
    import ctypes

    ctypes.string_at(0)


def leave(code: int) -> None:
    os._exit(code)


def exit_politely() -> None:
    sys.exit(3)


def loop_forever() -> None:
    while True:
        pass


def unpicklable() -> object:
    return lambda: None


class Unsendable(RuntimeError):
    def __init__(self) -> None:
        super().__init__("holds a lock")
        self.payload = lambda: None

    def __reduce__(self) -> tuple:
        raise TypeError("this exception cannot be pickled")


class Unspeakable(RuntimeError):
    def __str__(self) -> str:
        raise ValueError("no words")


def raise_unsendable() -> None:
    raise Unsendable


def raise_unspeakable() -> None:
    raise Unspeakable


def raise_message(text: str) -> None:
    raise RuntimeError(text)


def allocate(size: int) -> int:
    data = bytearray(size)
    data[::4096] = b"x" * len(data[::4096])
    time.sleep(1)
    return len(data)


def start_child() -> int:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]).pid


def own_pid() -> int:
    return os.getpid()


def sleep() -> None:
    time.sleep(60)


def ignore_terminate() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    loop_forever()


def device_assert() -> float:
    import torch

    return float(torch.multinomial(torch.zeros(4, device="cuda"), 1).item())


def cuda_sum() -> float:
    import torch

    return float(torch.ones(3, device="cuda").sum())
