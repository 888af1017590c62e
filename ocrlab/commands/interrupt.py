"""Ctrl-C, said once: finish what is in hand; said twice: end at once."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def stop_politely(stop: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """Call `stop` at the first Ctrl-C within the block; yield what tells whether it came. The second one interrupts.

    Outside the main thread, where Python takes no signals, Ctrl-C stays as it is.
    """
    asked = False
    if threading.current_thread() is not threading.main_thread():
        yield lambda: asked
        return

    def handle(*_: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        print("\nstopping after the pages in hand; Ctrl-C once more ends at once", file=sys.stderr)
        stop()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)
