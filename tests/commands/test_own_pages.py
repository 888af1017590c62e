"""A folder of a person's own pages without truth: the runner, the notebooks, and answers from these rows alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ocrlab import paths
from ocrlab.commands.reproduce import reproduce
from tests.notebooks import text_of

NAMES = ("04-pixels", "05-generation", "08-recommendation")
CAN_RUN = {"page_set": "own", "pages": "3"}
CANNOT_RUN = {"page_set": "own", "pages": "2", "attn_implementation": "flash_attention_2", "dtype": "bfloat16"}


@pytest.mark.parametrize("given", [CAN_RUN, CANNOT_RUN], ids=["read", "unsupported"])
def test_a_run_is_answered_from_its_own_rows(given: dict[str, str], tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    for name in ("001.png", "002.png", "003.png"):
        shutil.copy(paths.PAGES / "lines" / name, own)
    params = "; ".join(f"{name}={value}" for name, value in (given | {"page_set": str(own)}).items())
    assert reproduce("smoke", None, ",".join(NAMES), "r", params, results=tmp_path / "results") == 0
    run = tmp_path / "results" / "r"
    pixels, generation, recommendation = (text_of(run / "notebooks" / f"{name}.ipynb") for name in NAMES)
    assert "Warning" not in pixels + generation + recommendation
    assert "reference-cpu" not in pixels + generation + recommendation
    if given is CAN_RUN:
        held = "No page has a truth, so every setting is held against what one of them read"
        assert all(held in said for said in (pixels, generation, recommendation))
        assert "agreement: no page has a truth" in recommendation and "3 pages of own" in recommendation
        for preset in ("recommended.yaml", "generation-tiny.yaml"):
            assert "agreement" in " ".join((run / preset).read_text(encoding="utf-8").replace("# ", "").split())
    else:
        assert "None of 4 readings gave a text: 4 unsupported (" in pixels
        assert all("readings gave a text: " in said for said in (pixels, generation, recommendation))
        assert "Nothing to recommend in these rows." in recommendation
        assert not list(run.glob("*.yaml")), "nothing is written where nothing was read"
