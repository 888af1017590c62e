"""A measurement in a worker's process: its value, or status and reason in the words that rows use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ocrlab.machine.death import sticky
from ocrlab.machine.worker import Worker
from ocrlab.reading.outcome import status_of
from ocrlab.reading.served import ending
from ocrlab.scoring.outcomes import Status


def attempt(
    worker: Worker, function: Callable[..., Any], *args: Any, timeout_s: float | None = None
) -> tuple[Any, Status, str]:
    """Return what `function(*args)` gave in the worker with status ok, or None with status and reason."""
    outcome = worker.call(guarded, function, *args, timeout_s=timeout_s)
    if outcome.ok:
        return outcome.value
    return None, ending(outcome), outcome.reason


def guarded(function: Callable[..., Any], *args: Any) -> tuple[Any, Status, str]:
    """Run a function here; what it raises becomes status and reason, but for what the process cannot outlive."""
    try:
        return function(*args), "ok", ""
    except Exception as error:
        if sticky(str(error)):
            raise
        return None, *status_of(error)
