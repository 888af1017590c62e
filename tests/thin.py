"""Every notebook over rows that hold little: its cells run here, in one process, with what a kernel would show."""

from __future__ import annotations

import ast
import functools
import io
import shutil
import traceback
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import nbformat
from matplotlib.figure import Figure

from ocrlab import paths
from ocrlab.commands.parameters import check, read_parameters
from ocrlab.commands.plan import load_experiments
from ocrlab.experiments import attention as variants
from ocrlab.machine import attention, hardware, worker
from ocrlab.machine.worker import Worker
from ocrlab.reading import serve

SITUATIONS = ("absent", "refused", "one_page", "no_truth", "one_setting", "endpoint")
ABSENT = "Qwen/Qwen2-VL-2B-Instruct"
# Lists of which a notebook needs none: where there is one setting only they are empty, others keep their first value.
NEEDLESS = {"quantizations", "temperature_values", "repetition_penalty_values", "max_new_tokens_values"}
# Less than a smoke run reads, by notebook.
LESS: dict[str, dict[str, Any]] = {
    "01-machine": {"canary_tokens": 8},
    "02-attention": {"growth_tokens": [64], "growth_variants": ["sdpa"], "max_new_tokens": 8},
    "03-dtype": {"quantizations": [], "max_new_tokens": 8},
    "04-pixels": {"pages": 2, "max_new_tokens": 64},
    "05-generation": {"pages": 2, "max_new_tokens": 64},
    "06-assert": {"max_new_tokens": 8},
    "07-limits": {"image_tokens": [64]},
    "10-engines": {"repeats": 1, "max_new_tokens": 8},
    "embedded-reader": {"tesseract": False, "new_prompts": ["Please give me every word you can see"]},
    "fast-path": {"new_tokens": 2},
    "models": {"max_new_tokens": 8, "speed_tokens": 2},
}


@dataclass(frozen=True)
class Shown:
    """What a notebook showed, and what went wrong: the traceback of the cell that failed, and warnings."""

    text: str
    headlines: str
    failed: str
    warned: tuple[str, ...]


def parameters(name: str, situation: str, given_by_test: dict[str, Any]) -> dict[str, Any] | None:
    """Return a notebook's parameters in a situation; None where it has none that would bring the situation about.

    `given_by_test` holds `own_pages` (a folder), `endpoint` (a model_id) and `preset` (a file with that model_id).
    """
    file = paths.NOTEBOOKS / f"{name}.ipynb"
    known, entry = read_parameters(file), load_experiments().get(name)
    usual = dict(entry.parameters.get("smoke", {})) if entry else {}
    usual |= {parameter: value for parameter, value in LESS.get(name, {}).items() if parameter in known}
    full = {parameter: one.default for parameter, one in known.items()} | usual
    own, refused = str(given_by_test["own_pages"]), "flash_attention_2"
    lists = {p: value for p, value in full.items() if isinstance(value, list) and p not in {"page_sets", "runs"}}
    changes: dict[str, Any] = {
        "absent": {"model_id": ABSENT, "preset": "qwen2-vl-2b"},
        "refused": {"attn_implementation": refused, "attn_implementations": [refused], "attentions": [refused]},
        "one_page": {"pages": 1, "pages_per_set": 1, "speed_pages": 1},
        "no_truth": {"page_set": own, "page_sets": [own]},
        "one_setting": {p: [] if p in NEEDLESS else value[:1] for p, value in lists.items()},
        "endpoint": {"model_id": given_by_test["endpoint"], "preset": str(given_by_test["preset"])},
    }[situation]
    changes = {parameter: value for parameter, value in changes.items() if parameter in known}
    if not changes:
        return None
    more: dict[str, Any] = {
        "refused": {"dtype": "bfloat16", "dtypes": ["bfloat16"]},
        "one_page": {"page_sets": ["labels"]},
        "endpoint": {
            "dtype": "auto",
            "page_set": "documents",
            "max_new_tokens": 256,
            "max_pixels": 200704,
            "max_pixels_values": [100352, 200704],
            "no_repeat_ngram_size_values": [],
            "num_beams_values": [],
        },
    }.get(situation, {})
    return check(file, usual | changes | {p: value for p, value in more.items() if p in known})


def show(name: str, given: dict[str, Any], run: Path) -> Shown:
    """Run a notebook's cells in the run's folder; return what they showed."""
    notebook = nbformat.read(paths.NOTEBOOKS / f"{name}.ipynb", as_version=4)
    said, headlines, failed = io.StringIO(), "", ""
    names: dict[str, Any] = {"__name__": "__main__", "display": lambda *values: [_render(v, said) for v in values]}
    with _in_a_run(run), warnings.catch_warnings(record=True) as warned, redirect_stdout(said):
        warnings.simplefilter("default")
        for number, cell in enumerate(notebook.cells):
            if cell.cell_type != "code":
                continue
            tags, before = cell.metadata.get("tags", []), said.tell()
            try:
                _run(cell.source, names, said)
            except Exception:
                failed = f"cell {number}: {traceback.format_exc(limit=-6)}"
                break
            names |= given if "parameters" in tags else {}
            headlines += said.getvalue()[before:] if "headline" in tags else ""
    return Shown(said.getvalue(), headlines, failed, tuple(f"{w.category.__name__}: {w.message}" for w in warned))


def _run(source: str, names: dict[str, Any], said: io.StringIO) -> None:
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    if last is not None:
        _render(eval(compile(ast.Expression(last.value), "cell", "eval"), names), said)


def _render(value: Any, said: io.StringIO) -> None:
    """Draw and write a value as a notebook does, so that what goes wrong then is seen."""
    if isinstance(value, Figure):
        value.savefig(io.BytesIO(), format="png", dpi=40, bbox_inches="tight")
        said.write("".join(f"{text.get_text()}\n" for axes in value.axes for text in axes.texts))
    elif value is not None:
        for form in ("_repr_html_", "_repr_markdown_"):
            if hasattr(value, form):
                getattr(value, form)()
        said.write(f"{value}\n")


@contextmanager
def _in_a_run(run: Path) -> Iterator[None]:
    """Have a run in hand by its folder, few attentions, and nothing that needs seconds to start.

    Environment variables stay as they are: with others, no process could be a copy of one that has torch already.
    """
    probes = attention.all_probes
    with ExitStack() as stack:
        for owner, attribute, value in (
            (paths, "run_in_hand", lambda: run),
            (paths, "BUILD", run / "build"),
            (hardware, "_measure", lambda *asked: _measured_once(*asked[:3])),
            (worker, "Worker", lambda *limit, fresh=False: Worker(*limit)),
            (attention, "all_probes", lambda *asked: probes(*asked)[:2]),
            (variants, "ATTENTIONS", ("sdpa", "flash_attention_2")),
            (variants, "SDPA_KERNELS", ("math",)),
            (serve, "missing_modules", lambda: "not started in this test"),
        ):
            stack.enter_context(mock.patch.object(owner, attribute, value))
        yield


_measure = hardware._measure


@functools.cache
def _measured_once(ceiling: Any, dtype: str, device: str) -> Any:
    return _measure(ceiling, dtype, device, 1)


def pages_without_truth(folder: Path) -> Path:
    """Make a folder of two of our pages as a person's own: images alone."""
    folder.mkdir(parents=True)
    for number in (1, 40):
        shutil.copy(paths.PAGES / "labels" / f"{number:03}.png", folder)
    return folder
