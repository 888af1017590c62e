"""A notebook run from start to end by papermill, in a fresh kernel of this Python; the failing cell says what happened.

papermill 2.7 catches a cell's own exception only: after a kernel's death or a time-out it marks every cell completed.
Our engine catches these too, while the notebook is still papermill's to save.
"""

from __future__ import annotations

import base64
import io
import logging
import os
import re
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from papermill.engines import NBClientEngine, NotebookExecutionManager
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from PIL import Image

from ocrlab import paths
from ocrlab.study.provenance import without_home

STOPPED = "stopped by hand (Ctrl-C)"
# A Unix socket's path may have 107 bytes on Linux and 103 on macOS; "/kernel-5" follows the folder.
_SOCKET_FOLDER_BYTES = 90
_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_KERNELSPEC = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}

# Their lines ("Kernel died while waiting for execute reply") say less than our summary and look like ours.
logging.getLogger("papermill").setLevel(logging.CRITICAL)
# asyncio reports a cell that Ctrl-C ended, which we report ourselves.
logging.getLogger("asyncio").addFilter(
    lambda record: not (record.exc_info and isinstance(record.exc_info[1], CellExecutionError))
)


@dataclass(frozen=True)
class Outcome:
    """How a notebook ended: `ok`, `error`, `crashed`, `timeout`, `interrupted` or `skipped`, and where and why."""

    status: str
    cell: str = ""
    reason: str = ""


def run_notebook(
    notebook: Path, output: Path, parameters: dict[str, Any], environment: dict[str, str], limit_s: int, title: str = ""
) -> Outcome:
    """Return how the run ended; whatever the end, `output` is the notebook as far as it came, moved there whole.

    The kernel works in the notebook's own folder, as in JupyterLab. `parameters` are taken as checked, `limit_s` is
    the time limit of each cell in seconds. A progress bar over the cells shows on a terminal only. Ctrl-C ends the
    kernel and gives the outcome `interrupted`.

    Raises:
        OSError: the output cannot be written.
    """
    part = output.with_name(f"{output.stem}.part.ipynb")
    node = load_notebook_node(str(notebook.absolute()))
    if parameters:
        node = parameterize_notebook(node, parameters, kernel_name="python3", language="python")
    node.metadata.update(kernelspec=dict(_KERNELSPEC))
    node.metadata.papermill.update(input_path=notebook.name, output_path=output.name)
    bar = {"desc": title or notebook.stem, "disable": not sys.stderr.isatty(), "leave": False}
    with own_kernels(environment) as kernels:
        node = Engine.execute_notebook(
            node,
            "python3",
            output_path=str(part.absolute()),
            progress_bar=bar,
            start_timeout=300,
            execution_timeout=limit_s,
            iopub_timeout=60,
            kernel_manager_class=kernels,
            resources={"metadata": {"path": str(notebook.parent)}},
        )
    _tidy(node)
    shrink_images(node)
    nbformat.write(node, part)
    part.replace(output)
    return Outcome(**node.metadata.papermill.outcome)


class Engine(NBClientEngine):  # type: ignore[misc]
    """papermill's engine, with what ended the notebook shown in the cell where it happened.

    How the notebook ended is noted in its metadata, as `papermill.outcome`.
    """

    @classmethod
    def execute_managed_notebook(cls, nb_man: NotebookExecutionManager, kernel_name: str, **options: Any) -> None:
        """Run the cells; a kernel's death, a time-out and Ctrl-C leave a failed cell, as an exception does."""
        raised: BaseException | None = None
        try:
            super().execute_managed_notebook(nb_man, kernel_name, **options)
        except OSError as error:
            if error.errno is not None:
                raise  # the disk, not the notebook; a time-out is an OSError without a number
            raised = error
        except (Exception, KeyboardInterrupt) as error:  # whatever ends one notebook must not end the others
            raised = error
        failed = next((cell for cell in nb_man.nb.cells if cell.metadata.papermill.status == "failed"), None)
        status = "ok" if failed is None else "error"
        if isinstance(raised, KeyboardInterrupt):
            status = "interrupted"  # even after a cell's own error: the person wants no further notebook
        if failed is None and raised is not None:
            status, failed = _fail(nb_man, raised, options)
        nb_man.nb.metadata.papermill.outcome = asdict(_outcome(nb_man.nb, status, failed))


def _fail(nb_man: NotebookExecutionManager, raised: BaseException, options: dict[str, Any]) -> tuple[str, Any]:
    """Give the cell that ran last the error that ended the notebook; return the status and the cell."""
    cells = [cell for cell in nb_man.nb.cells if cell.cell_type == "code"]
    started = [cell for cell in cells if cell.metadata.papermill.start_time]
    if not cells:  # there must be one to show it
        cells = [nbformat.v4.new_code_cell(metadata={"papermill": {}})]
        nb_man.nb.cells += cells
    failed = started[-1] if started else cells[0]
    status, text = _explain(raised, options["execution_timeout"], begun=bool(started))
    name = "DeadKernelError" if status == "crashed" else type(raised).__name__
    said = last_words(options["kernel_manager_class"]) if status == "crashed" else ""
    if fatal := re.search(r"^Fatal Python error: (.*)$", said, re.MULTILINE):
        text = f"{fatal[1]}; {text}"
    if started and not failed.execution_count:  # the dead kernel's last message is lost
        failed.execution_count = 1 + max(cell.execution_count or 0 for cell in started)
    lines = [f"{name}: {text}", *said.splitlines()]
    failed.outputs.append(nbformat.v4.new_output("error", ename=name, evalue=text, traceback=lines))
    nb_man.cell_exception(failed)
    return status, failed


def _explain(raised: BaseException, limit_s: int, begun: bool) -> tuple[str, str]:
    """Return the notebook's status and what to say of the error that ended it."""
    if isinstance(raised, KeyboardInterrupt):
        return "interrupted", f"{STOPPED}; the cells below did not run"
    if not begun and isinstance(raised, RuntimeError):
        return "crashed", f"the kernel did not start: {without_home(str(raised))}"
    if isinstance(raised, DeadKernelError):
        return "crashed", (
            "the kernel's process died while this cell ran: killed from outside (often for lack of memory), or crashed "
            "in native code; smaller parameters show which"
        )
    if isinstance(raised, CellTimeoutError) and "IOPub" not in str(raised):
        return "timeout", (
            f"this cell did not end within {limit_s} s and was stopped; raise cell_timeout_s in experiments.yaml, or "
            "give it smaller parameters"
        )
    return "error", without_home(str(raised).strip()[:2000] or "no message")


def _outcome(notebook: nbformat.NotebookNode, status: str, failed: nbformat.NotebookNode | None) -> Outcome:
    """Name the failed cell `cell 7, In [3]`: seventh from the top, third to run."""
    if failed is None:
        return Outcome(status)
    place = next(index for index, cell in enumerate(notebook.cells, start=1) if cell is failed)
    count = failed.get("execution_count")
    errors = [output for output in failed.outputs if output.output_type == "error"]
    reason = f"{errors[-1].ename}: {_ESCAPES.sub('', errors[-1].evalue)}" if errors else "stopped without an error"
    return Outcome(status, f"cell {place}" + (f", In [{count}]" if count else ""), without_home(reason))


def _tidy(notebook: nbformat.NotebookNode) -> None:
    """Take this machine's paths out of tracebacks, join neighbouring streams, and keep a progress bar's last state.

    nbclient's own `coalesce_streams` takes quadratic time in the length of a line: minutes for 100 kB.
    """
    for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
        outputs, cell.outputs = cell.outputs, []
        for output in outputs:
            last: Any = cell.outputs[-1] if cell.outputs else {}
            if output.output_type == "error":
                output.traceback = [without_home(line) for line in output.traceback]
            if output.output_type == "stream" and output.name == last.get("name"):
                last.text += output.text
            else:
                cell.outputs.append(output)
        for output in (output for output in cell.outputs if output.output_type == "stream"):
            output.text = "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in output.text.split("\n"))


def shrink_images(notebook: nbformat.NotebookNode) -> None:
    """Replace every PNG output by the same picture with at most 128 colours where that is smaller (a half, mostly)."""
    outputs = (output for cell in notebook.cells for output in cell.get("outputs", []))
    for data in (output.data for output in outputs if "image/png" in output.get("data", {})):
        png = base64.b64decode(data["image/png"])
        image = Image.open(io.BytesIO(png)).convert("RGBA")
        paper = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
        few = paper.quantize(128, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
        stored = io.BytesIO()
        few.save(stored, "PNG", optimize=True, dpi=(110, 110))
        if len(stored.getvalue()) < len(png):
            data["image/png"] = base64.b64encode(stored.getvalue()).decode()


def refresh(names: Sequence[str] | None, notebooks: Path = paths.NOTEBOOKS) -> int:
    """Run notebooks with their default parameters and keep the outputs of cells tagged `nbval-check-output` alone.

    Returns 0, or 1 where a notebook failed: it is then left as it was.
    """
    failed = 0
    for source in (file for file in sorted(notebooks.glob("*.ipynb")) if not names or file.stem in names):
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / source.name
            environment = {"OCRLAB_RUN_FOLDER": folder, "HF_HUB_OFFLINE": "1"}
            outcome = run_notebook(source, output, {}, environment, limit_s=600)
            print(f"{source.stem}: {outcome.status} {outcome.cell} {outcome.reason}".strip(), flush=True)
            if outcome.status == "ok":
                _keep_checked(source, nbformat.read(output, as_version=4))
            else:
                failed = 1
    return failed


def _keep_checked(source: Path, executed: nbformat.NotebookNode) -> None:
    notebook = nbformat.read(source, as_version=4)
    done = {cell.get("id"): cell for cell in executed.cells}
    for cell in (c for c in notebook.cells if c.cell_type == "code"):
        # nbval takes outputs without a count for an unrun cell.
        cell.outputs, cell.execution_count = [], None
        if "nbval-check-output" in cell.metadata.get("tags", []):
            cell.update(outputs=done[cell.id].outputs, execution_count=done[cell.id].execution_count)
    nbformat.write(notebook, source)


class OwnSpecs(KernelSpecManager):
    """Offers a server one kernel: this very Python, whatever kernelspecs the user or the system has."""

    def _kernel_dirs_default(self) -> list[str]:
        return []  # nothing is searched; ipykernel's own spec remains, which names sys.executable


@contextmanager
def own_kernels(environment: dict[str, str]) -> Iterator[type[AsyncKernelManager]]:
    """Yield a kernel manager class for one notebook: this Python, with `environment` on top of ours.

    Nothing is searched for: the kernel's command is made here, so no kernelspec of the user or the system can take
    its place. Messages go through Unix sockets in a private folder where the system has them, TCP on loopback
    elsewhere. IPython's start-up files and Jupyter's runtime files live in that folder too, not in the home folder.
    """
    with tempfile.TemporaryDirectory(prefix="ocrlab-", dir=_short_folder(), ignore_cleanup_errors=True) as folder:
        own = {
            "IPYTHONDIR": str(Path(folder, "ipython")),
            "JUPYTER_RUNTIME_DIR": folder,
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        }

        class OwnKernel(_Kernel):
            home = Path(folder)
            # jupyter_client expands $NAME in these values; $$ is a plain $.
            environ = {name: value.replace("$", "$$") for name, value in {**own, **environment}.items()}  # noqa: RUF012

        yield OwnKernel


def last_words(kernel: type[AsyncKernelManager]) -> str:
    """Return the end of what a kernel's process wrote by itself, at most 30 lines; empty when it said nothing."""
    try:
        text = (kernel.home / "kernel.log").read_text(encoding="utf-8", errors="replace")  # type: ignore[attr-defined]
    except OSError:
        return ""
    return "\n".join(text.strip().splitlines()[-30:])


class _Kernel(AsyncKernelManager):
    home: Path
    environ: dict[str, str]

    def __init__(self, **kwargs: Any) -> None:
        kwargs["connection_file"] = str(self.home / "kernel.json")
        if os.name != "nt" and len(os.fsencode(self.home)) <= _SOCKET_FOLDER_BYTES:
            kwargs |= {"transport": "ipc", "ip": str(self.home / "kernel")}
        super().__init__(**kwargs)

    @property
    def kernel_spec(self) -> KernelSpec:
        from ocrlab.reading.isolated import PRELOADED

        # A native crash leaves its stack in the log; standard error is a pipe into the process that is dying.
        log = f"import faulthandler as _f; _f.enable(open({str(self.home / 'kernel.log')!r}, 'a'), False)"
        # A notebook that reads starts processes; what they import is imported while its own first cells run.
        prepare = f"from ocrlab.machine import worker_process as _w; _w.preload(*{PRELOADED}); _w.context()"
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        command.append(f"--IPKernelApp.exec_lines={log}; {prepare}")
        return KernelSpec(argv=command, env=self.environ, display_name="ocrlab", language="python")

    async def _async_launch_kernel(self, kernel_cmd: list[str], **kwargs: Any) -> None:
        """Keep what the process itself says, such as a segmentation fault's stack, off our own output."""
        with (self.home / "kernel.log").open("ab") as log:
            await super()._async_launch_kernel(kernel_cmd, **kwargs, stdout=log, stderr=log)

    async def _async_cleanup_resources(self, restart: bool = False) -> None:
        """End what the kernel started too: a killed kernel leaves its reading processes on the GPU."""
        group = getattr(self.provisioner, "pgid", None)
        if os.name != "nt" and group and group != os.getpgrp():
            # The usual case: nothing was left. macOS says PermissionError of a group that holds only zombies.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)
        await super()._async_cleanup_resources(restart=restart)

    cleanup_resources = _async_cleanup_resources


def _short_folder() -> str | None:
    """Return where the private folder goes: the system's temporary folder, unless its path is too long for sockets."""
    usual = tempfile.gettempdir()
    long = len(os.fsencode(usual)) + len("/ocrlab-12345678") > _SOCKET_FOLDER_BYTES
    return "/tmp" if long and os.name != "nt" and os.access("/tmp", os.W_OK) else None
