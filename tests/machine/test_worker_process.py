"""What a call says before it returns, and that it ends when asked: by itself, or with its process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from ocrlab.machine.worker import Worker
from ocrlab.machine.worker_process import ask, report, stop_asked
from tests.machine import deaths, talkers


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker() as shared:
        yield shared


def stopping(worker: Worker, patience_s: float) -> Any:
    """Return a progress callback that asks for a stop at the first word, from another thread as a button does."""
    return lambda _: threading.Thread(target=worker.stop, args=(patience_s,)).start()


def test_values_come_in_order_and_before_the_result(worker: Worker) -> None:
    heard: list[int] = []
    outcome = worker.call(talkers.count_aloud, 200, on_progress=heard.append)
    assert heard == list(range(200)) and outcome.value == "done"


def test_nobody_needs_to_listen(worker: Worker) -> None:
    assert worker.call(talkers.count_aloud, 3).value == "done"


def test_outside_a_worker_nothing_is_said_or_asked() -> None:
    report("to nobody")
    assert stop_asked() is False


def test_a_function_that_listens_ends_early_and_keeps_its_process(worker: Worker) -> None:
    worker.call(deaths.add, 1, 1)
    before = worker.pid
    outcome = worker.call(talkers.until_stopped, on_progress=stopping(worker, 20))
    assert outcome.value == "stopped early"
    assert worker.call(talkers.count_aloud, 1).value == "done" and worker.pid == before


def test_a_deaf_function_loses_its_process_and_the_next_call_is_healthy(worker: Worker) -> None:
    worker.call(deaths.add, 1, 1)
    before = worker.pid
    outcome = worker.call(talkers.deaf, on_progress=stopping(worker, 0.2))
    assert outcome.kind == "stopped" and outcome.fatal and "process was ended" in outcome.reason
    assert worker.call(deaths.add, 2, 2).value == 4 and worker.pid != before


def test_asked_to_stop_again_the_shorter_patience_counts(worker: Worker) -> None:
    def twice(_: str) -> None:
        threading.Thread(target=lambda: (worker.stop(600), worker.stop(0.2), worker.stop(600))).start()

    assert worker.call(talkers.deaf, on_progress=twice).kind == "stopped", "left alone it comes back by itself"


def test_questions_are_answered_and_a_stop_between_is_not_taken_for_an_answer(worker: Worker) -> None:
    def answer(question: int) -> int:
        if question == 3:
            worker.stop(60)
        return question * question

    assert worker.call(talkers.ask_squares, 5, on_question=answer).value == ([0, 1, 4, 9, 16], True)
    with pytest.raises(RuntimeError, match="nobody answers"):
        ask("outside")


def test_a_stop_that_comes_late_hurts_nobody(worker: Worker) -> None:
    worker.call(deaths.add, 1, 1)
    before = worker.pid
    worker.stop()  # nothing goes on
    worker._stopping.value = True  # one that crossed with the answer
    assert worker.call(talkers.ask_squares, 1, on_question=abs).value == ([0], False) and worker.pid == before
