"""JupyterLab's first page, made anew from the notebooks at every `make lab`, so that it cannot go stale."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from ocrlab import paths

NAME = "welcome.md"
FIRST = ("00-quickstart", "playground")
_HEAD = "| notebook | question |\n|---|---|"
_TEXT = """# Welcome to ocrlab

Which settings should read my documents with Qwen2-VL, what do they cost, and what does not work here and why?

Click a name to open the notebook, then *Run → Run All Cells*. Each begins short, on the embedded reader: no GPU, no
network. The cell under "Parameters" is the one to change; nothing needs `%load_ext`.

## Start here

{first}

## One question each

{others}

## Good to know

- The table of contents (in the left bar) goes by the headings, which all notebooks share: Set-up, Parameters, Data,
  Run, See, What we learned.
- Rows of what you run here go to `{scratch}`; `make reproduce` runs all notebooks in fresh kernels and builds a site.
- The only kernel here is this environment's own Python, whatever other kernels the computer has.
- *Kernel → Shut Down Kernel* frees the model's memory; closing the tab does not.
"""


def questions(notebooks: Path = paths.NOTEBOOKS) -> dict[str, str]:
    """Return each notebook's question, its title, by name; numbered ones first."""
    found = {}
    for file in sorted(notebooks.glob("*.ipynb")):
        cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
        title = "".join(cells[0]["source"]).splitlines()[0] if cells else ""
        found[file.stem] = title.lstrip("# ").strip()
    return found


def write_welcome(notebooks: Path = paths.NOTEBOOKS) -> Path:
    """Write the welcome page beside the notebooks (git ignores it) and return it."""
    known = questions(notebooks)
    page = _TEXT.format(
        first=_table(known, [name for name in FIRST if name in known]),
        others=_table(known, [name for name in known if name not in FIRST]),
        scratch=(paths.BUILD / "scratch").relative_to(paths.ROOT).as_posix(),
    )
    (notebooks / NAME).write_text(page, encoding="utf-8")
    return notebooks / NAME


def _table(known: dict[str, str], names: Iterable[str]) -> str:
    return "\n".join([_HEAD, *(f"| [{name}]({name}.ipynb) | {known[name]} |" for name in names)])
