"""What a function that runs in a worker's process says and asks before it returns, and whether it should stop."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

STOP = b"stop"
"""A message that a caller may send while a call goes on; a late one is dropped before the next call."""
PROGRESS, QUESTION = "progress", "question"

_line: Connection | None = None
_stopped = False


def report(value: Any) -> None:
    """Send a picklable value to the caller at once; outside a worker's call nothing happens."""
    if _line is not None:
        _line.send_bytes(pickle.dumps((PROGRESS, value, "", "")))


def ask(question: Any) -> Any:
    """Return the caller's answer to a picklable question; call it from one thread only.

    Raises:
        RuntimeError: outside a worker's call nobody answers.
    """
    global _stopped
    if _line is None:
        raise RuntimeError("ask: nobody answers outside a worker's call")
    _line.send_bytes(pickle.dumps((QUESTION, question, "", "")))
    while (answer := _line.recv_bytes()) == STOP:
        _stopped = True
    return pickle.loads(answer)


def stop_asked() -> bool:
    """Return whether the caller wants this call to end early; a function that can, looks every now and then."""
    global _stopped
    while _line is not None and not _stopped and _line.poll(0):
        _stopped = _line.recv_bytes() == STOP
    return _stopped


@contextmanager
def on_line(connection: Connection) -> Iterator[None]:
    """Connect `report`, `ask` and `stop_asked` to the caller for the length of one call."""
    global _line, _stopped
    _line, _stopped = connection, False
    try:
        yield
    finally:
        _line = None
