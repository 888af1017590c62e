"""Facts about a page are judged in code, by hand; numbers are in `test_metrics_words`."""

from __future__ import annotations

from typing import Any

import pytest

from ocrlab.scoring.content import fact_holds, facts_problem
from ocrlab.scoring.metrics import METRICS, Edits, facts_missed, score

PAGE = "Price list\nBolt M10 kg 186.40\nNut M10 kg 192.00\nThe pump must not run dry for long"


@pytest.mark.parametrize(
    ("fact", "holds"),
    [
        ({"present": "Nut  M10 kg"}, True),
        ({"present": "Nut M1"}, False),
        ({"present": "The pomp must not run dry"}, False),
        ({"present": "The pomp must not run dry", "max_diffs": 1}, True),
        ({"present": "The pomp nust not run dry", "max_diffs": 1}, False),
        ({"absent": "Bolt M10 kg 186.48"}, True),
        ({"absent": "186.40"}, False),
        ({"first": "Bolt M10", "then": "Nut M10"}, True),
        ({"first": "Nut M10", "then": "Bolt M10"}, False),
        ({"first": "Nut M10", "then": "Washer"}, False),
        ({"first": "Washer", "then": "Nut M10"}, False),
        ({"row": "Bolt M10", "cell": "186.40"}, True),
        ({"row": "Bolt M10", "cell": "192.00"}, False),
        ({"row": "Bolt M10", "cell": "186"}, False),
    ],
)
def test_a_fact(fact: dict[str, Any], holds: bool) -> None:
    assert facts_problem([fact]) == ""
    assert facts_missed(PAGE, [fact]) == ([] if holds else [fact])


def test_what_a_model_writes_around_a_page_is_no_fact_of_it() -> None:
    table = (
        "Here is the text:\n```markdown\n| Bolt M10 | kg | **186.40** |\n|---|---|---|\n| Nut M10 | kg | 192.00 |\n```"
    )
    facts = [
        {"row": "Nut M10", "cell": "192.00"},
        {"absent": "Here is the text"},
        {"first": "186.40", "then": "192.00"},
    ]
    assert METRICS["facts_held"].edits(table, facts) == Edits(0, 3)


def test_an_empty_reading_holds_no_fact_and_pages_without_facts_have_no_column() -> None:
    assert METRICS["facts_held"].edits("```\n```", [{"absent": "Bolt"}]) == Edits(1, 1)
    found = score(PAGE, None, facts=[{"present": "Nut M10"}, {"present": "Washer"}])
    assert found == {"facts_held": 0.5, "facts_held_edits": 1, "facts_held_length": 2}
    assert score(PAGE, None) == {} and "facts_held" not in score(PAGE, PAGE)


@pytest.mark.parametrize(
    "wrong",
    [
        {"somewhere": "Bolt"},
        {"first": "Bolt"},
        {"present": "Bolt", "absent": "Nut"},
        {"present": " "},
        {"present": 5},
        {"present": "x" * 1001},
        {"present": "Bolt", "max_diffs": "1"},
        {"present": "Bolt", "max_diffs": True},
        {"present": "Bolt", "max_diffs": -1},
        "Bolt",
        None,
    ],
)
def test_what_is_no_fact_is_named(wrong: Any) -> None:
    assert f"{wrong!r:.20}" in facts_problem([{"absent": "Bolt"}, wrong]) and "is no fact; write" in facts_problem(
        [wrong]
    )
    assert "is no fact" in facts_problem(wrong)


def test_another_form_is_an_error() -> None:
    with pytest.raises(ValueError, match="a fact has present"):
        fact_holds({"somewhere": "Bolt"}, ["Bolt"])
