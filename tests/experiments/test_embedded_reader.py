"""What the workspace costs beside a bare loop: measured in turns, and only where the texts agree."""

from __future__ import annotations

import pytest

from ocrlab.experiments import embedded_reader
from ocrlab.pages import load_pages
from ocrlab.reading.settings import Settings

SETTINGS = Settings(dtype="float32", max_new_tokens=8)


def test_every_page_is_timed_in_all_three_ways() -> None:
    pages = load_pages("lines", limit=2)
    table = embedded_reader.measure_overhead(SETTINGS, pages, repeats=2)
    assert list(table["page"]) == [page.id for page in pages] * 2
    assert (table[["bare_s", "reader_s", "worker_s"]] > 0).all(axis=None)
    assert table["reader_ratio"].tolist() == pytest.approx((table["reader_s"] / table["bare_s"]).tolist())
    assert table["worker_ratio"].tolist() == pytest.approx((table["worker_s"] / table["reader_s"]).tolist())


def test_ways_that_read_different_texts_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_reader, "_bare", lambda reader, page: "something else")
    with pytest.raises(RuntimeError, match="cannot be compared"):
        embedded_reader.measure_overhead(SETTINGS, load_pages("lines", limit=1), repeats=1)
