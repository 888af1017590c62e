"""Faults that show only with time: planted in a soak's process by a `prepare` function."""

from __future__ import annotations

import os

from tests.study.faults import turn_heads

_kept: list[bytearray] = []
_calls = 0


def leak_and_change() -> None:
    """Keep a megabyte at every page, written to so that it is held; from the ninth on, misread."""
    global _calls
    _kept.append(bytearray(os.urandom(1)) * 1_000_000)
    _calls += 1
    if _calls == 9:
        turn_heads()


def die_once() -> None:
    """Kill the fifth reading of this process; the next process dies later than the soak lasts."""
    global _calls
    _calls += 1
    if _calls == 5:
        os.abort()
