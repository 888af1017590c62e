"""A worker's process: how it starts, what it does from inside, and what a function that runs there says and asks.

It starts as a new Python, or as a copy of one that has large libraries imported already: importing torch and
transformers takes some four seconds of a core, a copy a few hundredths. Not copied is where a driver of an
accelerator is: what the imports leave of it cannot be known without one, and a CUDA context does not survive a fork.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import pickle
import signal
import sys
import threading
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

_DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # CUDA, CUDA under WSL, ROCm
# By torch once it is imported, by us for its profiler, its loader's processes and Ray, by Ray, by pytest for each test;
# and the run's folder, where the caller writes and no worker does.
_SET_WHILE_RUNNING = {"KINETO_LOG_LEVEL", "KMP_DUPLICATE_LIB_OK", "PYTEST_CURRENT_TEST", "TORCHINDUCTOR_CACHE_DIR"}
_SET_WHILE_RUNNING |= {"TORCH_WARM_POOL", "TOKENIZERS_PARALLELISM", "PYTHONBREAKPOINT", "OCRLAB_RUN_FOLDER"}
_SET_WHILE_RUNNING |= {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"}
_preloaded = {"torch": None}
_environment: dict[str, str] | None = None
_caller: Connection | None = None  # in the worker's process, while a call goes on
_stopping: Any = None  # there: a shared byte that the caller sets to end a call early


def preload(*modules: str) -> None:
    """Have these modules imported before a worker is copied; to be called before the first worker starts."""
    _preloaded.update(dict.fromkeys(modules))


def variables() -> dict[str, str]:
    """Return the environment variables that a worker's copy must share with its caller."""
    return {name: value for name, value in os.environ.items() if name not in _SET_WHILE_RUNNING}


def context(fresh: bool = False) -> Any:
    """Return multiprocessing's context for the next worker: `spawn` for a new Python, or `forkserver` for a copy.

    Asked before there is a worker, it begins the imports in the background, so that the first one need not wait.

    A copy has the environment variables of the first one's start, which native libraries read once: where they are
    others by now, the process starts anew, as on any system but Linux.
    """
    global _environment
    if fresh or sys.platform != "linux" or any(Path(driver).exists() for driver in _DRIVERS):
        return multiprocessing.get_context("spawn")
    now = variables()
    if _environment is None:
        _environment = now
    if _environment != now:
        return multiprocessing.get_context("spawn")
    copies = multiprocessing.get_context("forkserver")
    copies.set_forkserver_preload(list(_preloaded))
    multiprocessing.resource_tracker.ensure_running()  # which the server starts too, and which unblocks signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # it ignores Ctrl-C only after its imports
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return copies


def report(value: Any) -> None:
    """Send a picklable value to the caller at once; outside a worker's call nothing happens."""
    if _caller is not None:
        _caller.send(("progress", value, ""))


def ask(question: Any) -> Any:
    """Return the caller's answer to a picklable question; call it from one thread only.

    Raises:
        RuntimeError: outside a worker's call nobody answers.
    """
    if _caller is None:
        raise RuntimeError("ask: nobody answers outside a worker's call")
    _caller.send(("question", question, ""))
    return _caller.recv()


def stop_asked() -> bool:
    """Return whether the caller wants this call to end early; a function that can, looks every now and then."""
    return _caller is not None and bool(_stopping.value)


def serve(connection: Connection, stopping: Any) -> None:
    """The process's own loop: receive a function, run it, answer; ends when the caller is gone."""
    global _caller, _stopping
    _stopping = stopping
    _end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the caller's to handle; it ends this process
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    while True:
        try:
            request = connection.recv_bytes()
        except (EOFError, OSError):
            return
        _caller = connection
        answer = _answer(request)
        _caller = None
        connection.send_bytes(answer)


def _answer(request: bytes) -> bytes:
    """Return what came of a call, pickled: `ok` and the value, or `exception` and its words.

    Only text crosses over of an exception: its own payload may not be picklable.
    """
    try:
        function, args, kwargs = pickle.loads(request)
        value = function(*args, **kwargs)
        try:
            return pickle.dumps(("ok", value, ""))
        except Exception as error:
            raise TypeError(f"its result of type {type(value).__name__} cannot be pickled: {error}") from error
    except BaseException as error:
        try:
            words = " ".join(str(error).split())
        except Exception:
            words = "(its message could not be made)"
        return pickle.dumps(("exception", None, f"{type(error).__name__}: {words}"[:4000]))


def _end_with_parent() -> None:
    """End this process when the caller's ends, however it ends."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: works in a stuck process too

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
