"""Rows made by hand, with a known best: the judge finds it, says why, and writes a preset that loads."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib.figure import Figure

from ocrlab import paths
from ocrlab.experiments.recommend import judge_runs, quality_rows, recommend, write_preset
from ocrlab.machine import quarantine
from ocrlab.reading.settings import Settings, load_preset
from ocrlab.scoring.outcomes import WITHOUT_TEXT
from ocrlab.study.records import readings_in
from tests.experiments.cells import names_of, shown_by
from tests.notebooks import said_by

rows_of_runs = names_of("08-recommendation")["rows_of_runs"]
BASE = Settings(dtype="float32", max_new_tokens=512)


pytestmark = pytest.mark.usefixtures("own_quarantine")


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


def standings(table: pd.DataFrame) -> dict[Settings, str]:
    return dict(zip(table["settings"], table["standing"], strict=True))


def pareto_of(judged: pd.DataFrame) -> Figure:
    return shown_by("08-recommendation", "## See", judged=judged)


def table_of(judged: pd.DataFrame) -> pd.DataFrame:
    return shown_by("08-recommendation", "Every setting, the best first", judged=judged)


FAST, WORSE, SLOW = replace(BASE, batch_size=8), replace(BASE, max_pixels=4096), replace(BASE, num_beams=4)
NAN, ABSENT = replace(BASE, repetition_penalty=1.3), replace(BASE, attn_implementation="eager")


def test_the_fastest_that_reads_no_worse_is_recommended(tmp_path: Path) -> None:
    table = pd.DataFrame(
        rows(BASE, 1.0, 0.1, pages=80) + rows(FAST, 0.4, 0.1) + rows(WORSE, 0.2, 0.6) + rows(SLOW, 3.0, 0.1)
        + rows(NAN, 0.1, 0.1, pages=59) + rows(NAN, 0.1, 0.1, status="invalid", reason="NaN")[59:]
        + rows(ABSENT, 0.1, 0.1, pages=3)
        + rows(replace(BASE, dtype="float16"), 0.1, 0.1, status="unsupported", reason="no such kernel")
    )  # fmt: skip
    judged = judge_runs(table)
    found = standings(judged)
    assert found[FAST] == "recommended" and found[WORSE] == "worse" and found[SLOW] == "dominated"
    assert found[NAN] == "not valid" and found[ABSENT] == "not settled"
    assert found[replace(BASE, dtype="float16")] == "could not run"
    (one,) = recommend(judged)
    assert one.settings == FAST and "times as many pages per second" in one.why
    file = write_preset(one.settings, f"Rows of my-card. {one.machine}: {one.why}", tmp_path / "recommended.yaml")
    assert load_preset(file) == FAST and file.read_text(encoding="utf-8").startswith("# Rows of my-card. M: ")
    assert table_of(judged).index.tolist()[:2] == ["dtype=float32, max_new_tokens=512, batch_size=8", "batch_size=1"]
    assert "recommended (1)" in [t.get_text() for t in pareto_of(judged).axes[0].get_legend().get_texts()]


def test_settings_of_a_server_are_drawn_though_their_memory_is_not_known() -> None:
    remote = replace(BASE, model_id="endpoint:http://127.0.0.1:9/v1#m")
    table = rows(remote, 1.0, 0.1) + rows(replace(remote, max_pixels=5000), 0.4, 0.1)
    judged = judge_runs(pd.DataFrame([row | {"peak_memory_bytes": None} for row in table]))
    drawn = pareto_of(judged).axes[0]
    assert [len(points.get_offsets()) for points in drawn.collections if points.get_label()[0] != "_"] == [1, 1]
    assert table_of(judged)["GiB"].tolist() == ["", ""]


def test_where_nothing_is_seen_to_be_faster_the_usual_setting_stays() -> None:
    (one,) = recommend(judge_runs(pd.DataFrame(rows(BASE, 1.0, 0.1, pages=80) + rows(SLOW, 2.0, 0.1))))
    assert one.settings == BASE and "No other of 2 settings" in one.why


def test_one_page_in_sixty_that_loops_under_every_setting_costs_its_letters_and_seconds() -> None:
    def looping(settings: Settings, page_s: float, error: float) -> list[dict[str, Any]]:
        bad = {"status": "loop", "reason": "it repeats", "cer_edits": 300, "page_s": 20 * page_s}
        return [*rows(settings, page_s, error)[:59], rows(settings, page_s, error)[59] | bad]

    judged = judge_runs(pd.DataFrame(looping(BASE, 1.0, 0.1) + looping(FAST, 0.4, 0.1) + looping(WORSE, 0.2, 0.6)))
    assert standings(judged) == {BASE: "dominated", FAST: "recommended", WORSE: "worse"}
    (one,) = recommend(judged)
    assert "Ended badly: 1 of 60 (1 loop; 0.29 % to 8.9 %)" in one.answer
    one_loop = judge_runs(pd.DataFrame(rows(BASE, 1.0, 0.1) + looping(FAST, 0.9, 0.1)))
    assert one_loop["speed"][1] == pytest.approx(0.85, abs=0.05), "whole times: 60 against 54 + 19 · 0.9"


def test_what_reads_better_but_slower_is_what_the_others_are_held_against() -> None:
    large, larger = replace(BASE, max_pixels=1_000_000), replace(BASE, max_pixels=2_000_000)
    judged = judge_runs(pd.DataFrame(rows(BASE, 1.0, 0.5) + rows(large, 3.0, 0.1) + rows(larger, 5.0, 0.1)))
    assert standings(judged) == {BASE: "worse", large: "recommended", larger: "dominated"}
    (one,) = recommend(judged)
    assert one.settings == large


def test_lost_pages_count_and_a_setting_that_read_none_is_set_aside() -> None:
    lost = [
        row | {"status": "oom", "reason": "no memory", "cer_edits": 100, "page_s": None} for row in rows(FAST, 1, 0)
    ]
    judged = judge_runs(pd.DataFrame(rows(BASE, 1.0, 0.1) + rows(FAST, 0.3, 0.1)[:50] + lost[50:]))
    assert standings(judged)[FAST] == "worse" and "10 oom" in judged["endings"][1]
    judged = judge_runs(pd.DataFrame(rows(BASE, 1.0, 0.1) + lost))
    assert standings(judged)[FAST] == "could not run" and judged["reason"][1] == "60 oom (no memory)"


def test_a_setting_seen_on_few_pages_takes_no_place_and_the_words_ask_for_more() -> None:
    close = replace(BASE, max_pixels=30_000)
    noisy = [row | {"cer_edits": (i * 7) % 13} for i, row in enumerate(rows(BASE, 1.0, 0.1, pages=20))]
    other = [row | {"cer_edits": (i * 5) % 13} for i, row in enumerate(rows(close, 0.5, 0.1, pages=20))]
    (one,) = recommend(judge_runs(pd.DataFrame(noisy + other)))
    assert one.settings == BASE and "max_pixels=30000 (about " in one.unless and " documents)" in one.unless


def test_where_words_are_found_all_the_same_it_is_the_order() -> None:
    def with_words(made: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [row | {"words_found_edits": 0, "words_found_length": 20} for row in made]

    columns = with_words(rows(FAST, 0.4, 0.6))
    judged = judge_runs(pd.DataFrame(with_words(rows(BASE, 1.0, 0.1)) + columns))
    assert standings(judged)[FAST] == "worse" and judged["reason"][1].endswith("another reading order")


def test_each_machine_has_its_own() -> None:
    table = rows(BASE, 1.0, 0.1) + rows(FAST, 0.4, 0.1) + rows(BASE, 0.1, 0.1, machine="N")
    table += rows(FAST, 0.3, 0.1, machine="N")
    found = {one.machine: one.settings for one in recommend(judge_runs(pd.DataFrame(table)))}
    assert found == {"M": FAST, "N": BASE}


def test_the_canary_and_fixed_lengths_are_minded() -> None:
    eager = replace(BASE, attn_implementation="eager")
    fixed = replace(BASE, min_new_tokens=512, batch_size=2)
    quarantine.judge({("float32", "eager", None): "planted"})
    judged = judge_runs(pd.DataFrame(rows(BASE, 1.0, 0.1) + rows(eager, 0.2, 0.1) + rows(fixed, 0.1, 0.1)))
    assert standings(judged)[eager] == "not valid" and "planted" in judged["reason"].iloc[1]
    assert fixed not in standings(judged)


def test_the_reference_runs_own_rows_give_a_recommendation() -> None:
    judged = judge_runs(rows_of_runs([paths.RESULTS / "reference-cpu"])[0])
    assert len(recommend(judged)) == 1 and (judged["standing"] == "recommended").sum() == 1
    assert rows_of_runs([])[0].empty


def test_without_a_truth_nothing_is_recommended_and_the_reason_says_what_would_help() -> None:
    table = pd.DataFrame(rows(BASE, 1.0, 0.1) + rows(FAST, 0.4, 0.1)).drop(columns=["cer_edits", "cer_length"])
    judged = judge_runs(table)
    assert recommend(judged) == [] and set(judged["standing"]) == {"not scored"}
    assert judged["reason"].str.contains("of the 60 that were read, 0 had one").all()
    assert table_of(judged).empty
    assert "NAME.gt.txt" in pareto_of(judged).axes[0].texts[0].get_text()
    assert judge_runs(pd.DataFrame()).empty and recommend(judge_runs(pd.DataFrame())) == []


def test_the_anchor_is_among_the_scored_and_pages_without_truth_settle_nothing() -> None:
    bare = [row | {"cer_edits": None, "cer_length": None} for row in rows(FAST, 0.4, 0.1, pages=90)]
    judged = judge_runs(pd.DataFrame(rows(BASE, 1.0, 0.1) + bare)).set_index("settings")
    assert judged.loc[BASE, "anchor"] and judged.loc[BASE, "standing"] == "recommended"
    assert judged.loc[FAST, "standing"] == "not settled" and "0 pages have a CER" in judged.loc[FAST, "reason"]


@pytest.mark.parametrize("case", ["02-attention", "07-limits", "named"])
def test_the_notebook_answers_from_its_own_run_or_from_one_that_was_named(case: str, tmp_path: Path) -> None:
    """No reading gave a text; speed alone; and another run's rows, by name."""
    run, experiment = tmp_path / "mine", "02-attention" if case == "02-attention" else "07-limits"
    readings = readings_in(paths.RESULTS / "reference-cpu", experiment)
    kept = [one for one in readings if one["status"] in WITHOUT_TEXT or experiment == "07-limits"]
    (run / "readings").mkdir(parents=True)
    (run / "readings" / f"{experiment}.jsonl").write_text("\n".join(map(json.dumps, kept)) + "\n", encoding="utf-8")
    said = said_by("08-recommendation", run, {"runs": ["reference-cpu"]} if case == "named" else {})
    if case == "named":
        assert "Rows of reference-cpu, as named" in said and "Readiness of reference-cpu: " in said
        assert (run / "recommended.yaml").read_text(encoding="utf-8").startswith("# Rows of reference-cpu, as named. ")
        return
    assert "Rows of this run, mine" in said and "Nothing to recommend in these rows." in said
    assert "reference-cpu" not in said and not (run / "recommended.yaml").exists()
    assert ("None of " if experiment == "02-attention" else "No page was read yet") in said


def test_a_compiled_setting_that_measures_slower_is_never_advice() -> None:
    """As on an RTX 5090, where compiled decoding was six times slower (sgl-project/sglang#35777)."""
    compiled = replace(BASE, cache_implementation="static", compile=True)
    judged = judge_runs(pd.DataFrame(rows(BASE, 1.0, 0.1) + rows(compiled, 6.0, 0.1)))
    assert standings(judged) == {BASE: "recommended", compiled: "dominated"}
    (one,) = recommend(judged)
    assert one.settings == BASE
    # Where it reads better by luck it stays on the front, and is not what to use.
    judged = judge_runs(pd.DataFrame(rows(BASE, 1.0, 0.1) + rows(compiled, 6.0, 0.099, seed=1)))
    assert [one.settings for one in recommend(judged)] == [BASE]


def test_models_are_held_against_each_other_as_recommended(capsys: pytest.CaptureFixture[str]) -> None:
    other = replace(BASE, model_id="owner/other")
    table = quality_rows(pd.DataFrame(rows(BASE, 0.1, 0.2) + rows(other, 0.2, 0.01)))
    found, across = recommend(judge_runs(table)), names_of("08-recommendation")["across_models"]
    across(found, table, 0.005)
    said = capsys.readouterr().out
    assert {one.settings.model_id for one in found} == {"tiny", "owner/other"}
    assert "Of 2 models on M, each as recommended, read with owner/other." in said
    assert "owner/other against tiny: better" in said
    across(found[:1], table, 0.005)
    assert capsys.readouterr().out == "", "one model is held against none"


def test_what_was_read_on_few_of_the_pages_does_not_take_the_place_of_what_was_read_on_all() -> None:
    quick = replace(BASE, prompt="What does it say?")
    made = rows(BASE, 0.2, 0.02) + rows(replace(BASE, batch_size=8), 0.1, 0.02) + rows(quick, 0.05, 0.02, pages=20)
    (found,) = recommend(judge_runs(pd.DataFrame(made)))
    assert found.settings.batch_size == 8 and found.settings.prompt == BASE.prompt
    assert "Faster, and read on less than half of the pages: prompt=What does it say?, batch_size=1." in found.unless
    (found,) = recommend(judge_runs(pd.DataFrame(made + rows(quick, 0.05, 0.02, pages=40)[20:])))
    assert found.settings == quick, "on two thirds of the pages it does"
