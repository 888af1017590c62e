"""The worker's process from inside: receive a function, run it, answer; end when the caller is gone."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from multiprocessing.connection import Connection, wait

import psutil

from ocrlab.machine.progress import STOP, on_line

IMPORTS_BYTES = 400_000_000  # what importing torch and transformers takes, which a memory limit does not count


def serve(connection: Connection, memory_limit_bytes: int | None) -> None:
    """The process's own loop: receive, run, answer; ends when the caller is gone."""
    _end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the caller's to handle; it ends this process
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    if memory_limit_bytes is not None:
        _limit_memory(memory_limit_bytes)
    while True:
        try:
            request = connection.recv_bytes()
        except (EOFError, OSError):
            return
        if request == STOP:
            continue  # it came after the answer that it was to prevent
        with on_line(connection):
            answer = _answer(request)
        connection.send_bytes(answer)


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
    with contextlib.suppress(ImportError, ValueError, OSError, AttributeError):
        import resource

        held = psutil.Process().memory_info().data
        most = held + memory_limit_bytes + IMPORTS_BYTES
        resource.setrlimit(resource.RLIMIT_DATA, (most, resource.RLIM_INFINITY))
