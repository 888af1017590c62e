"""One notebook run from start to end, by papermill, in a fresh kernel; the outcome told, the notebook saved."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import nbformat
import papermill
from nbclient.exceptions import CellExecutionError

from ocrlab.commands.images import shrink_images
from ocrlab.commands.kernels import last_words, own_kernels
from ocrlab.commands.repair import Outcome, repair

# Their lines ("Kernel died while waiting for execute reply") say less than our summary and look like ours.
logging.getLogger("papermill").setLevel(logging.CRITICAL)


def _news(record: logging.LogRecord) -> bool:
    """Return whether a message of asyncio's is more than a cell that Ctrl-C ended, which we tell ourselves."""
    return not (record.exc_info and isinstance(record.exc_info[1], CellExecutionError))


logging.getLogger("asyncio").addFilter(_news)


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
    part.unlink(missing_ok=True)
    raised: BaseException | None = None
    with own_kernels(environment) as kernels:
        try:
            _execute(notebook, part, parameters, kernels, limit_s, title)
        except (Exception, KeyboardInterrupt) as error:  # whatever ends one notebook must not end the others
            raised = error
        said = last_words(kernels)
    if isinstance(raised, OSError) and raised.errno is not None:
        raise raised  # the disk, not the notebook; a time-out is an OSError without a number
    executed = nbformat.read(part if part.exists() else notebook, as_version=4)
    outcome = repair(executed, raised, limit_s, said)
    shrink_images(executed)
    nbformat.write(executed, part)
    part.replace(output)
    return outcome


def _execute(
    notebook: Path, part: Path, parameters: dict[str, Any], kernels: type, limit_s: int, title: str
) -> None:  # fmt: skip
    papermill.execute_notebook(
        # papermill takes paths for templates, hence the braces.
        _braced(notebook), _braced(part), parameters, kernel_name="python3", language="python", cwd=notebook.parent,
        progress_bar={"desc": title or notebook.stem, "disable": not sys.stderr.isatty(), "leave": False},
        start_timeout=300, execution_timeout=limit_s, iopub_timeout=60,
        kernel_manager_class=kernels,
    )  # fmt: skip


def _braced(path: Path) -> str:
    return str(path.absolute()).replace("{", "{{").replace("}", "}}")
