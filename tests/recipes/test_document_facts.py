"""Every document of ours holds its own facts."""

from __future__ import annotations

from ocrlab.pages import load_pages
from ocrlab.scoring.metrics import METRICS


def test_every_document_holds_its_own_facts_and_hardly_those_of_another() -> None:
    pages, held = load_pages("documents"), METRICS["facts_held"].edits
    for page in pages:
        own = held(page.truth or "", page.facts)
        assert own.edits == 0 and own.length >= 5, page.id
    strange = [held(one.truth or "", other.facts) for one, other in zip(pages, pages[7:], strict=False)]
    absent = sum("absent" in fact for page in pages[7:] for fact in page.facts)
    assert sum(found.length - found.edits for found in strange) < 1.2 * absent
