"""How a worker's process starts: a new Python, or a copy of one that has the caller's modules imported already.

Importing them takes some four seconds of a core, a copy a few hundredths. Not copied is where a driver of an
accelerator is: what the imports leave of it cannot be told without one, and a CUDA context does not survive a fork.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import signal
import sys
from pathlib import Path
from typing import Any

_imported: list[str] = []
_DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # CUDA, CUDA under WSL, ROCm
# By torch once it is imported, by us for its profiler, by pytest for each test.
_SET_WHILE_RUNNING = {
    "KINETO_LOG_LEVEL", "KMP_DUPLICATE_LIB_OK", "PYTEST_CURRENT_TEST", "TORCHINDUCTOR_CACHE_DIR", "TORCH_WARM_POOL",
}  # fmt: skip
_environment: dict[str, str] | None = None


def preload(*modules: str) -> None:
    """Name the modules that a process has imported before it is copied; to be said before there is a worker."""
    _imported[:] = modules


def context(fresh: bool = False) -> Any:
    """Return multiprocessing's context for the next worker: `spawn` for a new Python, or `forkserver` for a copy.

    Asked before there is a worker, it begins the imports in the background, so that the first one need not wait.

    A copy has the environment variables of the first one's start, which native libraries read once: where they are
    others by now, the process starts anew, as on any system but Linux.
    """
    global _environment
    if fresh or sys.platform != "linux" or any(Path(driver).exists() for driver in _DRIVERS):
        return multiprocessing.get_context("spawn")
    now = {name: value for name, value in os.environ.items() if name not in _SET_WHILE_RUNNING}
    if _environment is None:
        _environment = now
    if _environment != now:
        return multiprocessing.get_context("spawn")
    copies = multiprocessing.get_context("forkserver")
    copies.set_forkserver_preload(_imported)
    multiprocessing.resource_tracker.ensure_running()  # which the server starts too, and which unblocks signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # it ignores Ctrl-C only after its imports
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return copies
