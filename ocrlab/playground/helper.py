"""A second process for all that needs torch but no model: the page's own process stays light and answers at once.

Torch cannot be imported by two threads at a time, and a page's callbacks, readings and forecasts are threads.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

from ocrlab.machine.describe import machine_name, versions
from ocrlab.machine.quarantine import stack
from ocrlab.machine.worker import Worker


class HelperError(RuntimeError):
    """The helper's function failed; the message says how."""


class Helper:
    """Runs one function after another in its process, for any thread that asks."""

    def __init__(self) -> None:
        self._worker, self._turn, self.closed = Worker(), threading.Lock(), False

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Return what the function returns there; it and its arguments must be picklable.

        Raises:
            HelperError: it raised, or its process died twice; the next call starts another.
        """
        with self._turn:
            if self.closed:
                raise HelperError("it was closed")
            outcome = self._worker.call(_offline, function, *args)
            if outcome.fatal and not self.closed:  # what killed it was not the function: a person, or the system
                outcome = self._worker.call(_offline, function, *args)
        if not outcome.ok:
            raise HelperError(outcome.reason)
        return outcome.value

    def close(self) -> None:
        """End the process and whatever it does; later calls raise."""
        self.closed = True
        self._worker.stop(patience_s=0)
        with self._turn:
            self._worker.close()


def _offline(function: Callable[..., Any], *args: Any) -> Any:
    """Run a function in a process that fetches nothing: a forecast must not download the model that it is for."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # in time: the Hub's client is imported where it is used
    return function(*args)


def introduce() -> tuple[str, str]:
    """Return this machine and its stack in words for a heading, and the name of the stack that probes hold for."""
    here = " · ".join(f"{name} {v}" for name, v in versions().items() if name in {"torch", "transformers"})
    return f"{machine_name()} · {here}", stack()
