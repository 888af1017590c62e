"""Rows made by hand, with a known best: the judge finds it, says why, and writes a preset that loads."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest

from ocrlab import paths
from ocrlab.commands.run_notebook import run_notebook
from ocrlab.machine import quarantine
from ocrlab.reading.settings import Settings, load_preset
from ocrlab.report.recommendation import pareto, recommendation_table
from ocrlab.study.recommend import judge_runs, recommend, rows_of_runs, write_recommended
from ocrlab.study.records import readings_in

BASE = Settings(dtype="float32", max_new_tokens=512)


@pytest.fixture(autouse=True)
def _own_quarantine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "BUILD", tmp_path / "build")


def rows(
    settings: Settings, page_s: float, error: float, pages: int = 60, seed: int = 0, machine: str = "M", **changes: Any
) -> list[dict[str, Any]]:
    """Rows of pages with 100 letters; the same page is as hard for every setting."""
    made = []
    for number in range(pages):
        hard = random.Random(number).random()
        noise = random.Random(f"{seed}/{number}")
        edits = int(100 * error * hard + (noise.random() < 0.1))
        made.append(
            settings.as_dict() | {
                "page": f"p{number}", "repeat": 0, "status": "ok", "reason": "", "machine": machine, "experiment": "e",
                "cer_edits": edits, "cer_length": 100, "page_s": page_s * noise.uniform(0.9, 1.1),
                "peak_memory_bytes": 10_000_000,
            } | changes
        )  # fmt: skip
    return made


def stands(table: pd.DataFrame) -> dict[Settings, str]:
    return dict(zip(table["settings"], table["stand"], strict=True))


FAST, WORSE, SLOW = replace(BASE, batch_size=8), replace(BASE, max_pixels=4096), replace(BASE, num_beams=4)
LOOPS, ABSENT = replace(BASE, repetition_penalty=1.3), replace(BASE, attn_implementation="eager")


def test_the_fastest_that_reads_no_worse_is_recommended(tmp_path: Path) -> None:
    table = pd.DataFrame(
        rows(BASE, 1.0, 0.1, pages=80) + rows(FAST, 0.4, 0.1) + rows(WORSE, 0.2, 0.6) + rows(SLOW, 3.0, 0.1)
        + rows(LOOPS, 0.1, 0.1, status="loop", reason="it repeats") + rows(ABSENT, 0.1, 0.1, pages=3)
        + rows(replace(BASE, dtype="float16"), 0.1, 0.1, status="unsupported", reason="no such kernel")
    )  # fmt: skip
    judged = judge_runs(table)
    found = stands(judged)
    assert found[FAST] == "recommended" and found[WORSE] == "worse" and found[SLOW] == "dominated"
    assert found[LOOPS] == "not valid" and found[ABSENT] == "not settled"
    assert found[replace(BASE, dtype="float16")] == "could not run"
    (one,) = recommend(judged)
    assert one.settings == FAST and "times as many pages a second" in one.why
    (file,) = write_recommended([one], tmp_path)
    assert load_preset(file) == FAST and file.read_text(encoding="utf-8").startswith("# M: ")
    assert recommendation_table(judged).index[0] == "dtype=float32, batch_size=8"
    assert "recommended (1)" in [t.get_text() for t in pareto(judged).axes[0].get_legend().get_texts()]


def test_where_nothing_is_seen_to_be_faster_the_usual_setting_stays() -> None:
    (one,) = recommend(judge_runs(pd.DataFrame(rows(BASE, 1.0, 0.1, pages=80) + rows(SLOW, 2.0, 0.1))))
    assert one.settings == BASE and "no other of 2 settings" in one.why


def test_each_machine_has_its_own() -> None:
    table = rows(BASE, 1.0, 0.1) + rows(FAST, 0.4, 0.1) + rows(BASE, 0.1, 0.1, machine="N")
    table += rows(FAST, 0.3, 0.1, machine="N")
    found = {one.machine: one.settings for one in recommend(judge_runs(pd.DataFrame(table)))}
    assert found == {"M": FAST, "N": BASE}


def test_the_canary_and_forced_lengths_are_minded() -> None:
    eager = replace(BASE, attn_implementation="eager")
    forced = replace(BASE, min_new_tokens=512, batch_size=2)
    quarantine.judge({("float32", "eager", None): "planted"})
    judged = judge_runs(pd.DataFrame(rows(BASE, 1.0, 0.1) + rows(eager, 0.2, 0.1) + rows(forced, 0.1, 0.1)))
    assert stands(judged)[eager] == "not valid" and "planted" in judged["reason"].iloc[1]
    assert forced not in stands(judged)


def test_the_reference_runs_own_rows_give_a_recommendation() -> None:
    judged = judge_runs(rows_of_runs([paths.RESULTS / "reference-cpu"]))
    assert len(recommend(judged)) == 1 and (judged["stand"] == "recommended").sum() == 1
    assert rows_of_runs([]).empty


@pytest.mark.parametrize(
    ("experiment", "says"),
    [("02-attention", "Nothing to recommend in these rows"), ("07-limits", "experiments, from reference-cpu")],
)
def test_the_notebook_says_where_rows_give_no_recommendation(experiment: str, says: str, tmp_path: Path) -> None:
    """No page read to its end; speed alone, for which the notebook turns to the reference run's rows."""
    readings = readings_in(paths.RESULTS / "reference-cpu", experiment)
    kept = [one for one in readings if one["status"] != "ok" or experiment == "07-limits"]
    (tmp_path / "readings").mkdir()
    (tmp_path / "readings" / f"{experiment}.jsonl").write_text("\n".join(map(json.dumps, kept)) + "\n", "utf-8")
    notebook, output = paths.NOTEBOOKS / "08-recommendation.ipynb", tmp_path / "08.ipynb"
    outcome = run_notebook(notebook, output, {}, {"OCRLAB_RUN_FOLDER": str(tmp_path)}, 120)
    assert outcome.status == "ok", outcome
    cells = nbformat.read(output, as_version=4).cells
    assert says in "".join(shown.get("text", "") for cell in cells for shown in cell.get("outputs", []))
    assert (tmp_path / "recommended.yaml").is_file() is (experiment == "07-limits")
