"""What the workspace costs beside a bare loop: measured in turns, and only where the texts agree."""

from __future__ import annotations

import pytest

from ocrlab.pages import load_pages
from ocrlab.reading.settings import Settings
from tests.experiments.cells import names_of

NOTEBOOK = names_of("embedded-reader")
SETTINGS = Settings(dtype="float32", max_new_tokens=8)


def test_every_page_is_timed_by_all_three() -> None:
    pages = load_pages("lines", limit=2)
    table = NOTEBOOK["measure_overhead"](SETTINGS, pages, repeats=2)
    assert list(table["page"]) == [page.id for page in pages] * 2
    assert (table[["bare_s", "reader_s", "worker_s"]] > 0).all(axis=None)
    assert table["reader_ratio"].tolist() == pytest.approx((table["reader_s"] / table["bare_s"]).tolist())
    assert table["worker_ratio"].tolist() == pytest.approx((table["worker_s"] / table["reader_s"]).tolist())


def test_times_of_different_texts_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NOTEBOOK, "read_by_hand", lambda reader, page: "something else")
    with pytest.raises(RuntimeError, match="cannot be compared"):
        NOTEBOOK["measure_overhead"](SETTINGS, load_pages("lines", limit=1), repeats=1)
