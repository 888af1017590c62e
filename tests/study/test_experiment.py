"""Experiments through the real reader: rows, resume after SIGKILL, failures as rows, one load a setting."""

from __future__ import annotations

import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from ocrlab.experiments.recommend import groups_by_setting, quality_rows
from ocrlab.machine import worker_process
from ocrlab.machine.describe import versions
from ocrlab.pages import Page, load_pages
from ocrlab.reading import checkpoints
from ocrlab.reading.result import READING_VERSION
from ocrlab.reading.settings import Settings
from ocrlab.report.evidence import count_readings
from ocrlab.study import experiment
from ocrlab.study.compare import compare, summarise
from ocrlab.study.experiment import readings_of, run_experiment
from ocrlab.study.records import RecordError, load_rows, read_records, row_key, settings_of

BASE = Settings(dtype="float32", max_new_tokens=12)


@pytest.fixture(scope="module")
def pages() -> list[Page]:
    return load_pages("lines", limit=3)


def test_rows_hold_asked_actual_measured_and_outcome(pages: list[Page], tmp_path: Path) -> None:
    rows = run_experiment("x", [replace(BASE, max_pixels=v) for v in (4096, 16384)], pages, folder=tmp_path)
    assert len(rows) == 6
    assert (rows["actual_max_pixels"] == rows["max_pixels"]).all()
    for column in ("page_s", "image_tokens", "status", "cer", "machine", "code", "page_sha256", "actual_revision"):
        assert rows[column].notna().all(), column
    assert load_rows(tmp_path).equals(rows)
    assert set(readings_of("x", tmp_path)["text"].map(type)) == {str}


def test_nothing_is_read_twice(pages: list[Page], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run_experiment("x", [BASE], pages[:2], folder=tmp_path)
    monkeypatch.setattr(experiment, "ReaderPool", lambda *_, **__: pytest.fail("a model was loaded again"))
    again = run_experiment("x", [BASE], pages[:2], folder=tmp_path)
    assert again.equals(first)


def test_settings_that_share_a_model_load_it_once(pages: list[Page], tmp_path: Path) -> None:
    runs = [replace(BASE, attn_implementation=a, max_pixels=v) for v in (4096, 8192) for a in ("eager", "sdpa")]
    rows = run_experiment("x", runs, pages[:1], folder=tmp_path)
    assert rows.groupby("attn_implementation")["load_s"].nunique().tolist() == [1, 1], "each load has its own time"
    assert rows["load_s"].nunique() == 2 and len(rows) == 4
    assert (rows["actual_attn_implementation"] == rows["attn_implementation"]).all()


def test_a_setting_that_cannot_run_is_a_row_with_a_reason(pages: list[Page], tmp_path: Path) -> None:
    runs = [
        replace(BASE, model_id="/no/such/folder"),
        replace(BASE, attn_implementation="flash_attention_2", dtype="auto"),
    ]
    rows = run_experiment("x", [*runs, BASE], pages[:1], folder=tmp_path)
    assert rows["status"].tolist()[:2] == ["unsupported", "unsupported"]
    assert "no such folder" in rows["reason"][0] and "not installed" in rows["reason"][1]
    assert rows["actual_dtype"].notna().tolist() == [False, False, True]
    assert summarise(rows, "model_id")["reason"].str.contains("unsupported").any()


def test_speed_rows_and_dummy_weights_have_no_quality(pages: list[Page], tmp_path: Path) -> None:
    runs = [replace(BASE, min_new_tokens=4, max_new_tokens=4), replace(BASE, weights="dummy"), BASE]
    rows = run_experiment("x", runs, pages[:1], folder=tmp_path)
    assert rows["cer"].notna().tolist() == [False, False, True]


def test_pages_without_truth_have_no_scores(tmp_path: Path, pages: list[Page]) -> None:
    rows = run_experiment("x", [BASE], [replace(pages[0], truth=None)], folder=tmp_path)
    assert "cer" not in rows and rows["status"][0] in {"ok", "truncated", "loop"}


def test_a_truth_that_comes_later_counts_in_the_same_run(
    tmp_path: Path, pages: list[Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = [replace(page, truth=None) for page in pages[:2]]
    assert "cer" not in run_experiment("x", [BASE], bare, folder=tmp_path)
    monkeypatch.setattr(experiment, "ReaderPool", lambda *_, **__: pytest.fail("a page was read again"))
    for given in (pages[:2], bare):  # a page that lost its truth keeps the score of the one it had
        rows = run_experiment("x", [BASE], given, folder=tmp_path)
        assert rows["cer"].notna().all() and load_rows(tmp_path).equals(rows)
        assert readings_of("x", tmp_path)["truth"].tolist() == [page.truth for page in pages[:2]]
        assert sum(count_readings(tmp_path)["x.jsonl"].values()) == 2
    wrong = [replace(page, truth="something else") for page in pages[:2]]
    assert (run_experiment("x", [BASE], wrong, folder=tmp_path)["cer"] > 0.5).all()


def test_key_changes_with_setting_page_weights_code_and_repetition(
    pages: list[Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {
        row_key(BASE, pages[0], "a", 0),
        row_key(replace(BASE, seed=1), pages[0], "a", 0),
        row_key(BASE, pages[1], "a", 0),
        row_key(BASE, replace(pages[0], sha256="0"), "a", 0),
        row_key(BASE, pages[0], "b", 0),
        row_key(BASE, pages[0], "a", 1),
        row_key(replace(BASE, system_prompt="Be exact"), pages[0], "a", 0),
    }
    monkeypatch.setattr("ocrlab.study.records.READING_VERSION", READING_VERSION + 1)
    keys.add(row_key(BASE, pages[0], "a", 0))
    monkeypatch.setattr("ocrlab.study.records.versions", lambda: versions() | {"torch": "9"})
    keys.add(row_key(BASE, pages[0], "a", 0))
    monkeypatch.setattr("ocrlab.study.records.versions", lambda: versions() | {"transformers": "9"})
    keys.add(row_key(BASE, pages[0], "a", 0))
    assert len(keys) == 10


def test_a_setting_that_came_later_leaves_the_keys_of_earlier_readings(
    pages: list[Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ocrlab.study.records.code_version", lambda: "c")
    same = replace(pages[0], id="p", sha256="s")
    assert row_key(Settings(), same, "w", 0) == "6338d1dc7f5d90228ce8b273", "made before there was a system_prompt"


def test_rows_of_before_and_after_are_of_one_setting(pages: list[Page], tmp_path: Path) -> None:
    rows = run_experiment("x", [BASE, replace(BASE, system_prompt="Be exact")], pages[:1], folder=tmp_path)
    old = rows.drop(columns="system_prompt").iloc[:1]
    both = pd.concat([old, rows], ignore_index=True)
    assert [len(group) for _, group in groups_by_setting(quality_rows(both))] == [2, 1]
    assert settings_of(old.iloc[0]) == BASE == settings_of(both.iloc[0])
    assert settings_of(rows.iloc[1]).system_prompt == "Be exact"


def test_the_key_of_a_page_that_was_moved_stays(pages: list[Page], tmp_path: Path) -> None:
    moved = replace(pages[0], file=tmp_path / "elsewhere.png")
    assert row_key(BASE, moved, "a", 0) == row_key(BASE, pages[0], "a", 0)


def test_scores_can_be_made_again_without_a_model(
    pages: list[Page], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = run_experiment("x", [BASE], pages, folder=tmp_path)
    monkeypatch.setattr(checkpoints, "locate", lambda *_: pytest.fail("scoring needs no model"))
    assert not (tmp_path / "rows").exists()
    assert load_rows(tmp_path, "x").equals(rows)


def test_read_only_results_are_named(pages: list[Page], tmp_path: Path) -> None:
    (tmp_path / "readings").write_text("in the way", encoding="utf-8")
    with pytest.raises(RecordError, match="readings"):
        run_experiment("x", [BASE], pages[:1], folder=tmp_path)


def test_same_setting_twice_is_no_difference(tmp_path: Path) -> None:
    pages = load_pages("lines", limit=6)
    rows = run_experiment("x", [BASE, replace(BASE, seed=1)], pages, folder=tmp_path)
    verdict = compare(rows, "seed", 1, 0)
    assert verdict.difference.point == 0.0 and verdict.kind != "worse"


def sweep(folder: Path) -> None:
    runs = [replace(BASE, max_new_tokens=6, max_pixels=value) for value in (4096, 8192, 16384)]
    run_experiment("kill", runs, load_pages("lines", limit=10), folder=folder)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_killed_at_ten_random_moments_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    rng = random.Random(7)
    readings = tmp_path / "readings" / "kill.jsonl"
    kills = 0
    for _ in range(60):
        process = worker_process.context().Process(target=sweep, args=(tmp_path,))
        process.start()
        before = readings.read_bytes().count(b"\n") if readings.exists() else 0
        wait_for = rng.randint(1, 3)
        while process.is_alive():
            if kills < 10 and readings.exists() and readings.read_bytes().count(b"\n") >= before + wait_for:
                time.sleep(rng.uniform(0, 0.03))
                process.kill()
                process.join()
                kills += 1
                break
            time.sleep(0.002)
        else:
            process.join()
            assert process.exitcode == 0
            break
    keys = [record["key"] for record in read_records(readings)]
    assert kills >= 8
    assert len(keys) == len(set(keys)) == 30
    assert load_rows(tmp_path, "kill")["key"].tolist() == keys
