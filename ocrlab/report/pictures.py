"""Pictures of pages in a run: whether pages of a user's own are among them, and notebooks without pictures of them."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat

from ocrlab.pages.load import OWN_SETS
from ocrlab.report.body import LINK
from ocrlab.report.material import page_hashes
from ocrlab.study.origin import pages_by_hash
from ocrlab.study.provenance import read_json

# What a cell says that shows pages themselves, not what was measured on them.
_SHOWS = re.compile(r"show_pages|imshow|open_image|\.open\(|\bImage\b|diff_image")
_EMBEDDED = re.compile(r"data:image/[^\"')\s]+")
_WORDS = "[a picture of pages: left out, as this run is shared without images of its user's pages]"


def has_own_pages(run: Path) -> bool:
    """Whether a run read, or was asked to read, pages that are in none of our sets."""
    asked = read_json(run / "run.json").get("notebooks")
    for entry in asked.values() if isinstance(asked, dict) else []:
        given = entry.get("parameters") if isinstance(entry, dict) else None
        for name, value in given.items() if isinstance(given, dict) else []:
            sources = value if isinstance(value, list) else [value]
            if name in ("page_set", "page_sets") and not set(map(str, sources)) <= set(OWN_SETS):
                return True
    return bool(page_hashes(run) - pages_by_hash().keys())


def drop_pictures(run: Path) -> None:
    """Take out of a run's folder every picture that may show a page; figures of what was measured stay.

    Raises:
        ValueError: a notebook that cannot be read; the message names it.
    """
    linked = set()
    for file in sorted((run / "notebooks").glob("*.ipynb")):
        try:
            notebook = nbformat.read(file, as_version=4)
        except (AttributeError, KeyError, nbformat.ValidationError) as error:
            raise ValueError(f"{file}: no notebook ({str(error)[:100]}); mend or remove it") from error
        for cell in notebook.cells:
            cell.pop("attachments", None)
            for output in cell.get("outputs", []):
                _drop(output, shows=bool(_SHOWS.search(cell.source)))
                linked.add(output.get("metadata", {}).get(LINK))
        nbformat.write(notebook, file)
    for figure in (run / "figures").glob("*"):
        if figure.name not in linked:
            figure.unlink()


def _drop(output: nbformat.NotebookNode, shows: bool) -> None:
    data = output.get("data", {})
    picture = LINK in output.get("metadata", {}) or any(str(kind).startswith("image/") for kind in data)
    if shows and picture:
        output.data, output.metadata = nbformat.NotebookNode({"text/plain": _WORDS}), nbformat.NotebookNode()
    for kind in ("text/html", "text/markdown"):
        if isinstance(data.get(kind), str):
            data[kind] = _EMBEDDED.sub("", data[kind])
