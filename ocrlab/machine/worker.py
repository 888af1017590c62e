"""A function in a process of its own: whatever becomes of it, the caller gets an outcome, never a hang.

A device-side assert, a segmentation fault, the out-of-memory killer or an endless loop ends that process alone. There
is no recovery inside a process whose CUDA context is lost (pytorch/pytorch#2300, #38944): it is ended and replaced.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Literal

import cloudpickle
import psutil

from ocrlab.machine.worker_process import context, serve

#: What importing torch and transformers takes, which a memory limit does not count.
IMPORTS_BYTES = 400_000_000
_POLL_S = 0.05
Kind = Literal["ok", "exception", "oom", "timeout", "stopped", "signal", "exit", "assert", "illegal_address"]

# Errors after which a CUDA context answers nothing but the same error again; the process must end.
_STICKY: dict[str, Kind] = {
    "device-side assert": "assert",
    "illegal memory access": "illegal_address",
    "misaligned address": "illegal_address",
    "an illegal instruction was encountered": "illegal_address",
    "unspecified launch failure": "illegal_address",
}
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "Unable to allocate", "std::bad_alloc", "not enough memory")
#: What Windows' exit codes mean.
_WINDOWS_ENDS = {
    3: "abort()",
    0xC0000005: "access violation",
    0xC00000FD: "stack overflow",
    0xC000012D: "the system's memory was used up",
    0xC0000409: "abort() or a stack overrun",
}


@dataclass(frozen=True)
class Outcome:
    """What came of a call: its value, or how it ended and why in words; `seconds` from asking to knowing."""

    kind: Kind
    value: Any = None
    reason: str = ""
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the function returned."""
        return self.kind == "ok"

    @property
    def fatal(self) -> bool:
        """Whether the process that ran it is gone or must go."""
        return self.kind not in {"ok", "exception"}


class Closes(contextlib.AbstractContextManager):
    """What is used as a context manager and closed at its end."""

    @abstractmethod
    def close(self) -> None:
        """Free what is held."""

    def __exit__(self, *_: object) -> None:
        self.close()


class Worker(Closes):
    """A long-lived process that runs one function after another and keeps what they leave in its modules.

    It starts at the first call, and again at the first call after it died, and ends when its caller does.
    `memory_limit_bytes` bounds what it may hold beyond its start; `fresh` asks for a new Python, where a copy of one
    with torch imported would do (`worker_process`). A function goes there by the name under which it is imported, or
    whole where it has none, as in a notebook; what it refers to and its arguments must be picklable.
    """

    def __init__(self, memory_limit_bytes: int | None = None, *, fresh: bool = False) -> None:
        self.memory_limit_bytes = memory_limit_bytes
        self.fresh = fresh
        self.starts = 0
        self._process: Any = None
        self._connection: Any = None
        self._stopping = multiprocessing.RawValue("b")  # shared, and without a lock that a killed process would keep
        self._lock = threading.Lock()
        self._running = False
        self._stop_by: float | None = None
        self._limit_bytes = 0

    @property
    def pid(self) -> int | None:
        """The process's id, or None while there is none."""
        return self._process.pid if self._process is not None else None

    @property
    def alive(self) -> bool:
        """Whether the process runs; to be asked in the thread that calls it."""
        return self._process is not None and bool(self._process.is_alive())

    def call(
        self,
        function: Callable[..., Any],
        *args: Any,
        timeout_s: float | None = None,
        on_progress: Callable[[Any], object] = lambda _: None,
        on_question: Callable[[Any], Any] = lambda _: None,
        **kwargs: Any,
    ) -> Outcome:
        """Run `function(*args, **kwargs)` in the process and return what came of it.

        `on_progress` gets, in this thread, each value that the function hands to `worker_process.report`; what
        `on_question` returns is the answer to `worker_process.ask`. `timeout_s` bounds the time until the process says
        something: reports, asks, or returns.

        Raises:
            ValueError: function or arguments cannot be pickled; nothing was run.
        """
        try:
            request = cloudpickle.dumps((function, args, kwargs))
        except Exception as error:
            raise ValueError(f"{function!r} or its arguments cannot be sent to a process: {error}") from error
        started = time.perf_counter()
        with self._lock:
            self._running, self._stop_by, self._stopping.value = True, None, False
        try:
            self._ensure()
            kind, value, reason = self._run(request, timeout_s, {"progress": on_progress, "question": on_question})
        except BaseException:  # Ctrl-C above all: the process must not outlive the caller's interest
            self._end(patience_s=0)
            raise
        finally:
            with self._lock:
                self._running = False
        outcome = Outcome(kind, value, reason, time.perf_counter() - started)
        if outcome.fatal:
            self._end(patience_s=0)
        return outcome

    def stop(self, patience_s: float = 1.0) -> None:
        """From another thread: ask the call that goes on to end early, which its function sees in `stop_asked`.

        A function that has not returned after `patience_s` loses its process, and the call's outcome is `stopped`;
        asked again, the shorter patience counts.
        """
        by = time.perf_counter() + patience_s
        with self._lock:
            if not self._running:
                return
            self._stop_by = min(by, self._stop_by or by)
            self._stopping.value = True

    def close(self) -> None:
        """End the process and what it started: an idle one may leave by itself, in three seconds at most."""
        self._end(patience_s=3.0)

    def _end(self, patience_s: float) -> None:
        process, connection = self._process, self._connection
        self._process = self._connection = None
        if process is None:
            return
        children = []
        with contextlib.suppress(psutil.NoSuchProcess):  # before the process leaves them behind
            children = psutil.Process(process.pid).children(recursive=True)
        connection.close()
        process.join(patience_s)  # without its connection an idle process returns
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        process.kill()
        process.join()
        process.close()

    def _ensure(self) -> None:
        if self.alive:
            return
        self.close()
        start = context(self.fresh)
        ours, theirs = start.Pipe()
        process = start.Process(target=serve, args=(theirs, self._stopping), daemon=False)
        process.start()
        theirs.close()
        self._process, self._connection = process, ours
        self._limit_bytes = _resident(process.pid) + IMPORTS_BYTES + (self.memory_limit_bytes or 0)
        self.starts += 1

    def _run(
        self, request: bytes, timeout_s: float | None, heard: dict[str, Callable[[Any], Any]]
    ) -> tuple[Kind, Any, str]:
        connection, process = self._connection, self._process
        kills = kernel_kills()
        self._send(request)
        last = time.perf_counter()
        while True:
            now = time.perf_counter()
            if timeout_s is not None and now - last >= timeout_s:
                return "timeout", None, f"no answer within {timeout_s:g} s; the process was ended"
            if self._stop_by is not None and now > self._stop_by:
                return "stopped", None, "it did not stop by itself when asked; the process was ended"
            ready = wait([connection, process.sentinel], _POLL_S)
            if connection in ready:
                try:
                    message, payload, reason = connection.recv()
                except (EOFError, ConnectionResetError):
                    return _death(process, kills)
                except Exception as error:
                    return "exit", None, f"what it sent cannot be read here: {type(error).__name__}: {error}"
                if message not in heard:
                    return "ok" if message == "ok" else kind_of(reason), payload, reason
                answer = heard[message](payload)
                if message == "question":
                    self._send(cloudpickle.dumps(answer))
                last = time.perf_counter()
            elif process.sentinel in ready:
                return _death(process, kills)
            if self.memory_limit_bytes is not None and _resident(process.pid) > self._limit_bytes:
                return "oom", None, f"out of memory: held more than its limit of {self.memory_limit_bytes:,} bytes"

    def _send(self, message: bytes) -> None:
        with contextlib.suppress(OSError):  # a process that is gone shows at the next look
            self._connection.send_bytes(message)


def sticky(reason: str) -> Kind | None:
    """Return which lasting CUDA fault an error's text reports, or None: after one, only a new process helps."""
    return next((kind for sign, kind in _STICKY.items() if sign in reason), None)


def kind_of(reason: str) -> Kind:
    """Return what an exception's text, as `Name: message`, reports: a lasting fault, out of memory, or neither."""
    if (kind := sticky(reason)) is not None:
        return kind
    if reason.startswith("MemoryError") or any(sign in reason for sign in _OUT_OF_MEMORY):
        return "oom"
    return "exception"


def _death(process: Any, kills: int) -> tuple[Kind, None, str]:
    """Return how a process died: its pipes close a moment before the system reports its exit code."""
    process.join(5.0)
    code = process.exitcode
    if code is None:
        return "exit", None, "the process closed its connection and did not end"
    if code >= 0:
        known = _WINDOWS_ENDS.get(code) if os.name == "nt" else None
        return "exit", None, f"the process ended by itself with exit code {code}" + f" ({known})" * bool(known)
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    if name == "SIGKILL" and kernel_kills() > kills:
        return "oom", None, "ended by the system's out-of-memory killer (SIGKILL, and its counter rose)"
    words = {"SIGSEGV": "a segmentation fault", "SIGABRT": "an abort", "SIGKILL": "killed from outside"}
    return "signal", None, f"{name}: {words.get(name, 'ended by a signal')}"


def kernel_kills() -> int:
    """Return how often the out-of-memory killer has struck since the machine started; 0 where that is not known."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/vmstat").read_text(encoding="ascii").splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def _resident(pid: int) -> int:
    with contextlib.suppress(psutil.NoSuchProcess):
        return int(psutil.Process(pid).memory_info().rss)
    return 0
