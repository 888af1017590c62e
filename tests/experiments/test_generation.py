"""What settings lose besides letters, how they compare with greedy, and the preset that follows: read and planted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ocrlab.experiments.recommend import write_preset
from ocrlab.pages import load_pages
from ocrlab.reading.settings import Settings, load_preset
from ocrlab.scoring.metrics import digits_kept, lines_kept, score
from ocrlab.study.experiment import readings_of, run_experiment
from tests.experiments.cells import names_of

CELLS = names_of("05-generation")
generation_grid, tuned_preset, with_texts = (CELLS[n] for n in ("generation_grid", "tuned_preset", "with_texts"))
judge_settings, summarise_settings = CELLS["judge_settings"], CELLS["summarise_settings"]
GREEDY, OWN = CELLS["GREEDY"], CELLS["OWN"]
BASE = Settings(dtype="float32", max_new_tokens=120, batch_size=4)
TRUTH = "Milk 2 x 30.10\nTotal 60.20"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def grid() -> dict[Settings, str]:
    return generation_grid(BASE, seeds=[0, 1], temperature=[1.0], max_new_tokens=[6])


@pytest.fixture(scope="module")
def rows(folder: Path, grid: dict[Settings, str]) -> pd.DataFrame:
    found = run_experiment("x", list(grid), load_pages("labels", spread=4), folder=folder)
    run_experiment("x", [replace(BASE, seed=9)], load_pages("lines", limit=1), folder=folder)  # not of this sweep
    return with_texts(found, readings_of("x", folder), grid)


def made(setting: str, texts: Sequence[str], truth: str = TRUTH, status: str = "ok", **more: Any) -> list[dict]:
    """Rows of one setting as `with_texts` has them, one per page."""
    lines = []
    for i, text in enumerate(texts):
        lines.append({
            "setting": setting, "page": f"p{i}", "text": text, "truth": truth, "status": status, "reason": "",
            "tokens": 20, "page_s": 0.1, "actual_num_beams": None, **score(text, truth),
            **more,
        })  # fmt: skip
    return lines


def judged(*settings: list[dict]) -> pd.DataFrame:
    return judge_settings(pd.DataFrame([row for rows in settings for row in rows])).set_index("setting")


def test_a_grid_changes_one_thing_at_a_time_and_names_it() -> None:
    grid = generation_grid(
        BASE, seeds=[3, 4], temperature=[0.5], repetition_penalty=[1.0, 1.1], num_beams=[2], max_new_tokens=[120, 9]
    )
    names = [GREEDY, OWN, *["temperature=0.5"] * 2, "repetition_penalty=1.1", "num_beams=2", "max_new_tokens=9"]
    assert list(grid.values()) == names, "what equals greedy is not read again"
    greedy, own, *sampled = list(grid)[:4]
    assert greedy == BASE and own.generate_kwargs() == {"max_new_tokens": 120}
    assert [(s.do_sample, s.seed) for s in sampled] == [(True, 3), (True, 4)]


def test_rows_tell_what_was_lost(rows: pd.DataFrame) -> None:
    assert rows.groupby("setting", sort=False).size().to_dict() == {
        GREEDY: 4, OWN: 4, "temperature=1.0": 8, "max_new_tokens=6": 4,
    }  # fmt: skip
    for _, row in rows.iterrows():
        digits, lines = digits_kept(row["text"], row["truth"]), lines_kept(row["text"], row["truth"])
        assert (row["digits_edits"], row["digits_length"]) == (digits.expected - digits.kept, digits.expected)
        assert (row["lines_edits"], row["lines_length"]) == (lines.expected - lines.kept, lines.expected)
        assert score(row["text"], row["truth"])["cer_edits"] == row["cer_edits"]
    own, greedy = (rows[rows["setting"] == name]["text"].tolist() for name in (OWN, GREEDY))
    assert own == greedy, "the embedded reader's own settings are greedy"


def test_the_table_counts_readings_pages_and_tokens(rows: pd.DataFrame) -> None:
    table = summarise_settings(rows)
    sampled, cut = rows[rows["setting"] == "temperature=1.0"], table.loc["max_new_tokens=6"]
    line = table.loc["temperature=1.0"]
    assert (line["pages"], line["readings"], line["tokens_mean"]) == (4, 8, sampled["tokens"].mean())
    assert line["digits"] == pytest.approx(1 - sampled["digits_edits"].sum() / sampled["digits_length"].sum())
    assert line["digits_low"] <= line["digits"] <= line["digits_high"]
    assert cut["truncated"] + cut["loops"] == 4 and cut["tokens_mean"] == 6
    assert table.loc[GREEDY, "decoded_mean"] == table.loc[GREEDY, "tokens_mean"]


def test_readings_without_truth_have_no_score(folder: Path, grid: dict[Settings, str]) -> None:
    blind = [replace(page, truth=None) for page in load_pages("lines", limit=2)]
    found = run_experiment("blind", list(grid)[:2], blind, folder=folder)
    table = judge_settings(with_texts(found, readings_of("blind", folder), grid))
    assert table[["digits", "lines"]].isna().all(axis=None) and table["readings"].tolist() == [2, 2]
    assert table["out"].str.startswith("has no score").all()
    assert tuned_preset(table, grid)[0] == BASE


def test_pages_without_digits_are_told_apart_from_lost_digits() -> None:
    table = judged(made(GREEDY, ["Milk", "Milk"], "Milk"), made("a", ["Milk", "Mlk"], "Milk"))
    assert table["digits"].isna().all() and table.loc["a", "lines"] == 0.5


def test_what_speaks_against_a_setting() -> None:
    right, wrong = [TRUTH] * 30, [TRUTH.replace("Milk", "Mi")] * 30
    table = judged(
        made(GREEDY, right),
        made("same", right),
        made("worse", wrong),
        [*made("looping", right[:29]), made("looping", [TRUTH * 9] * 30, status="loop")[29]],
        made("digits", [TRUTH.replace("60.20", "60.2")] * 30, cer=0.0, cer_edits=0),
        made("lost", right[:20]) + made("lost", [""] * 30, status="oom", reason="out of memory")[20:],
        [*made("broken", right[:29]), made("broken", right, status="invalid", reason="NaN")[29]],
    )
    assert table["best"].unique() == [GREEDY] and table.loc[[GREEDY, "same"], "out"].tolist() == ["", ""]
    out = table["out"]
    assert out["worse"] == "not shown to be within 0.5 CER points of greedy"
    assert table.loc["worse", "words"].startswith("worse in CER")
    assert out["looping"] == "not shown to be within 0.5 CER points of greedy", "its 200 letters count"
    assert table.loc["looping", "ends"] == "1 of 30 (1 loop; 0.59 % to 17 %)"
    assert out["digits"].startswith("worse in digit-string loss")
    assert out["lost"] == "not shown to be within 0.5 CER points of greedy" and table.loc["lost", "cer"] > 0.3
    assert out["broken"] == "1 of 30 readings: invalid: NaN"
    assert table.loc[["same", "worse"], "same_text"].tolist() == [1.0, 0.0]


def test_one_page_that_loops_under_every_setting_leaves_a_choice() -> None:
    grid = generation_grid(BASE, repetition_penalty=[1.1])
    looped = [[*made(n, [TRUTH] * 59), made(n, [TRUTH * 9] * 60, status="loop")[59]] for n in grid.values()]
    table = judged(*looped).reset_index()
    settings, reason = tuned_preset(table, grid)
    assert table["out"].tolist() == ["", "", ""] and settings == BASE
    assert "no setting was seen to read better" in reason and "1 of 60 (1 loop; 0.29 % to 8.9 %)" in reason


def test_greedy_stays_unless_another_is_seen_to_be_better() -> None:
    luck = [TRUTH, *[TRUTH.replace("Milk", "Mi")] * 29]
    table = judged(made(GREEDY, [TRUTH.replace("Milk", "Mi")] * 30), made("lucky", luck))
    assert table.loc["lucky", "cer"] < table.loc[GREEDY, "cer"] and table.loc["lucky", "best"] == GREEDY
    table = judged(made(GREEDY, [TRUTH.replace("Milk", "Mi")] * 30), made("better", [TRUTH] * 30))
    assert table.loc[GREEDY, "best"] == "better" and table.loc[GREEDY, "out"].endswith("points of better")


def test_the_preset_is_the_cheapest_that_passes_and_loads(tmp_path: Path) -> None:
    grid = generation_grid(BASE, repetition_penalty=[1.1], num_beams=[2], no_repeat_ngram_size=[3])
    right = [TRUTH] * 30

    def table(**tokens: int) -> pd.DataFrame:
        beams = {"num_beams=2": 2}
        found = [made(n, right, tokens=tokens.get(n.split("=")[0], 20), actual_num_beams=beams.get(n)) for n in names]
        return judged(*found).reset_index()

    names = list(dict.fromkeys(grid.values()))
    settings, reason = tuned_preset(table(repetition_penalty=18), grid)
    assert settings == BASE and "no setting was seen to read better" in reason, "18 tokens for 20 is no saving"
    settings, reason = tuned_preset(table(repetition_penalty=10, num_beams=5), grid)
    assert settings.repetition_penalty == 1.1, "of equal cost the first in the grid's order; two beams decode 10"
    assert reason.startswith("repetition_penalty=1.1: not worse than greedy by more than the margin; CER 0.00%")

    file = tmp_path / "new" / "generation.yaml"
    write_preset(replace(settings, model_id="Qwen/Qwen2-VL-2B-Instruct"), reason, file)
    assert load_preset(file) == replace(settings, model_id="Qwen/Qwen2-VL-2B-Instruct")
    text = file.read_text(encoding="utf-8")
    assert text.startswith("# repetition_penalty=1.1: not worse") and "do_sample: false" in text
    for odd in list(grid):
        assert load_preset(write_preset(odd, "a: b # c", file)) == odd


def test_where_everything_is_broken_greedy_stays_and_says_why() -> None:
    grid = generation_grid(BASE)
    broken = {"status": "invalid", "reason": "NaN", "cer": np.nan, "cer_edits": np.nan}
    table = judged(made(GREEDY, [TRUTH] * 6, **broken), made(OWN, [TRUTH] * 6, **broken)).reset_index()
    settings, reason = tuned_preset(table, grid)
    assert settings == BASE and "for want of a better one" in reason and "has no score: invalid: NaN" in reason


def test_the_field_report_is_a_preset_that_leaves_generation_to_the_checkpoint() -> None:
    report = load_preset("field-report")
    assert report.generate_kwargs() == {"max_new_tokens": Settings().max_new_tokens}
    assert (report.dtype, report.attn_implementation, report.batch_size) == ("bfloat16", "eager", 1)
