"""Why rows have no score, what can be compared without one, and that the sentences count what is there."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ocrlab.study.compare import compare, endings, summarise, why_no_score, why_nothing, without_score
from ocrlab.study.records import row_of
from tests.runs import reading


def rows(*changes: dict[str, Any]) -> pd.DataFrame:
    """One row per page with these changes; no page has a truth unless one is given."""
    made = [row_of(reading(f"p{number}", **({"truth": None} | change))) for number, change in enumerate(changes)]
    return pd.DataFrame(made).assign(k="this")


def test_pages_without_truth_are_compared_by_what_they_cost() -> None:
    found = rows({}, {"measured": {"page_s": 0.4, "tokens": 7}}, {"status": "loop", "measured": {"page_s": 0.6}})
    why, line = without_score(found, "k")
    assert why == why_no_score(found) and "of the 3 that were read, 0 had one" in why and "`NAME.gt.txt`" in why
    assert line == "this: 16 image tokens, 3 new tokens, 400 ms per page (medians); readings: 2 ok, 1 loop."
    assert summarise(found, "k")["cer"].isna().all()
    assert compare(found, "k", "this", "that").kind == "not compared"


def test_one_page_with_a_truth_is_too_few_and_two_are_enough() -> None:
    one = rows({"truth": "abc"}, {})
    assert "of the 2 that were read, 1 had one" in why_no_score(one)
    assert why_no_score(rows({"truth": "abc"})).endswith("1 had one. Read more pages: `pages=20`.")
    two = rows({"truth": "abc"}, {"truth": "abd"})
    assert why_no_score(two) == "" and without_score(two, "k") == []
    blank = two.assign(k=["this", "that"])
    assert compare(blank, "k", "this", "that").words.startswith("not compared: 0 pages have a CER on both sides")


def test_reasons_are_counted_where_nothing_could_be_read() -> None:
    found = rows(*[{"status": "unsupported", "reason": "no such kernel"}] * 2, {"status": "oom", "reason": "13 GiB"})
    words = "None of 3 readings gave a text: 2 unsupported (no such kernel); 1 oom (13 GiB)."
    assert without_score(found, "k") == [words]
    many = rows(*({"status": "error", "reason": reason} for reason in "abcdd"))
    assert why_nothing(many).endswith("2 error (d); 1 error (a); 1 error (b); 1 for other reasons.")
    assert why_nothing(rows({"status": "error"}, {"status": "empty"})) == ""
    assert without_score(pd.DataFrame(), "k") == ["No page was read yet: `make reproduce` reads some."]


def test_what_tells_of_speed_alone_is_said() -> None:
    forced = rows({"asked": {"min_new_tokens": 4, "max_new_tokens": 4}}, {"asked": {"weights": "dummy"}})
    assert "random weights or a fixed length" in why_no_score(forced)
    server = rows({"measured": {"page_s": 0.5, "image_tokens": None}})
    assert "unknown image tokens, 3 new tokens, 500 ms" in without_score(server, "k")[1]


def test_endings_give_the_interval_of_their_share() -> None:
    assert endings(pd.DataFrame({"status": ["truncated"] * 2})) == "2 of 2 (2 truncated; 34 % to 100 %)"
    assert endings(pd.DataFrame({"status": ["loop", *["ok"] * 29]})) == "1 of 30 (1 loop; 0.59 % to 17 %)"
    assert endings(pd.DataFrame({"status": ["ok"]})) == ""
