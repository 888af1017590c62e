"""Pages without a truth: which reading the others are held against, votes on places, and what to label first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ocrlab.pages import load_pages
from ocrlab.pages.truth import REFERENCE
from ocrlab.reading.settings import Settings
from ocrlab.study.agreement import against_reference, label_first, places, vote_words, with_reference
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


def test_places_are_where_words_part() -> None:
    one, other = places(
        "Sure, here is the text:\n\nMilk 2 x 3.10\nTotal 6.20 in all", "Milk  2 x 8.10 Total 6.20 in all ok"
    )
    assert (one.before, one.texts, one.after) == ("Milk 2 x", ("3.10", "8.10"), "Total 6.20 in all")
    assert one.starts == (9, 9) and one.share == 3 / 8
    assert (other.before, other.texts, other.after) == ("x 3.10 Total 6.20 in all", ("", "ok"), "")
    assert "Milk 2 x 8.10 Total 6.20 in all ok"[other.starts[1] :] == "ok"
    assert [place.texts for place in places("a b c d", "a x y d")] == [("b c", "x y")], "neighbours are one place"
    assert places("same  text", "same\ntext") == []


def test_a_vote_is_the_same_place_whichever_text_was_on_the_left() -> None:
    page = load_pages("lines", limit=1)[0]
    (place,) = places("one two", "one too")
    vote = place.record(page, (BASE, SMALL), 0, "left")
    turned = places("one too", "one two")[0].record(page, (SMALL, BASE), 0, "right")
    assert vote["left"] == turned["right"] and vote["key"] == turned["key"]
    assert vote["left"] == {"asked": BASE.as_dict(), "text": "two", "start": 4}
    assert (vote["page_sha256"], vote["truth_source"], vote["choice"]) == (page.sha256, "vote", "left")
    assert place.record(page, (BASE, SMALL), 1, "left")["left"]["asked"] == SMALL.as_dict()
    assert place.record(replace(page, sha256="another"), (BASE, SMALL), 0, "left")["key"] != vote["key"]


def test_votes_are_counted_for_a_setting_and_not_for_a_side() -> None:
    pages = load_pages("lines", limit=8)
    (place,) = places("one two", "one too")
    votes = [place.record(page, (BASE, SMALL), n % 2, ("left", "right")[n % 2]) for n, page in enumerate(pages)]
    words = vote_words(votes, BASE, SMALL)
    assert "A is preferred in 100.0% of the other 8" in words and "pages: 8); that settles it" in words
    assert "A is preferred in 0.0% of the other 8" in vote_words(votes, SMALL, BASE)
    assert vote_words(votes, BASE, replace(BASE, max_pixels=4096)) == ""
    both = [place.record(page, (BASE, SMALL), 0, "both") for page in pages]
    assert vote_words(both, BASE, SMALL) == "8 blind votes: 8 both fine, 0 neither; none prefers A or B yet."
    words = vote_words([*votes[:3], *both[3:]], BASE, SMALL)
    assert "5 both fine" in words and "not settled: about 3 more" in words


def test_pages_on_which_settings_differ_most_are_labelled_first() -> None:
    def reading(page: str, setting: int, text: str, **more: object) -> dict[str, object]:
        return {"page": page, "page_sha256": page, "asked": {"n": setting}, "text": text, "status": "ok"} | more

    readings = [
        *(reading("same", n, "abcd  efgh") for n in range(3)),
        *(reading("apart", n, text) for n, text in enumerate(("abcd", "abcx", "abcd"))),
        *(reading("far", n, text) for n, text in enumerate(("abcd", "wxyz"))),
        *(reading("known", n, text, truth="abcd") for n, text in enumerate(("abcd", "wxyz"))),
        *(reading("lost", n, "", status="crashed") for n in range(2)),
        reading("far", 0, "abyz"),  # read again: the last counts
        reading("once", 0, "abcd"),
    ]
    # apart: pairs 1/4, 0, 1/4.
    expected = [("far", 2, 0.5), ("apart", 3, pytest.approx(1 / 6)), ("same", 3, 0.0)]
    assert [(line["page"], line["settings"], line["differ"]) for line in label_first(readings)] == expected
