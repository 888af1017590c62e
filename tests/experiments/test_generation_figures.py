"""The figures and the table of generation settings: every setting is there, with or without a score."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from ocrlab.study.plots import COLOURS
from tests.experiments.cells import shown_by

FOREST, DIGITS, ENDINGS = "Left the error", "Digit strings against letters", "How readings ended"


@pytest.fixture
def judged() -> pd.DataFrame:
    nan = float("nan")
    columns = {
        "setting": ["greedy", "checkpoint's own", "repetition_penalty=1.3", "num_beams=2"],
        "cer": [0.10, 0.10, 0.20, nan], "cer_low": [0.05, 0.05, 0.15, nan], "cer_high": [0.15, 0.15, 0.25, nan],
        "difference": [nan, 0.0, 0.1, nan], "difference_low": [nan, 0.0, 0.05, nan],
        "difference_high": [nan, 0.0, 0.14, nan], "digits": [0.9, 0.9, 0.5, nan], "digits_low": [0.8, 0.8, 0.4, nan],
        "digits_high": [1.0, 1.0, 0.6, nan], "lines": [0.8] * 4, "lines_low": [0.7] * 4, "lines_high": [0.9] * 4,
        "loops": [0, 0, 3, 0], "truncated": [1, 1, 0, 0], "readings": [10] * 4, "ends": ["", "1 of 10", "", ""],
        "tokens_mean": [40.2] * 4,
        "page_s": [0.1, 0.1, 0.1, nan], "same_text": [1.0, 1.0, 0.25, 0.0],
        "out": ["", "", "loses 50.0%", "has no score: oom: out of memory; lower batch_size"],
    }  # fmt: skip
    return pd.DataFrame(columns)


def drawn(heading: str, judged: pd.DataFrame) -> Figure:
    given = {"judged": judged, "margin": 0.005, "title": "tiny", "OWN": "checkpoint's own"}
    if heading == FOREST:
        given |= {"model_id": "tiny", "some": [], "page_set": "labels"}
    return shown_by("05-generation", heading, **given)


def words(figure: Figure) -> str:
    return " | ".join(t.get_text() for axes in figure.axes for t in axes.texts)


def labels(figure: Figure) -> list[str]:
    return [label.get_text() for label in figure.axes[0].get_yticklabels()]


def test_forest_names_every_setting_and_greys_what_has_no_score(judged: pd.DataFrame) -> None:
    figure = drawn(FOREST, judged)
    assert labels(figure) == judged["setting"].tolist()
    assert "has no score: oom: out of memory" in words(figure)
    left, right = figure.axes
    assert "CER" in left.get_xlabel() and "points" in right.get_xlabel()
    assert len(left.lines[0].get_xdata()) == 3 and len(right.lines[0].get_xdata()) == 2, "greedy is not compared"
    worse = [line for line in right.lines if line.get_color() == COLOURS[1]]
    assert [line.get_ydata().tolist() for line in worse] == [[2]], "what is seen to be worse has its colour"
    assert worse[0].get_zorder() > right.lines[0].get_zorder(), "and is drawn over the others"
    assert any(np.allclose(line.get_xdata(), 0.10) for line in left.lines), "greedy's reference line"


def test_digits_figure_has_a_sign_a_kind_and_the_values(judged: pd.DataFrame) -> None:
    figure = drawn(DIGITS, judged)
    assert [t.get_text() for t in figure.legends[0].texts] == ["greedy", "checkpoint's own", "repetition_penalty"]
    assert "1.3" in words(figure) and "share" in figure.axes[0].get_ylabel()


def test_endings_count(judged: pd.DataFrame) -> None:
    figure = drawn(ENDINGS, judged)
    assert "0 + 1 of 10" in words(figure) and "3 + 0 of 10" in words(figure)
    loops = [bar.get_width() for bar in figure.axes[0].containers[1]]
    assert loops == [0, 0, 3, 0]


def test_figures_stand_without_any_score_and_keep_their_budget(judged: pd.DataFrame) -> None:
    unscored = dict.fromkeys(("cer", "cer_low", "cer_high", "difference", "digits"), np.nan)
    blind = judged.assign(**unscored, out="has no score: no truth")
    for table in (judged, blind):
        for figure in (drawn(heading, table) for heading in (FOREST, DIGITS, ENDINGS)):
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png")
            assert 2_000 < len(buffer.getvalue()) < 100_000


def test_the_table_rounds_last_and_says_what_speaks_against(judged: pd.DataFrame) -> None:
    given = {"rows": pd.DataFrame(), "margin": 0.005, "judge_settings": lambda *_: judged}
    table = shown_by("05-generation", "One line per setting", **given)
    assert table.loc["greedy", "CER"] == "10.00% (5.00% to 15.00%)" and table.loc["num_beams=2", "CER"] == "–"
    assert table.loc["repetition_penalty=1.3", "speaks against it"] == "loses 50.0%"
    assert table.loc["greedy", "ms per page"] == 100 and table.loc["repetition_penalty=1.3", "greedy's text"] == "25%"
