"""Facts about a page are judged in code: by hand, and on every document of ours."""

from __future__ import annotations

import json
from typing import Any

import pytest

from data.recipes.document_facts import facts_held
from ocrlab import paths

PAGE = "Price list\nBolt M10 kg 186.40\nNut M10 kg 192.00\nThe pump must not run dry for long"


def documents() -> list[dict[str, Any]]:
    lines = (paths.PAGES / "documents" / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


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
    assert facts_held(PAGE, [fact]).kept == holds


def test_what_a_model_writes_around_a_page_is_no_fact_of_it() -> None:
    table = (
        "Here is the text:\n```markdown\n| Bolt M10 | kg | **186.40** |\n|---|---|---|\n| Nut M10 | kg | 192.00 |\n```"
    )
    facts = [
        {"row": "Nut M10", "cell": "192.00"},
        {"absent": "Here is the text"},
        {"first": "186.40", "then": "192.00"},
    ]
    assert facts_held(table, facts).share == 1


def test_an_empty_reading_holds_no_fact_and_no_facts_have_no_share() -> None:
    assert facts_held("```\n```", [{"absent": "Bolt"}]).share == 0
    assert facts_held(PAGE, []).share is None


def test_another_form_is_an_error() -> None:
    with pytest.raises(ValueError, match="a fact has present"):
        facts_held(PAGE, [{"somewhere": "Bolt"}])


def test_every_document_holds_its_own_facts_and_hardly_those_of_another() -> None:
    pages = documents()
    for page in pages:
        held = facts_held(page["truth"], page["facts"])
        assert held.kept == held.expected >= 5, page["id"]
    strange = [facts_held(one["truth"], other["facts"]) for one, other in zip(pages, pages[7:], strict=False)]
    absent = sum("absent" in fact for page in pages[7:] for fact in page["facts"])
    assert sum(held.kept for held in strange) < 1.2 * absent
