"""Truths of several sources: no figure mixes them; and facts, which pages may have beside them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ocrlab.experiments.recommend import judge_runs, recommend
from ocrlab.pages import load_pages
from ocrlab.pages.truth import REFERENCE, SOURCES
from ocrlab.reading.settings import Settings
from ocrlab.report.evidence import settings_lines, usable_readings
from ocrlab.report.site import build_site
from ocrlab.study import tables
from ocrlab.study.agreement import with_reference
from ocrlab.study.compare import by_source, one_source, why_no_score
from ocrlab.study.experiment import run_experiment
from ocrlab.study.records import load_rows, row_of, rows_of
from tests.experiments.cells import Cells, shown_by
from tests.runs import reading, write_run

FACTS = [{"present": "abc"}, {"absent": "abd"}, {"row": "abc", "cell": "9"}]


def mixed(files: int = 3, layers: int = 12, **also: int) -> list[dict[str, Any]]:
    """Readings under two budgets: 10 % of the letters are wrong against files, none or half against text layers."""
    made = []
    for source, count in {"file": files, "pdf": layers, **also}.items():
        for number in range(count):
            page = f"{source}-{number}.pdf#1"
            small, large = ("x" * 9, "") if source == "pdf" else ("x", "x")
            for budget, wrong in ((4096, small), (16384, large)):
                text = wrong + "abcdefghijklmnopqr"[len(wrong) :]
                seconds = {"page_s": 0.1 if budget == 4096 else 0.2 + number / 1000}
                about = {"asked": {"max_pixels": budget}, "measured": seconds, "truth_source": source}
                made.append(reading(page, text, "abcdefghijklmnopqr", **about))
    return made


def test_rows_are_parted_by_source_and_those_without_a_score_stand_with_the_first() -> None:
    assert REFERENCE in SOURCES
    bare = [reading("bare", truth=None, truth_source=""), reading("old", "abc", "abc"), reading("lost", status="oom")]
    parts = by_source(pd.DataFrame(rows_of([*mixed(), *bare])))
    assert {name: part["page"].nunique() for name, part in parts.items()} == {
        "the PDF's text layer": 13,
        "a file": 5,
    }
    held = by_source(pd.DataFrame(rows_of(mixed(1, 0, reference=9))))
    assert [*held] == ["a file", "another reading"], "agreement never goes before a truth"
    rows = pd.DataFrame(rows_of(bare[:1]))
    assert [*by_source(rows)] == [""] and [*by_source(pd.DataFrame())] == [""]
    assert one_source(rows)[1] == ""
    mine, words = one_source(pd.DataFrame(rows_of(mixed())))
    assert len(mine) == 24 and words == (
        "These figures are of the 12 pages whose truth is the PDF's text layer; not mixed in: 3 with a file."
    )


def test_the_figure_and_the_answer_of_04_never_mix_sources() -> None:
    rows = pd.DataFrame(rows_of(mixed()))
    figure = shown_by("04-pixels", "Below some budget", rows=rows)
    layers, files = figure.axes[0].get_legend_handles_labels()[0]
    assert [line.get_label() for line in (layers, files)] == ["truth: the PDF's text layer", "truth: a file"]
    assert layers[0].get_ydata() == pytest.approx([0.5, 0]) and files[0].get_ydata() == pytest.approx([1 / 18, 1 / 18])
    table = tables.settings_table(rows, "max_pixels")
    assert table["pages"].to_dict() == {
        (4096, "the PDF's text layer"): 12, (16384, "the PDF's text layer"): 12,
        (4096, "a file"): 3, (16384, "a file"): 3,
    }  # fmt: skip
    assert table["CER"].str.split(" ").str[0].tolist() == ["50.00%", "0.00%", "5.56%", "5.56%"]
    cells = Cells("04-pixels", rows=rows, margin=0.005, page_set="mine", note="")
    cells.run("judged, which").run("words = without_score")
    assert "Of these, no fewer than 16,384 pixels" in cells.said and "CER 0.00% over 12 pages" in cells.said
    assert "not mixed in: 3 with a file" in cells.said


def test_04_says_when_more_pixels_read_worse() -> None:
    made = []
    for number in range(20):
        for budget, wrong in ((4096, 9), (16384, 0), (65536, 2 + number % 3)):
            text = "x" * wrong + "abcdefghijklmnopqr"[wrong:]
            about = {"asked": {"max_pixels": budget}, "measured": {"page_s": 0.1}}
            made.append(reading(f"{number}.png", text, "abcdefghijklmnopqr", **about))
    cells = Cells("04-pixels", rows=pd.DataFrame(rows_of(made)), margin=0.005, page_set="mine", note="")
    cells.run("judged, which = one_source", "words = without_score")
    assert "More pixels read worse: 16,384 px against 65,536 px are better" in cells.said
    assert "16,384 pixels" in cells.said and "CER 0.00%" in cells.said.split("words")[-1]
    assert cells["best"] == 16384 and cells["verdicts"][4096].kind == "worse"


def test_04_answers_where_every_budget_reads_without_an_error() -> None:
    right = [one | {"text": one["truth"]} for one in mixed(0, 12)]
    cells = Cells("04-pixels", rows=pd.DataFrame(rows_of(right)), margin=0.005, page_set="mine", note="")
    cells.run("judged, which").run("words = without_score")
    assert "4,096 pixels" in cells.said and "CER 0.00% over 12 pages" in cells.said


def test_the_recommendation_is_made_for_each_source_and_says_which_decides() -> None:
    judged = judge_runs(pd.DataFrame(rows_of(mixed(9, 12))))
    first, second = recommend(judged)
    assert first.settings.max_pixels == 16384 and second.settings.max_pixels == 4096
    assert first.answer.startswith("This decides, by the most pages: the truth is the PDF's text layer. CER 0.00%")
    assert second.answer.startswith("This does not decide: the truth is a file. CER 5.56%")
    assert "12 pages" in first.answer and "9 pages" in second.answer
    figure = shown_by("08-recommendation", "## See", judged=judged)
    drawn = figure.axes[0]
    assert drawn.get_ylabel() == "CER (layout), truth: the PDF's text layer"
    assert sum(len(p.get_offsets()) for p in drawn.collections if p.get_label()[0] != "_") == 2, "not those of files"
    table = shown_by("08-recommendation", "Every setting, the best first", judged=judged)
    assert table["truth"].tolist() == ["the PDF's text layer"] * 2 + ["a file"] * 2
    alone = judge_runs(pd.DataFrame(rows_of(mixed(0, 12))))
    assert recommend(alone)[0].answer.startswith("CER 0.00%"), "one source needs no word"
    assert "truth" not in shown_by("08-recommendation", "Every setting, the best first", judged=alone)


def test_agreement_beside_truth_of_another_run_is_judged_for_itself() -> None:
    blind = [one | {"truth": None, "truth_source": "", "page": f"b{one['page']}", "page_sha256": f"b{one['page']}"}
             for one in mixed(0, 12)]  # fmt: skip
    held, references = with_reference(blind)
    (reference,) = references.values()
    judged = judge_runs(pd.DataFrame(rows_of([*mixed(9, 0), *held])))
    assert judged["truth"].unique().tolist() == ["a file", "another reading"] and reference.max_pixels == 16384
    decides, agrees = recommend(judged)
    assert "agreement" not in decides.answer and "agreement: no page has a truth" in agrees.answer


def test_why_there_is_no_score_says_what_fits_these_pages() -> None:
    pdf, image = (pd.DataFrame([row_of(reading(page, truth=None))]) for page in ("a/b.PDF#2", "a.tif#2"))
    assert '`truth="pdf"`' in why_no_score(pdf) and "`--truth pdf`" in why_no_score(pdf)
    assert "truth=" not in why_no_score(image) and "ALTO and PAGE-XML: `NAME.xml`" in why_no_score(image)
    assert "08-recommendation go by agreement" in why_no_score(image)
    half = pd.DataFrame([row_of(reading("a.png")), row_of(reading("b.pdf#1", truth=None))])
    assert '`truth="pdf"`' in why_no_score(half) and "agreement" not in why_no_score(half)


def test_facts_are_scored_shown_and_left_out_where_there_are_none(tmp_path: Path) -> None:
    some = [reading("p1", facts=FACTS), reading("p2", "nothing", None, facts=FACTS[:2]), reading("p3")]
    run = write_run(tmp_path / "r", *some, reading("p1", status="oom", text="", asked={"seed": 1}, facts=FACTS))
    rows = load_rows(run).set_index(["page", "seed"])
    assert rows["facts_held"].to_dict() == {
        ("p1", 0): pytest.approx(2 / 3), ("p2", 0): 0.5, ("p3", 0): pytest.approx(float("nan"), nan_ok=True),
        ("p1", 1): 0,
    }  # fmt: skip
    assert rows["cer"].isna().to_dict()["p2", 0] and "facts" not in rows
    assert tables.settings_table(load_rows(run), "seed")["facts held"].iloc[0].startswith("60.0% (")
    index, pages = build_site(run).read_text(encoding="utf-8"), (run / "readings.html").read_text(encoding="utf-8")
    assert "<th>facts held</th>" in index and "60.0% (" in index
    assert "facts held 66.7%" in pages and "facts that do not hold: row “abc”, cell “9”" in pages
    damaged = write_run(tmp_path / "d", some[2] | {"facts": [{"is": 1}]}, reading("p4", facts=7))
    assert [one["facts"] for one in usable_readings(damaged)] == [[], []]
    assert "facts held" not in build_site(damaged).read_text(encoding="utf-8")


def test_the_site_has_lines_for_each_source(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r", *mixed())
    lines = settings_lines(usable_readings(run))
    assert [(line["truth"], line["pages"], round(line["cer"], 2)) for line in lines] == [
        ("the PDF's text layer", 12, 0.5), ("the PDF's text layer", 12, 0), ("a file", 3, 0.06), ("a file", 3, 0.06),
    ]  # fmt: skip
    assert "truth: the PDF&#39;s text layer" in build_site(run).read_text(encoding="utf-8")


def test_facts_that_came_after_their_page_are_taken_and_nothing_is_read_again(tmp_path: Path) -> None:
    pages = [replace(page, truth=None) for page in load_pages("lines", limit=2)]
    base = Settings(dtype="float32", max_new_tokens=60)
    before = run_experiment("e", [base], pages, folder=tmp_path)
    assert "facts_held" not in before
    known = [replace(page, facts=({"present": "no such line"},)) for page in pages]
    after = run_experiment("e", [base], known, folder=tmp_path)
    assert after["facts_held"].tolist() == [0, 0] and after["key"].tolist() == before["key"].tolist()
    assert after["time_utc"].tolist() == before["time_utc"].tolist()
    size = (tmp_path / "readings" / "e.jsonl").stat().st_size
    again = run_experiment("e", [base], pages, folder=tmp_path)
    assert again["facts_held"].tolist() == [0, 0] and (tmp_path / "readings" / "e.jsonl").stat().st_size == size
