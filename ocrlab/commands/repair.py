"""What really happened in an executed notebook, and the notebook made to say so.

papermill 2.7 reports the cells of a killed kernel and of a time-out as completed (its engine sets every cell left
over to completed after any exception but the cell's own), and takes an error that a cell's `raises-exception` tag
allows for a failure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nbformat
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.exceptions import PapermillExecutionError
from papermill.execute import remove_error_markers

from ocrlab.study.provenance import without_home

_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_KERNELSPEC = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}


@dataclass(frozen=True)
class Outcome:
    """How a notebook ended: `ok`, `error`, `crashed`, `timeout`, `interrupted` or `skipped`, and where and why."""

    status: str
    cell: str = ""
    reason: str = ""


def repair(
    notebook: nbformat.NotebookNode, raised: BaseException | None, limit_s: int, said: str = ""
) -> Outcome:  # fmt: skip
    """Return what happened, and make the notebook show it: the failing cell's error, the status of every cell.

    `raised` is what papermill raised, `limit_s` the cell time limit it ran under, `said` what the kernel's process
    wrote by itself, for a crash to quote. A cell is named `cell 7, In [3]`: seventh from the top, third to run.
    """
    remove_error_markers(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    outcome = Outcome("ok")
    failed = next((cell for cell in cells if _mark(cell).get("status") == "failed"), None)
    if failed is not None:
        errors = [output for output in failed.outputs if output.output_type == "error"]
        reason = f"{errors[-1].ename}: {_ESCAPES.sub('', errors[-1].evalue)}" if errors else "stopped without an error"
        outcome = Outcome("error", _number(notebook, failed), without_home(reason))
    elif raised is not None and not isinstance(raised, PapermillExecutionError):
        started = [cell for cell in cells if _mark(cell).get("start_time")]
        status, name, text = _explain(raised, limit_s, begun=bool(started))
        if status == "crashed" and (fatal := re.search(r"^Fatal Python error: (.*)$", said, re.MULTILINE)):
            text = f"{fatal[1]}; {text}"
        outcome = Outcome(status, reason=f"{name}: {text}")
        if cells:
            failed = started[-1] if started else cells[0]
            if started and not failed.execution_count:  # the dead kernel's last message is lost
                failed.execution_count = 1 + max(cell.execution_count or 0 for cell in started)
            lines = [f"{name}: {text}", *(said.splitlines() if status == "crashed" else [])]
            failed.outputs.append(nbformat.v4.new_output("error", ename=name, evalue=text, traceback=lines))
            outcome = replace(outcome, cell=_number(notebook, failed))
    if failed is not None:
        _set_statuses(notebook, failed)
    _tidy(notebook)
    return outcome


def _explain(raised: BaseException, limit_s: int, begun: bool) -> tuple[str, str, str]:
    if isinstance(raised, KeyboardInterrupt):
        return "interrupted", "KeyboardInterrupt", "stopped by hand (Ctrl-C); this cell and those below did not finish"
    if not begun and isinstance(raised, RuntimeError):
        return "crashed", "DeadKernelError", f"the kernel did not start: {without_home(str(raised))}"
    if isinstance(raised, DeadKernelError):
        return "crashed", "DeadKernelError", (
            "the kernel's process died while this cell ran: killed from outside (often for lack of memory), or crashed "
            "in native code; smaller parameters tell which"
        )  # fmt: skip
    if isinstance(raised, CellTimeoutError) and "IOPub" not in str(raised):
        return "timeout", "CellTimeoutError", (
            f"this cell did not end within {limit_s} s and was stopped; raise cell_timeout_s in experiments.yaml, or "
            "give it smaller parameters"
        )  # fmt: skip
    return "error", type(raised).__name__, without_home(str(raised).strip()[:2000] or "no message")


def _set_statuses(notebook: nbformat.NotebookNode, failed: nbformat.NotebookNode) -> None:
    notebook.metadata.setdefault("papermill", {})["exception"] = True
    _mark(failed).update(status="failed", exception=True)
    place = next(index for index, cell in enumerate(notebook.cells) if cell is failed)
    for cell in notebook.cells[place + 1 :]:
        _mark(cell).update(status="pending", exception=None, start_time=None, end_time=None, duration=None)


def _tidy(notebook: nbformat.NotebookNode) -> None:
    """Take out this machine's paths, name the kernel that everyone has, show streams as a terminal would."""
    notebook.metadata["kernelspec"] = dict(_KERNELSPEC)
    marks = notebook.metadata.get("papermill", {})
    for name in ("input_path", "output_path"):
        if marks.get(name):
            marks[name] = Path(marks[name]).name.replace(".part.ipynb", ".ipynb")
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = _joined(cell.outputs)
            for output in cell.outputs:
                if output.output_type == "error":
                    output.traceback = [without_home(line) for line in output.traceback]


def _joined(outputs: list[Any]) -> list[Any]:
    """Return outputs with neighbouring streams in one, and of a progress bar's line only the last state.

    nbclient's own `coalesce_streams` takes quadratic time in the length of a line: minutes for 100 kB.
    """
    joined: list[Any] = []
    for output in outputs:
        if joined and output.output_type == "stream" and output.name == joined[-1].get("name"):
            joined[-1].text += output.text
        else:
            joined.append(output)
    for output in joined:
        if output.output_type == "stream":
            output.text = "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in output.text.split("\n"))
    return joined


def _mark(cell: nbformat.NotebookNode) -> Any:
    return cell.metadata.setdefault("papermill", {})


def _number(notebook: nbformat.NotebookNode, cell: nbformat.NotebookNode) -> str:
    count = cell.get("execution_count")
    place = next(index for index, other in enumerate(notebook.cells) if other is cell)
    return f"cell {place + 1}" + (f", In [{count}]" if count else "")
