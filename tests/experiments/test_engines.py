"""The same pages by several engines: texts and speed are compared by hand-worked rows, what cannot run has a reason."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ocrlab.reading.settings import Settings
from tests.experiments.cells import Cells, names_of

NAMES = names_of("10-engines")
HERE, SERVED, GIVEN = "in this process", "transformers serve", "the given server"
MODEL = "endpoint:http://127.0.0.1:9/v1#m"
REMOTE = Settings(model_id=MODEL)


def _readings(settings: Settings, text: str, page_s: list[float], status: str = "ok") -> list[dict[str, Any]]:
    return [
        {
            "asked": settings.as_dict(),
            "page": f"p{page}",
            "repeat": repeat,
            "status": status,
            "reason": "gone",
            "text": text if page else "same",
            "measured": {"page_s": seconds, "ttft_s": 0.01},
        }
        for repeat, seconds in enumerate(page_s)
        for page in range(2)
    ]


def test_engines_are_held_against_this_process() -> None:
    other = replace(REMOTE, model_id="endpoint:http://127.0.0.1:8/v1#m")
    choices = {HERE: (Settings(), ""), SERVED: (REMOTE, ""), "third": (other, ""), "none": (None, "absent")}
    assert NAMES["engine_runs"](choices, [1, 2])[:3] == [Settings(), Settings(batch_size=2), REMOTE]
    readings = pd.DataFrame(
        [
            *_readings(Settings(), "a text", [0.1, 0.2]),
            *_readings(REMOTE, "a test", [0.3, 0.3]),
            *_readings(other, "", [0.1], "crashed"),
        ]
    )
    table = NAMES["engine_table"](readings, choices, [1]).set_index("engine")
    assert table["same"].tolist()[:2] == [2, 1] and table.loc[SERVED, "difference"].startswith("p1: at letter 5")
    assert table["letters"].tolist()[:2] == ["", "x → s: 2"] and table["digits"].tolist()[:2] == ["", ""]
    assert table.loc[HERE, "pages_per_s"] == pytest.approx(7.5)
    assert (table.loc[HERE, "pages_per_s_low"], table.loc[HERE, "pages_per_s_high"]) == (5, 10)
    assert table["status"].tolist() == ["ok", "ok", "crashed", "unsupported"]
    cells = Cells("10-engines", table=table.reset_index())
    lines = cells.run("for line in table.to_dict").said.splitlines()
    assert lines[1].startswith("transformers serve, 1 at once: 1 of 2 texts the same; first other one: p1")
    assert lines[2:] == ["third, 1 at once: crashed: gone", "none, 1 at once: unsupported: absent"]
    assert cells.run("ran = table").said.splitlines()[-1].startswith("Fastest: in this process with 1")
    texts = [text.get_text() for text in cells.run("def bars", 'bars("pages_per_s"').shown.axes[0].texts]
    assert texts == ["7.5", "3.3", "crashed: gone", "unsupported: absent"]


def test_where_no_server_starts_the_engines_are_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("ocrlab.reading.serve.NEEDED", ("no_such_module",))
    with NAMES["engines"](Settings(dtype="float32"), MODEL) as choices:
        assert list(choices) == [HERE, SERVED, GIVEN]
        settings, reason = choices[SERVED]
        assert settings is None and "no_such_module" in reason and "ocrlab[serve]" in reason
        assert choices[GIVEN] == (REMOTE, ""), "dtype is the given server's own"
    with NAMES["engines"](Settings(weights="dummy", model_id="Qwen/Qwen2-VL-2B-Instruct")) as choices:
        assert choices[SERVED][1].startswith("weights:")


def test_single_letters_are_listed_by_what_they_became_and_digits_apart() -> None:
    first = {"p0": "Total 10.20", "p1": "Milch"}
    both = pd.DataFrame({"page": ["p0", "p1", "p1"], "text": ["Tota1 18.20", "Mi1ch", "Milc"]})
    found = NAMES["swapped"](first, both)
    assert found["digits"].startswith("l → 1: 2") and "0 → 8: 1" in found["digits"]
    assert found["letters"] == "h → nothing: 1"
