"""Functions that talk with their caller while they run; they run in workers."""

from __future__ import annotations

import time

from ocrlab.machine.worker_process import ask, report, stop_asked


def count_aloud(to: int) -> str:
    for number in range(to):
        report(number)
    return "done"


def until_stopped() -> str:
    report("begun")
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if stop_asked():
            return "stopped early"
        time.sleep(0.005)
    return "never asked"


def deaf() -> None:
    report("begun")
    time.sleep(60)


def ask_squares(to: int) -> tuple[list[int], bool]:
    return [ask(number) for number in range(to)], stop_asked()
