"""Whole runs over tiny notebooks. Each kernel costs a second, so most tests look at one run, made once."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import psutil
import pytest
from papermill.engines import NotebookExecutionManager

from ocrlab.commands.cli import main
from ocrlab.commands.parameters import CommandError, CommandFailed
from ocrlab.commands.reproduce import reproduce
from ocrlab.commands.run_notebook import own_kernels, run_notebook
from ocrlab.study import provenance
from tests.notebooks import cell, write

TYPED = """
pages = 20  # a = b
temperature: float | None = None
names = ["a"]
extra = {"k": 1}
flag = False
ratio = 1.0
"""
BAR = """
import sys
for step in range(3):
    print(f"\\rstep {step}", end="", flush=True)
print("\\r\\ndone", flush=True)
print("note", file=sys.stderr)
"""
LOOK = """
import json, os, sys
import matplotlib
from ipykernel.connect import get_connection_info
shown = [pages, temperature, names, extra, flag, ratio]
print([type(v).__name__ for v in shown], shown)
print(sys.executable, os.getcwd(), "inline" in matplotlib.get_backend(), "planted" in globals())
print(json.loads(get_connection_info())["transport"])
print({n: os.environ.get(n) for n in ("OCRLAB_RUN_FOLDER", "OCRLAB_PROFILE", "HF_HUB_OFFLINE")})
"""
ORPHAN = """
import os, subprocess, sys
print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid)
"""
NOTEBOOKS = {
    "typed": ["# Typed?", cell(TYPED, "parameters"), cell(LOOK)],
    "killed": ["# Killed?", cell(ORPHAN), cell("os.kill(os.getpid(), 9)"), "after", cell("2")],
    "crashed": [cell("import ctypes"), cell("ctypes.string_at(0)"), cell("3")],
    "slow": [cell("import time"), cell("print('x', flush=True)\ntime.sleep(60)"), cell("4")],
    "raises": [cell("int('expected')", "raises-exception"), cell("1 / 0"), cell("5")],
    "left": [cell("import sys; sys.exit(0)"), cell("6")],
    "allowed": [cell("int('expected')", "raises-exception"), cell("print('end')")],
    "later": [cell("print('still ran')"), cell(BAR)],
}


segfaults = pytest.mark.skipif(os.name == "nt", reason="ctypes makes an OSError of it there")


def lay_out(folder: Path, notebooks: dict) -> dict:
    """Write notebooks and their experiments.yaml; return the arguments that make `reproduce` use them."""
    for name, cells in notebooks.items():
        write(folder / f"{name}.ipynb", *cells)
    entries = [f"{name}:\n  cell_timeout_s: {2 if name == 'slow' else 60}\n" for name in notebooks]
    (folder / "experiments.yaml").write_text("".join(entries), encoding="utf-8")
    return {"notebooks": folder, "experiments": folder / "experiments.yaml", "results": folder / "results"}


@pytest.fixture(scope="module")
def patched():
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(provenance, "describe_machine", lambda: {"cpu": "stub", "memory_bytes": 2**30})
        yield monkeypatch


@pytest.fixture(scope="module")
def ran(tmp_path_factory, patched, request):
    """One run of all notebooks, in a hostile home: a bad user kernel, a planted start-up file, another directory."""
    folder, home = tmp_path_factory.mktemp("run $HOME {braces}"), tmp_path_factory.mktemp("home")
    bad = json.dumps({"argv": ["false", "{connection_file}"], "display_name": "bad", "language": "python"})
    for place in (home / ".local/share/jupyter", home / "data", home / "path"):
        for name in ("python3", "ocrlab"):
            (place / "kernels" / name).mkdir(parents=True)
            (place / "kernels" / name / "kernel.json").write_text(bad)
    startup = home / ".ipython/profile_default/startup"
    startup.mkdir(parents=True)
    (startup / "00.py").write_text("planted = True")
    with pytest.MonkeyPatch.context() as hostile:
        for name, value in {"HOME": home, "JUPYTER_DATA_DIR": home / "data", "JUPYTER_PATH": home / "path",
                            "JUPYTER_PREFER_ENV_PATH": "0", "IPYTHONDIR": home / ".ipython", "MPLBACKEND": "Agg",
                            "HF_HUB_OFFLINE": "0"}.items():  # fmt: skip
            hostile.setenv(name, str(value))
        hostile.chdir(home)
        before = {str(p) for p in home.rglob("*")}
        capture = request.config.pluginmanager.getplugin("capturemanager")
        arguments = lay_out(folder, NOTEBOOKS)
        with capture.global_and_fixture_disabled():
            code, said = _captured(arguments | {
                "profile": "smoke", "run": "all",
                "params": "pages=3 temperature=1 names=['it''s \"q\"', б] extra={a: [1, null]} flag=true ratio=2",
            })  # fmt: skip
        new = {str(p) for p in home.rglob("*")} - before
    return SimpleNamespace(folder=folder / "results" / "all", code=code, said=said, home=home, new=new)


def _captured(arguments: dict) -> tuple[int, str]:
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = reproduce(**arguments)
    return code, out.getvalue()


def saved(ran, name: str) -> nbformat.NotebookNode:
    node = nbformat.read(ran.folder / "notebooks" / f"{name}.ipynb", as_version=4)
    nbformat.validate(node)
    return node


def statuses(node) -> list[str]:
    return [c.metadata.papermill.status for c in node.cells]


def printed(node, index: int) -> str:
    return "".join(o.text for o in node.cells[index].outputs if o.output_type == "stream")


def test_values_arrive_typed(ran):
    lines = printed(saved(ran, "typed"), 3).splitlines()
    assert lines[0] == ("['int', 'float', 'list', 'dict', 'bool', 'float'] "
                        "[3, 1.0, ['it\\'s \"q\"', 'б'], {'a': [1, None]}, True, 2.0]")  # fmt: skip


def test_the_kernel_is_this_python_in_the_notebook_s_folder_whatever_the_user_has(ran):
    lines = printed(saved(ran, "typed"), 3).splitlines()
    assert lines[1] == f"{sys.executable} {ran.folder.parent.parent} True False"
    assert lines[2] == ("tcp" if os.name == "nt" else "ipc")
    assert lines[3] == str({"OCRLAB_RUN_FOLDER": str(ran.folder), "OCRLAB_PROFILE": "smoke", "HF_HUB_OFFLINE": "1"})


def test_jupyter_writes_nothing_into_the_home_folder(ran):
    assert [name for name in ran.new if "/.config" not in name and "/.cache" not in name] == []  # matplotlib's own


def test_saved_notebooks_open_anywhere_and_name_no_folder(ran):
    for name in NOTEBOOKS:
        node = saved(ran, name)
        assert node.metadata.kernelspec == {
            "display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3",
        }  # fmt: skip
        assert node.metadata.papermill.input_path == node.metadata.papermill.output_path == f"{name}.ipynb"
    assert sorted(p.name for p in (ran.folder / "notebooks").iterdir()) == sorted(f"{n}.ipynb" for n in NOTEBOOKS)


@pytest.mark.parametrize(
    ("name", "place", "status", "ename", "text"),
    [
        ("killed", 2, "crashed", "DeadKernelError", "the kernel's process died while this cell ran"),
        pytest.param(
            "crashed", 1, "crashed", "DeadKernelError", "Segmentation fault; the kernel's process died", marks=segfaults
        ),
        ("slow", 1, "timeout", "CellTimeoutError", "did not end within 2 s and was stopped; raise cell_timeout_s"),
        ("raises", 1, "error", "ZeroDivisionError", "division by zero"),
        ("left", 0, "error", "SystemExit", "0"),
    ],
)
def test_the_failing_cell_shows_what_happened(ran, name, place, status, ename, text):
    node = saved(ran, name)
    error = [output for output in node.cells[place].outputs if output.output_type == "error"][-1]
    assert error.ename == ename and text in error.evalue
    assert statuses(node) == ["completed"] * place + ["failed"] + ["pending"] * (len(node.cells) - place - 1)
    assert all(c.metadata.papermill.start_time is None for c in node.cells[place + 1 :])
    assert node.metadata.papermill.exception is True and node.metadata.papermill.outcome.status == status
    entry = provenance.read_record(ran.folder)["notebooks"][name]
    assert entry["status"] == status and text in entry["reason"]
    assert entry["cell"].startswith(f"cell {place + 1}, In [")


@segfaults
def test_a_native_crash_leaves_its_stack(ran):
    assert any("string_at" in line for line in saved(ran, "crashed").cells[1].outputs[-1].traceback)


def test_output_before_the_end_is_kept(ran):
    assert printed(saved(ran, "slow"), 1) == "x\n"


def test_a_progress_bar_leaves_its_last_state(ran):
    streams = [(o.name, o.text) for o in saved(ran, "later").cells[1].outputs]
    assert streams == [("stdout", "step 2\ndone\n"), ("stderr", "note\n")]


@pytest.mark.skipif(os.name == "nt", reason="no process groups; ocrlab's own processes end with their caller there")
def test_what_a_killed_kernel_started_is_ended_too(ran):
    orphan = int(printed(saved(ran, "killed"), 1))
    assert not psutil.pid_exists(orphan) or psutil.Process(orphan).status() == psutil.STATUS_ZOMBIE


def test_an_allowed_error_is_no_failure_and_the_others_still_run(ran):
    for name in ("typed", "allowed", "later"):
        node = saved(ran, name)
        assert set(statuses(node)) == {"completed"} and not node.metadata.papermill.exception
        assert not any("papermill-error" in c.source for c in node.cells)
    assert printed(saved(ran, "later"), 0) == "still ran\n"
    assert ran.code == 1


@segfaults
def test_the_summary_tells_each_notebook(ran):
    lines = ran.said.splitlines()
    assert lines[0] == "profile smoke (asked for), run all"
    assert lines[1].startswith("[1/8] typed starts with pages=3, temperature=1.0, names=")
    assert any(line.startswith("[2/8] killed crashed after ") for line in lines)
    table = [line.split(maxsplit=3) for line in lines[lines.index("notebook  outcome  seconds  failing cell") + 1 :]]
    assert [(row[0], row[1], *row[3:]) for row in table[:8]] == [
        ("typed", "ok"), ("killed", "crashed", "cell 3, In [2]"), ("crashed", "crashed", "cell 2, In [2]"),
        ("slow", "timeout", "cell 2, In [2]"), ("raises", "error", "cell 2, In [2]"),
        ("left", "error", "cell 1, In [1]"),
        ("allowed", "ok"), ("later", "ok"),
    ]  # fmt: skip
    assert lines[-1] == f"site: {ran.folder / 'index.html'}"
    assert (ran.folder / "index.html").is_file() and (ran.folder / "killed.html").is_file()


def test_the_record_tells_where_the_numbers_come_from(ran):
    record = provenance.read_record(ran.folder)
    assert (record["run"], record["profile"], record["machine"]["cpu"]) == ("all", "smoke", "stub")
    assert record["started"] <= record["ended"] and record["started"][10] == "T"
    assert record["versions"]["papermill"] == "2.7.0" and "python" in record["versions"]
    assert record["notebooks"]["typed"]["parameters"]["pages"] == 3
    assert record["commit"] == record["notebooks"]["typed"]["commit"] == provenance.code_state()["commit"]
    assert str(ran.home) not in (ran.folder / "run.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("cells", [["# No code?"], ["# Code?", cell("1")]])
def test_a_kernel_that_does_not_start_is_told_in_the_notebook(tmp_path, monkeypatch, cells):
    if shutil.which("false") is None:
        pytest.skip("no program here that ends at once")
    monkeypatch.setattr(sys, "executable", "false")
    outcome = run_notebook(write(tmp_path / "a.ipynb", *cells), tmp_path / "out.ipynb", {}, {}, limit_s=60)
    assert (outcome.status, outcome.cell) == ("crashed", "cell 2") and "the kernel did not start" in outcome.reason
    node = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    assert node.cells[1].outputs[-1].ename == "DeadKernelError" and node.metadata.papermill.exception is True


@pytest.mark.skipif(os.name == "nt", reason="no Unix sockets between kernels on Windows")
def test_a_long_temporary_folder_still_leaves_room_for_sockets(tmp_path, monkeypatch):
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with own_kernels({}) as kernels:
        manager = kernels(kernel_name="python3")
        assert manager.transport == "ipc" and len(f"{manager.ip}-5") < 103
        assert manager.ip.startswith("/tmp/ocrlab-") and Path(manager.ip).parent.stat().st_mode & 0o077 == 0
    assert not Path(manager.ip).parent.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"params": "page=3"}, "no parameter 'page' in one; did you mean pages?"),
        ({"params": "pages=x"}, "one.ipynb: pages = 'x' was given; wanted int"),
        ({"params": "pages"}, "'pages' is no `name=value`"), ({"only": "on"}, "did you mean one?"),
        ({"model": "tiny"}, "no parameter 'model_id'"), ({"model": "./absent"}, "no such folder"),
        ({"run": "a/b"}, "not a folder name"),
    ],
)  # fmt: skip
def test_unusable_arguments_stop_before_anything_runs(tmp_path, arguments, message):
    given = lay_out(tmp_path, {"one": [cell("pages = 1", "parameters"), cell("1 / 0")]})
    with pytest.raises(CommandError, match=re.escape(message)):
        reproduce(**({"profile": "smoke"} | given | arguments))
    assert not (tmp_path / "results").exists()


def test_a_disk_that_fills_up_on_the_way_is_told_and_the_kernel_ends(tmp_path, mount, patched):
    given = lay_out(tmp_path, {"one": [cell("import os\nprint(os.getpid())"), cell("print('x' * 9_000_000)")]})
    given |= {"profile": "smoke", "run": "r", "results": mount("size=6m")}
    with pytest.raises(CommandFailed, match=r"No space left.*run again with RUN=r: what is there is kept"):
        reproduce(**given)
    left = [p for p in psutil.Process().children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE]
    assert not [p for p in left if "ipykernel_launcher" in " ".join(p.cmdline())]


def test_a_second_run_of_the_same_name_keeps_the_other_notebooks(tmp_path, patched):
    given = lay_out(tmp_path, {"one": [cell("print(1)")], "two": ["# Two?"]}) | {"profile": "smoke", "run": "r"}
    assert _captured(given | {"only": "two"})[0] == 0
    assert _captured(given | {"only": "one.ipynb"})[0] == 0
    assert list(provenance.read_record(tmp_path / "results" / "r")["notebooks"]) == ["two", "one"]


@pytest.mark.skipif(os.name == "nt", reason="no SIGINT to another process on Windows")
def test_ctrl_c_ends_the_kernel_and_keeps_what_there_is(tmp_path):
    given = lay_out(tmp_path, {
        "one": [cell("import os, time\nprint(os.getpid(), flush=True)"), cell("open('begun', 'w')\ntime.sleep(60)")],
        "two": [cell("2")],
    })  # fmt: skip
    script = (
        # A job in the background of a shell ignores Ctrl-C, and so would what it starts.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import sys; from pathlib import Path\n"
        "from ocrlab.commands import reproduce; from ocrlab.study import provenance\n"
        "provenance.describe_machine = dict\n"
        f"given = {{name: Path(value) for name, value in { ({k: str(v) for k, v in given.items()})!r}.items()}}\n"
        "sys.exit(reproduce.reproduce('smoke', run='r', **given))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "begun").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    folder = tmp_path / "results" / "r"
    node = nbformat.read(folder / "notebooks" / "one.ipynb", as_version=4)
    assert statuses(node) == ["completed", "failed"]
    assert node.cells[1].outputs[-1].ename == "KeyboardInterrupt"
    assert not psutil.pid_exists(int(printed(node, 0)))
    assert "one       interrupted" in out and "Traceback" not in err
    assert list(provenance.read_record(folder)["notebooks"]) == ["one"]
    assert (folder / "index.html").is_file()


def test_ctrl_c_while_no_cell_runs_is_an_interruption_too(tmp_path, patched, monkeypatch):
    """Between two cells, after a cell's own error, and while the notebook is saved: no further notebook runs."""
    cells = {"one": [cell("1"), cell("2")], "failing": [cell("1 / 0"), cell("2")], "next": [cell("3")]}
    given = lay_out(tmp_path, cells) | {"profile": "smoke"}
    for method, only, shown in (
        ("cell_complete", "one", "cell 1, In [1]"),
        ("cleanup_pbar", "one", ""),
        ("cell_complete", "failing", "cell 1, In [1]"),
    ):
        with monkeypatch.context() as stop:
            stop.setattr(NotebookExecutionManager, method, _raise_interrupt)
            assert reproduce(**given, run=f"{method}-{only}", only=f"{only},next") == 130
        record = provenance.read_record(tmp_path / "results" / f"{method}-{only}")
        assert {name: entry["status"] for name, entry in record["notebooks"].items()} == {only: "interrupted"}
        assert record["notebooks"][only]["cell"] == shown and record["sessions"][-1]["exit_code"] == 130


def _raise_interrupt(*_, **__):
    raise KeyboardInterrupt


def test_any_command_says_that_it_was_stopped(monkeypatch, capsys):
    monkeypatch.setattr("ocrlab.commands.upgrade.rollback", _raise_interrupt)
    assert main(["rollback"]) == 130 and capsys.readouterr().err == "stopped\n"


def test_an_error_that_nobody_foresaw_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr("ocrlab.commands.upgrade.rollback", lambda: {}["no such"])
    with pytest.raises(KeyError):
        main(["rollback"])


def test_a_profile_that_is_none_is_refused(capsys):
    assert main(["reproduce", "--profile", "cpuu"]) == 2
    assert "'smoke', 'cpu', 'gpu'" in capsys.readouterr().err
