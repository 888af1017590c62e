"""Each death happens for real, leaves an outcome, and the next call is healthy."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

import ocrlab.reading  # noqa: F401 (names what a worker's process is to have imported)
from ocrlab.machine import worker_process
from ocrlab.machine.worker import Outcome, Worker
from ocrlab.paths import ROOT
from tests.machine import deaths

posix = pytest.mark.skipif(os.name != "posix", reason="POSIX signals")


def run_alone(*call: Any, memory_limit_bytes: int | None = None, timeout_s: float | None = None) -> Outcome:
    with Worker(memory_limit_bytes) as worker:
        return worker.call(*call, timeout_s=timeout_s)


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker() as shared:
        yield shared


DEATHS: list[tuple[Callable[..., Any], tuple[Any, ...], str, str]] = [
    pytest.param(deaths.die_by, (9,), "signal", "SIGKILL", marks=posix, id="SIGKILL"),
    pytest.param(deaths.segfault, (), "signal", "SIGSEGV", marks=posix, id="SIGSEGV"),
    pytest.param(deaths.die_by, (6,), "signal", "SIGABRT", marks=posix, id="SIGABRT"),
    pytest.param(deaths.leave, (17,), "exit", "exit code 17", id="os._exit"),
    pytest.param(deaths.leave, (0,), "exit", "exit code 0", id="os._exit(0)"),
    pytest.param(deaths.loop_forever, (), "timeout", "within 1 s", id="endless"),
    pytest.param(deaths.ignore_terminate, (), "timeout", "within 1 s", marks=posix, id="deaf"),
    pytest.param(
        deaths.raise_message, ("CUDA error: device-side assert triggered",), "assert", "device-side", id="assert"
    ),
    pytest.param(
        deaths.raise_message,
        ("CUDA error: an illegal memory access was encountered",),
        "illegal_address",
        "illegal memory",
        id="illegal address",
    ),
]


@pytest.mark.parametrize(("function", "args", "kind", "says"), DEATHS)
def test_deaths_leave_an_outcome_and_a_healthy_next_call(
    worker: Worker, function: Callable[..., Any], args: tuple[Any, ...], kind: str, says: str
) -> None:
    assert worker.call(deaths.add, 1, 2).value == 3
    before = worker.pid
    outcome = worker.call(function, *args, timeout_s=1 if kind == "timeout" else 60)
    assert (outcome.kind, outcome.fatal) == (kind, True) and says in outcome.reason
    assert worker.call(deaths.add, 2, 2).value == 4
    assert worker.pid != before
    assert before is not None and not psutil.pid_exists(before)


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (deaths.unpicklable, "cannot be pickled"),
        (deaths.raise_unsendable, "Unsendable: holds a lock"),
        (deaths.raise_unspeakable, "Unspeakable"),
        (deaths.exit_politely, "SystemExit: 3"),
    ],
)
def test_exceptions_are_told_and_the_process_goes_on(worker: Worker, function: Callable[..., Any], says: str) -> None:
    worker.call(deaths.add, 0, 0)
    before = worker.pid
    outcome = worker.call(function)
    assert outcome.kind == "exception" and says in outcome.reason
    assert worker.call(deaths.own_pid).value == before


def test_a_worker_keeps_what_earlier_calls_left() -> None:
    with Worker() as worker:
        assert [worker.call(deaths.count).value for _ in range(3)] == [1, 2, 3]
        assert worker.starts == 1
        worker.call(deaths.leave, 1)
        assert worker.call(deaths.count).value == 1 and worker.starts == 2


@posix
def test_a_worker_is_a_copy_unless_it_must_be_a_new_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "_environment", None)
    monkeypatch.setattr(worker_process, "_DRIVERS", ())
    copied = sys.platform == "linux"
    assert run_alone(deaths.has_imported, "torch").value is copied
    with Worker(fresh=True) as worker:
        assert worker.call(deaths.has_imported, "torch").value is False
    monkeypatch.setattr(worker_process, "_DRIVERS", (os.devnull,))
    assert run_alone(deaths.has_imported, "torch").value is False  # as where an accelerator's driver is


@posix
def test_a_worker_has_the_environment_variables_of_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "_environment", None)
    run_alone(deaths.variable, "MALLOC_TRIM_THRESHOLD_")
    import torch._inductor.runtime.cache_dir_utils as cache

    cache.cache_dir()  # sets a variable of torch's own, which is no reason for a new Python
    for name in ("TOKENIZERS_PARALLELISM", "PYTHONBREAKPOINT", "OCRLAB_RUN_FOLDER"):  # nor are these
        monkeypatch.setenv(name, "x")
    assert worker_process.context().get_start_method() == ("forkserver" if sys.platform == "linux" else "spawn")
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    assert run_alone(deaths.variable, "MALLOC_TRIM_THRESHOLD_").value == "131072"
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_")
    assert run_alone(deaths.variable, "MALLOC_TRIM_THRESHOLD_").value is None


def test_huge_allocation_under_a_limit_is_out_of_memory() -> None:
    outcome = run_alone(deaths.allocate, 3_000_000_000, memory_limit_bytes=300_000_000, timeout_s=60)
    assert outcome.kind == "oom"
    assert run_alone(deaths.allocate, 1_000_000, memory_limit_bytes=300_000_000, timeout_s=60).value == 1_000_000


def test_what_cannot_be_sent_is_refused_before_anything_runs(worker: Worker) -> None:
    lock = threading.Lock()
    with pytest.raises(ValueError, match=r"<lambda>.*cannot be sent.*lock"):
        worker.call(lambda: lock)


def test_a_function_without_an_import_name_is_sent_whole(worker: Worker) -> None:
    summand = 40
    assert worker.call(lambda number: summand + number, 2).value == 42
    failed = worker.call(lambda: 1 / (summand - 40))
    assert (failed.kind, failed.reason) == ("exception", "ZeroDivisionError: division by zero")


def test_children_of_a_worker_end_with_it() -> None:
    with Worker() as worker:
        child = worker.call(deaths.start_child).value
        assert psutil.pid_exists(child)
    _gone(child)


# A job in the background of a shell ignores Ctrl-C, and so would what it starts: hence the handler.
_CALLER = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from ocrlab.machine import worker_process
from ocrlab.machine.worker import Worker
from tests.machine import deaths
if __name__ == "__main__":
    with Worker() as worker:
        print(worker.call(deaths.own_pid).value, flush=True)
        worker.call(getattr(deaths, sys.argv[1]))
"""


@pytest.mark.parametrize("work", ["sleep", "loop_forever"])
@pytest.mark.parametrize("how", ["killed", pytest.param("interrupted", marks=posix)])
def test_no_orphan_survives_its_caller(work: str, how: str, tmp_path: Any) -> None:
    script = tmp_path / "caller.py"
    script.write_text(_CALLER, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    caller = subprocess.Popen(
        [sys.executable, str(script), work],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    assert caller.stdout is not None
    pid = int(caller.stdout.readline())
    time.sleep(0.3)
    caller.kill() if how == "killed" else caller.send_signal(signal.SIGINT)
    caller.wait(20)
    _gone(pid)


_IMPORTING = """
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)
import ocrlab.reading
from ocrlab.machine import worker_process
try:
    worker_process.context()
    print("begun", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    print("stopped", flush=True)
"""


@posix
def test_ctrl_c_while_imports_go_on_is_the_callers_alone() -> None:
    caller = subprocess.Popen(
        [sys.executable, "-c", _IMPORTING],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert caller.stdout is not None and caller.stdout.readline() == "begun\n"
    time.sleep(0.5)
    os.killpg(caller.pid, signal.SIGINT)  # as a terminal does: to all that were started
    out, err = caller.communicate(timeout=60)
    assert (out, err) == ("stopped\n", "")


def _gone(pid: int) -> None:
    for _ in range(100):
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return
        except psutil.NoSuchProcess:
            return
        time.sleep(0.1)
    pytest.fail(f"process {pid} is still there")
