"""A function in a process of its own: whatever becomes of it, the caller gets an outcome, never a hang.

A device-side assert, a segmentation fault, the out-of-memory killer or an endless loop ends that process alone. There
is no recovery inside a process whose CUDA context is lost (pytorch/pytorch#2300, #38944): it is ended and replaced.
"""

from __future__ import annotations

import contextlib
import pickle
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Self

import psutil

from ocrlab.machine import starting
from ocrlab.machine.child import IMPORTS_BYTES, serve
from ocrlab.machine.death import Kind, death, kernel_kills, kind_of
from ocrlab.machine.progress import PROGRESS, QUESTION, STOP

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

    It starts at the first call, and again at the first call after it died, and ends when its caller does.
    `memory_limit_bytes` bounds what it may hold beyond its start; `fresh` asks for a new Python, where a copy of one
    with torch imported would do (`starting`). Functions and arguments must be importable and picklable.
    """

    def __init__(self, memory_limit_bytes: int | None = None, *, fresh: bool = False) -> None:
        self.memory_limit_bytes = memory_limit_bytes
        self.fresh = fresh
        self.starts = 0
        self._process: Any = None
        self._connection: Connection | None = None
        self._lock = threading.Lock()
        self._running = False
        self._stop_by: float | None = None
        self._at_start_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The process's id, or None while there is none."""
        return self._process.pid if self._process is not None else None

    @property
    def alive(self) -> bool:
        """Whether the process runs; to be asked in the thread that calls it."""
        return self._process is not None and bool(self._process.is_alive())

    def call(
        self, function: Callable[..., Any], *args: Any, timeout_s: float | None = None,
        silence_s: float | None = None, on_progress: Callable[[Any], None] | None = None,
        on_question: Callable[[Any], Any] | None = None, **kwargs: Any,
    ) -> Outcome:  # fmt: skip
        """Run `function(*args, **kwargs)` in the process and return what came of it.

        `on_progress` gets, in this thread, each value that the function hands to `progress.report`; what `on_question`
        returns is the answer to `progress.ask`. `timeout_s` bounds the whole call, `silence_s` the time between two
        messages of a call that reports or asks.

        Raises:
            ValueError: function or arguments cannot be pickled; nothing was run.
        """
        try:
            request = pickle.dumps((function, args, kwargs))
        except Exception as error:
            raise ValueError(f"{function!r} or its arguments cannot be sent to a process: {error}") from error
        started = time.perf_counter()
        kills = kernel_kills()
        with self._lock:
            self._running, self._stop_by = True, None
        try:
            self._ensure()
            assert self._connection is not None
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self._connection.send_bytes(request)
            heard = {PROGRESS: on_progress or _ignore, QUESTION: on_question or _ignore}
            kind, value, reason, trace = self._await(started, timeout_s, silence_s, kills, heard)
        except BaseException:  # Ctrl-C above all: the process must not outlive the caller's interest
            self._end(patience_s=0)
            raise
        finally:
            with self._lock:
                self._running = False
        code = self._process.exitcode if self._process is not None else None
        outcome = Outcome(kind, value, reason, time.perf_counter() - started, code, trace)
        if outcome.fatal:
            self._end(patience_s=0)
        return outcome

    def stop(self, patience_s: float = 1.0) -> None:
        """From another thread: ask the call that goes on to end early, as `progress.stop_asked` tells its function.

        A function that has not returned after `patience_s` loses its process, and the call's outcome is `stopped`;
        asked again, the shorter patience counts.
        """
        with self._lock:
            if not self._running:
                return
            before, by = self._stop_by, time.perf_counter() + patience_s
            self._stop_by = by if before is None else min(before, by)
            if before is None and self._connection is not None:
                with contextlib.suppress(OSError):
                    self._connection.send_bytes(STOP)

    def close(self) -> None:
        """End the process and what it started: an idle one may leave by itself, in three seconds at most."""
        self._end(patience_s=3.0)

    def _end(self, patience_s: float) -> None:
        process, self._process = self._process, None
        children = []
        if process is not None:
            with contextlib.suppress(psutil.NoSuchProcess):  # before the process leaves them behind
                children = psutil.Process(process.pid).children(recursive=True)
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if process is None:
            return
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
        context = starting.context(self.fresh)
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, self.memory_limit_bytes), daemon=False)
        self._process.start()
        self._at_start_bytes = _resident(self._process.pid)
        theirs.close()
        self.starts += 1

    def _await(
        self, started: float, timeout_s: float | None, silence_s: float | None, kills: int,
        heard: dict[str, Callable[[Any], Any]],
    ) -> tuple[Kind, Any, str, str]:  # fmt: skip
        connection, process = self._connection, self._process
        assert connection is not None
        last = started
        while True:
            now = time.perf_counter()
            for limit, since in ((timeout_s, started), (silence_s, last)):
                if limit is not None and now - since >= limit:
                    return "timeout", None, f"no answer within {limit:g} s; the process was ended", ""
            if self._stop_by is not None and now > self._stop_by:
                return "stopped", None, "it did not stop by itself when asked; the process was ended", ""
            ready = wait([connection, process.sentinel], _POLL_S)
            if connection in ready:
                try:
                    message = pickle.loads(connection.recv_bytes())
                except (EOFError, ConnectionResetError):
                    return self._dead(kills)
                if message[0] not in heard:
                    return _received(*message)
                answer = heard[message[0]](message[1])
                if message[0] == QUESTION:
                    self._send(pickle.dumps(answer))
                last = time.perf_counter()
            elif process.sentinel in ready:
                return self._dead(kills)
            if self.memory_limit_bytes is not None and _resident(process.pid) > self._limit():
                return "oom", None, f"held more than its limit of {self.memory_limit_bytes:,} bytes", ""

    def _send(self, message: bytes) -> None:
        with self._lock, contextlib.suppress(OSError):  # a process that is gone shows at the next look
            assert self._connection is not None
            self._connection.send_bytes(message)

    def _dead(self, kills: int) -> tuple[Kind, Any, str, str]:
        kind, reason = death(_exit_code(self._process), kernel_kills() > kills)
        return kind, None, reason, ""

    def _limit(self) -> int:
        return self._at_start_bytes + (self.memory_limit_bytes or 0) + IMPORTS_BYTES


def run_alone(
    function: Callable[..., Any], *args: Any, timeout_s: float | None = None,
    memory_limit_bytes: int | None = None, **kwargs: Any,
) -> Outcome:  # fmt: skip
    """Run a function in a process of its own that ends with it, and return what came of it."""
    with Worker(memory_limit_bytes) as worker:
        return worker.call(function, *args, timeout_s=timeout_s, **kwargs)


def _ignore(_: Any) -> None:
    """Stand in where the caller gave no ear."""


def _received(kind: str, payload: Any, reason: str, trace: str) -> tuple[Kind, Any, str, str]:
    if kind != "ok":
        return kind_of(reason), None, reason, trace
    try:
        return "ok", pickle.loads(payload), "", ""
    except Exception as error:
        return "exception", None, f"its result cannot be read here: {type(error).__name__}: {error}", ""


def _exit_code(process: Any, patience_s: float = 5.0) -> int | None:
    """Return a dying process's exit code: its pipes close a moment before the system tells it."""
    deadline = time.monotonic() + patience_s
    while process.exitcode is None and time.monotonic() < deadline:
        time.sleep(0.002)
    return process.exitcode


def _resident(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.NoSuchProcess:
        return 0
