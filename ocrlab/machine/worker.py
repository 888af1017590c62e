"""A function in a process of its own: whatever becomes of it, the caller gets an outcome, never a hang.

A device-side assert, a segmentation fault, the out-of-memory killer or an endless loop ends that process alone. There
is no recovery inside a process whose CUDA context is lost (pytorch/pytorch#2300, #38944): it is ended and replaced.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal, Self

import psutil

Kind = Literal["ok", "exception", "oom", "timeout", "signal", "exit", "assert", "illegal_address"]

# Errors after which a CUDA context answers nothing but the same error again; the process must end.
_STICKY: dict[str, Kind] = {
    "device-side assert": "assert",
    "illegal memory access": "illegal_address",
    "misaligned address": "illegal_address",
    "an illegal instruction was encountered": "illegal_address",
    "unspecified launch failure": "illegal_address",
}
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "Unable to allocate", "std::bad_alloc")
_POLL_S = 0.05


@dataclass(frozen=True)
class Outcome:
    """What came of a call: its value, or how it ended and why in words; `seconds` from asking to knowing."""

    kind: Kind
    value: Any = None
    reason: str = ""
    seconds: float = 0.0
    exit_code: int | None = None
    trace: str = ""

    @property
    def ok(self) -> bool:
        """Whether the function returned."""
        return self.kind == "ok"

    @property
    def fatal(self) -> bool:
        """Whether the process that ran it is gone or must go."""
        return self.kind not in {"ok", "exception"}


class Worker:
    """A long-lived process that runs one function after another and keeps what they leave in its modules.

    It starts at the first call, and again at the first call after it died. `memory_limit_bytes` bounds what it may
    hold beyond its start. Functions and arguments must be importable and picklable, as spawn wants them.
    """

    def __init__(self, memory_limit_bytes: int | None = None) -> None:
        self.memory_limit_bytes = memory_limit_bytes
        self.starts = 0
        self._process: Any = None
        self._connection: Connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The process's id, or None while there is none."""
        return self._process.pid if self._process is not None else None

    def call(self, function: Callable[..., Any], *args: Any, timeout_s: float | None = None, **kwargs: Any) -> Outcome:
        """Run `function(*args, **kwargs)` in the process and return what came of it.

        Raises:
            ValueError: function or arguments cannot be pickled; nothing was run.
        """
        try:
            request = pickle.dumps((function, args, kwargs))
        except Exception as error:
            raise ValueError(f"{function!r} or its arguments cannot be sent to a process: {error}") from error
        started = time.perf_counter()
        kills = _kernel_kills()
        try:
            self._ensure()
            assert self._connection is not None
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self._connection.send_bytes(request)
            kind, value, reason, trace = self._await(started, timeout_s, kills)
        except BaseException:  # Ctrl-C above all: the process must not outlive the caller's interest
            self._end(patience_s=0)
            raise
        code = self._process.exitcode if self._process is not None else None
        outcome = Outcome(kind, value, reason, time.perf_counter() - started, code, trace)
        if outcome.fatal:
            self._end(patience_s=0)
        return outcome

    def close(self) -> None:
        """End the process and what it started: an idle one may leave by itself, in three seconds at most."""
        self._end(patience_s=3.0)

    def _end(self, patience_s: float) -> None:
        process, self._process = self._process, None
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if process is None:
            return
        children = []
        with contextlib.suppress(psutil.NoSuchProcess, ValueError):
            children = psutil.Process(process.pid).children(recursive=True)
        process.join(patience_s)  # without its connection an idle process returns
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        process.kill()
        process.join()
        process.close()

    def _ensure(self) -> None:
        if self._process is not None and self._process.is_alive():
            return
        self.close()
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self.memory_limit_bytes), daemon=False)
        self._process.start()
        theirs.close()
        self.starts += 1

    def _await(self, started: float, timeout_s: float | None, kills: int) -> tuple[Kind, Any, str, str]:
        connection, process = self._connection, self._process
        assert connection is not None
        while True:
            left = None if timeout_s is None else timeout_s - (time.perf_counter() - started)
            if left is not None and left <= 0:
                return "timeout", None, f"no answer within {timeout_s:g} s; the process was ended", ""
            watched = self.memory_limit_bytes is not None
            ready = wait([connection, process.sentinel], _POLL_S if watched else left)
            if connection in ready:
                try:
                    return _received(connection.recv_bytes())
                except (EOFError, ConnectionResetError):
                    return _death(_exit_code(process), _kernel_kills() > kills)
            if process.sentinel in ready:
                return _death(_exit_code(process), _kernel_kills() > kills)
            if watched and _resident(process.pid) > self._limit():
                return "oom", None, f"held more than its limit of {self.memory_limit_bytes:,} bytes", ""

    def _limit(self) -> int:
        # A fresh interpreter with torch imported holds about 300 MB before it is asked for anything.
        return (self.memory_limit_bytes or 0) + 400_000_000


def run_alone(
    function: Callable[..., Any], *args: Any, timeout_s: float | None = None,
    memory_limit_bytes: int | None = None, **kwargs: Any,
) -> Outcome:  # fmt: skip
    """Run a function in a process of its own that ends with it, and return what came of it."""
    with Worker(memory_limit_bytes) as worker:
        return worker.call(function, *args, timeout_s=timeout_s, **kwargs)


def _received(message: bytes) -> tuple[Kind, Any, str, str]:
    kind, payload, reason, trace = pickle.loads(message)
    if kind != "ok":
        return _kind_of(reason), None, reason, trace
    try:
        return "ok", pickle.loads(payload), "", ""
    except Exception as error:
        return "exception", None, f"its result cannot be read here: {type(error).__name__}: {error}", ""


def sticky(reason: str) -> Kind | None:
    """Return which lasting CUDA fault an error's text tells of, or None: after one, only a new process helps."""
    return next((kind for sign, kind in _STICKY.items() if sign in reason), None)


def _kind_of(reason: str) -> Kind:
    if (kind := sticky(reason)) is not None:
        return kind
    if reason.startswith("MemoryError") or any(sign in reason for sign in _OUT_OF_MEMORY):
        return "oom"
    return "exception"


def _exit_code(process: Any, patience_s: float = 5.0) -> int | None:
    """Return a dying process's exit code: its pipes close a moment before the system tells it."""
    deadline = time.monotonic() + patience_s
    while process.exitcode is None and time.monotonic() < deadline:
        time.sleep(0.002)
    return process.exitcode


def _death(exit_code: int | None, killed_by_kernel: bool) -> tuple[Kind, Any, str, str]:
    """Say how a process died from its exit code: negative for a signal, as multiprocessing has it."""
    if exit_code is None:
        return "exit", None, "the process closed its connection and did not end", ""
    if exit_code < 0:
        name = signal.Signals(-exit_code).name if -exit_code in set(signal.Signals) else f"signal {-exit_code}"
        if name == "SIGKILL" and killed_by_kernel:
            return "oom", None, "ended by the system's out-of-memory killer (SIGKILL, and its counter rose)", ""
        words = {"SIGSEGV": "a segmentation fault", "SIGABRT": "an abort", "SIGKILL": "killed from outside"}
        return "signal", None, f"{name}: {words.get(name, 'ended by a signal')}", ""
    return "exit", None, f"the process ended by itself with exit code {exit_code}", ""


def _kernel_kills() -> int:
    """Return how often the out-of-memory killer has struck since the machine started; 0 where that is not told."""
    try:
        for line in Path("/proc/vmstat").read_text(encoding="ascii").splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    except OSError:
        pass
    return 0


def _resident(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def _serve(connection: Connection, memory_limit_bytes: int | None) -> None:
    """The process's own loop: receive, run, answer; ends when the caller is gone."""
    _end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the caller's to handle; it ends this process
    if memory_limit_bytes is not None:
        _limit_memory(memory_limit_bytes)
    while True:
        try:
            request = connection.recv_bytes()
        except (EOFError, OSError):
            return
        connection.send_bytes(_answer(request))


def _answer(request: bytes) -> bytes:
    try:
        function, args, kwargs = pickle.loads(request)
        value = function(*args, **kwargs)
    except BaseException as error:
        return _failure(error)
    try:
        return pickle.dumps(("ok", pickle.dumps(value), "", ""))
    except Exception as error:
        return _failure(TypeError(f"its result of type {type(value).__name__} cannot be pickled: {error}"))


def _failure(error: BaseException) -> bytes:
    """Only text crosses over: an exception's own payload may not be picklable."""
    try:
        words = " ".join(str(error).split())
    except Exception:
        words = "(its message could not be made)"
    trace = "".join(traceback.format_exception(error))
    return pickle.dumps(("exception", None, f"{type(error).__name__}: {words}"[:4000], trace[-8000:]))


def _end_with_parent() -> None:
    """End this process when the caller's ends, however it ends."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    if os.name == "posix":
        with contextlib.suppress(OSError, AttributeError):
            import ctypes

            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG, Linux only: works in a stuck process too

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _limit_memory(memory_limit_bytes: int) -> None:
    """Let allocations beyond the limit fail where the system can (Linux); the caller watches residents besides."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        held = psutil.Process().memory_info().vms
        resource.setrlimit(resource.RLIMIT_DATA, (held + memory_limit_bytes, resource.RLIM_INFINITY))
