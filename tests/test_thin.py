"""A notebook always ends in an answer: each one over rows that hold little, without a traceback and without a warning.

Nothing could be read (the model cannot be had; the machine has no such attention), one page only, pages without any
truth, one setting only, and a model on a server.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from ocrlab import paths
from tests.rehearsal import rehearsal
from tests.thin import SITUATIONS, Shown, pages_without_truth, parameters, show

NOTEBOOKS = sorted(file.stem for file in paths.NOTEBOOKS.glob("*.ipynb"))
# They read rows of their run, which 04-pixels makes.
OF_ROWS = {"08-recommendation", "09-compare", "11-costs"}
NOWHERE = {"own_pages": "", "endpoint": "", "preset": ""}
CASES = [
    (situation, name)
    for situation in SITUATIONS
    for name in NOTEBOOKS
    if name in OF_ROWS or parameters(name, situation, NOWHERE) is not None
]
# What an answer says, by situation, in the headlines of every notebook that depends on it.
REASONS = {"absent": "not in the local cache", "refused": "flash"}


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A function that returns what a notebook showed in a situation; each is run once."""
    folder = tmp_path_factory.mktemp("thin")
    with rehearsal(pages=("documents", "labels", "lines")) as fake:
        given = {"own_pages": pages_without_truth(folder / "own"), "endpoint": fake.model_id}
        given["preset"] = folder / "server.yaml"
        given["preset"].write_text(f"model_id: {fake.model_id}\nmax_new_tokens: 256\n", encoding="utf-8")

        @cache
        def run(situation: str, name: str) -> Shown:
            if name in OF_ROWS:
                run(situation, "04-pixels")
                return show(name, {}, folder / situation)
            found = parameters(name, situation, given)
            assert found is not None
            return show(name, found, run_folder(folder, situation))

        yield run


def run_folder(folder: Path, situation: str) -> Path:
    """Return a run's folder, with what `make reproduce` writes there first."""
    run = folder / situation
    run.mkdir(exist_ok=True)
    return run


@pytest.mark.parametrize(("situation", "name"), CASES, ids=[f"{name}-{situation}" for situation, name in CASES])
def test_a_notebook_ends_in_an_answer(shown: Any, situation: str, name: str) -> None:
    found = shown(situation, name)
    print(found.headlines)
    assert not found.failed, found.failed
    assert not found.warned, found.warned
    assert found.headlines.strip(), "no answer"
    assert not re.search(r"\bnan\b", found.headlines), found.headlines
    if (situation, name) == ("no_truth", "04-pixels"):
        assert "differ" in found.text, "which pages to label first"
    if name not in OF_ROWS:
        assert REASONS.get(situation, "") in found.headlines
