"""A new metric is one entry in METRICS: rows, summaries, tables, the site and verdicts then have it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ocrlab.report.site import build_site
from ocrlab.scoring.metrics import METRICS, Edits, Metric
from ocrlab.study import tables
from ocrlab.study.compare import compare, summarise
from ocrlab.study.records import load_rows
from tests.runs import reading, write_run


def vowels_kept(text: str, truth: str) -> Edits:
    """Vowels of the truth that the reading has fewer of."""
    expected, read = ([sum(map(side.count, "aeiou"))] for side in (truth, text))
    return Edits(max(0, expected[0] - read[0]), expected[0])


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(METRICS, "vowels", Metric("vowels kept", vowels_kept, better="high", decimals=1))
    pages = [("p1", "ai", "aia"), ("p2", "aeio", "aeio"), ("p3", "xyz", "xyz")]
    first = [reading(page, text, truth) for page, text, truth in pages]
    return write_run(tmp_path / "r", *first, *(reading(p, t, t, asked={"seed": 1}) for p, _, t in pages))


def test_a_metric_of_one_entry_is_in_rows_summaries_and_tables(run: Path) -> None:
    rows = load_rows(run)
    mine = rows[rows["seed"] == 0].set_index("page")
    assert mine["vowels"].tolist() == pytest.approx([2 / 3, 1, float("nan")], nan_ok=True)
    assert mine[["vowels_edits", "vowels_length"]].values.tolist() == [[1, 3], [0, 4], [0, 0]]
    line = summarise(rows, "seed").set_index("seed").loc[0]
    assert line["vowels"] == pytest.approx(6 / 7) and line["vowels_low"] <= line["vowels"] <= line["vowels_high"] <= 1
    assert "85.7% (" in tables.settings_table(rows, "seed")["vowels kept"].iloc[0]
    assert "vowels kept" in compare(rows, "seed", 0, 1, metric="vowels").words


def test_a_metric_of_one_entry_is_on_the_site(run: Path) -> None:
    index = build_site(run)
    assert "<th>vowels kept</th>" in index.read_text(encoding="utf-8") and "85.7% (" in index.read_text(
        encoding="utf-8"
    )
    assert "vowels kept 66.7%" in (run / "readings.html").read_text(encoding="utf-8")
    assert "| vowels kept (95 % interval) |" in (run / "report.md").read_text(encoding="utf-8")


def test_rows_of_an_earlier_version_are_not_read(tmp_path: Path) -> None:
    run = write_run(tmp_path / "old", reading("p1", "abd", "abc"), reading("p2"))
    (run / "rows").mkdir()
    (run / "rows" / "e.jsonl").write_text(json.dumps({"key": "1", "page": "p1", "cer": 0.0}) + "\n", encoding="utf-8")
    assert load_rows(run)["cer"].tolist() == [pytest.approx(1 / 3), 0.0]
    assert "16.67%" in build_site(run).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [name for name, metric in METRICS.items() if metric.of == "truth"])
def test_a_perfect_and_an_empty_reading_by_hand(name: str) -> None:
    metric = METRICS[name]
    best, worst = (1.0, 0.0) if metric.better == "high" else (0.0, 1.0)
    if name in {"words_invented", "lookalikes", "numbers_reformatted"}:
        worst = 0.0  # where nothing was read, nothing was read otherwise
    assert metric.value(metric.count("Net 5 kg", "Net 5 kg")) == best
    assert metric.value(metric.count("", "Net 5 kg")) == worst
