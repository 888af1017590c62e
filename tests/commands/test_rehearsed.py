"""`make reproduce MODEL=` with a server that answers as the 2B does: whole documents, one page that loops."""

from __future__ import annotations

import shutil
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from ocrlab.commands.reproduce import reproduce
from ocrlab.experiments.recommend import judge_runs, quality_rows, recommend
from ocrlab.pages import load_pages
from ocrlab.reading.settings import load_preset, load_prompts
from ocrlab.study.agreement import with_reference
from ocrlab.study.provenance import read_record
from ocrlab.study.records import load_rows, readings_in, rows_of
from tests.rehearsal import Manner, rehearsal

PLAIN, USUAL = (load_prompts()[name].prompt for name in ("plain", "usual"))
# The text alone is read well; every other request brings words around it, and more errors.
MANNERS = (Manner("only the text", preamble=0.02, fence=0.02), Manner("", 1.8, preamble=0.5, closing=0.15, fence=0.33))


# A whole run is made once, for all tests of this file.
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run: 1,280 image tokens and the plain prompt are planted as the best, 256 and the usual as the worst."""
    results, pages = tmp_path_factory.mktemp("results"), tmp_path_factory.mktemp("pages")
    for page in load_pages("documents", limit=20):
        shutil.copy(page.file, pages)
        (pages / f"{page.file.stem}.gt.txt").write_text(page.truth or "", encoding="utf-8")
    with rehearsal(pages=(pages,), seconds=0.08, token_seconds=0.0001, manners=MANNERS) as fake:
        given = {"run": "rehearsed", "minutes": 10, "params": f"page_set={pages}"}
        assert reproduce("cpu", fake.model_id, results=results, **given) == 0
    return results / "rehearsed"


def test_every_notebook_is_ok_or_says_why_it_was_left_out(run: Path) -> None:
    entries = read_record(run)["notebooks"]
    read = {name for name, entry in entries.items() if entry["status"] == "ok"}
    assert {"00-quickstart", "04-pixels", "05-generation", "prompts", "08-recommendation", "11-costs"} <= read
    assert all(entry["status"] == "skipped" and entry["reason"] for name, entry in entries.items() if name not in read)
    for name in read:
        cells = nbformat.read(run / "notebooks" / f"{name}.ipynb", as_version=4).cells
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        assert not [out for out in outputs if out.output_type == "error" or out.get("name") == "stderr"], name


def test_the_planted_best_is_recommended_and_the_worst_named_though_a_page_loops_everywhere(run: Path) -> None:
    rows = load_rows(run, "04-pixels")
    assert (rows[rows["status"] == "loop"].groupby("max_pixels").size() == 1).all() and rows[
        "max_pixels"
    ].nunique() == 4
    best = load_preset(run / "recommended.yaml")
    assert (best.max_pixels, best.prompt) == (1280 * 28 * 28, PLAIN)
    judged = judge_runs(load_rows(run))
    standing = {
        (one.max_pixels // 784, one.prompt): what
        for one, what in zip(judged["settings"], judged["standing"], strict=True)
    }
    assert standing[256, PLAIN] == standing[640, PLAIN] == standing[1280, USUAL] == "worse"
    assert judged["endings"].str.contains(r"\d loop").all()


def test_the_front_page_begins_with_the_answer(run: Path) -> None:
    for name in ("index.html", "report.md"):
        text = (run / name).read_text(encoding="utf-8").replace("\\", "")
        assert 0 < text.index("prompt=plain") < text.index("How do I read a page?")


def test_without_any_truth_agreement_recommends_the_same_and_finds_the_worst(run: Path) -> None:
    bare = [record | {"truth": None} for record in readings_in(run)]
    held, references = with_reference(bare)
    (reference,) = references.values()
    assert reference.max_pixels == 2560 * 784, "the largest budget"
    judged = judge_runs(quality_rows(pd.DataFrame(rows_of(held))))
    (one,) = recommend(judged)
    best = load_preset(run / "recommended.yaml")
    assert (one.settings.max_pixels, one.settings.prompt) == (best.max_pixels, best.prompt)
    assert "of the letters that the reference reads" in one.answer
    standing = {
        (s.max_pixels // 784, s.prompt): what for s, what in zip(judged["settings"], judged["standing"], strict=True)
    }
    assert standing[256, PLAIN] == standing[1280, USUAL] == "worse"
