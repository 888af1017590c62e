"""Pages without a truth: which reading the others are held against, and what is said of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ocrlab.pages import load_pages
from ocrlab.reading.settings import Settings
from ocrlab.study.agreement import REFERENCE, against_reference, with_reference
from ocrlab.study.experiment import Store, run_experiment

BASE = Settings(dtype="float32", max_new_tokens=120, batch_size=4)
SMALL = replace(BASE, max_pixels=8192)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    blind = [replace(page, truth=None) for page in load_pages("lines", limit=4)]
    run_experiment("blind", [SMALL, BASE], blind, folder=folder)
    run_experiment("known", [SMALL, BASE], load_pages("lines", limit=2), folder=folder)
    return folder


def test_the_largest_budget_in_the_most_exact_dtype_is_the_reference(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ocrlab.paths.run_folder", lambda: run)
    records = Store("blind", run).readings.records
    held, references = with_reference(records)
    assert list(references.values()) == [BASE]
    assert {record["truth_source"] for record in held} == {REFERENCE}
    own = [record for record in held if record["asked"]["max_pixels"] is None]
    assert all(record["truth"] == record["text"].strip() for record in own)
    rows = run_experiment("blind", [SMALL, BASE], [], folder=run)
    assert rows.empty
    blind = [replace(page, truth=None) for page in load_pages("lines", limit=4)]
    rows, words = against_reference(run_experiment("blind", [SMALL, BASE], blind, folder=run), "blind")
    edits = rows.groupby(rows["max_pixels"].isna())["cer_edits"].sum()
    assert edits[True] == 0 < edits[False] and "CER and words found are agreement" in words


def test_where_a_page_has_a_truth_nothing_changes(run: Path) -> None:
    records = Store("known", run).readings.records
    held, references = with_reference(records)
    assert held == list(records) and references == {}
    broken = [{**record, "status": "error", "truth": None} for record in records]
    assert with_reference(broken) == (broken, {})
