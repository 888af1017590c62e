"""Loads from disk and from memory: the file cache is really dropped, the sizes are the model's own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ocrlab.experiments import limits
from ocrlab.experiments.limits import drop_from_cache, load_here, measure_loads
from ocrlab.pages import load_pages
from ocrlab.reading.settings import Settings


def test_a_file_leaves_the_cache_and_the_proof_sees_one_that_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "w.safetensors"
    file.write_bytes(os.urandom(3 << 20))
    if reason := drop_from_cache(file):
        pytest.skip(reason)
    file.read_bytes()
    monkeypatch.setattr(os, "posix_fadvise", lambda *_: None)
    assert "stayed in memory" in drop_from_cache(file)
    monkeypatch.delattr(os, "posix_fadvise")
    assert "no way to drop a file" in drop_from_cache(file)


def test_loads_of_the_embedded_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    page = load_pages("lines", limit=1)[0]
    monkeypatch.setattr(limits, "drop_from_cache", lambda file: f"{file.name} stays, by plan")
    table = measure_loads([Settings(dtype="float32")], page, repeats=1, new_tokens=4)
    assert table["cache"].tolist() == ["cold", "warm"] and table["status"].tolist() == ["unsupported", "ok"]
    assert "by plan" in table["reason"].iloc[0] and table["load_s"].isna().iloc[0]
    done = table.iloc[1]
    assert done["load_s"] > 0 and done["import_s"] > 0 and done["device"] == "cpu"
    assert done["weight_bytes"] == 4 * done["parameters"] and done["tokens"] == 4
    found = load_here(Settings(weights="dummy", dtype="bfloat16"), page, 4)
    assert found["weight_bytes"] == 2 * found["parameters"] and found["dtype"] == "bfloat16"
    assert found["prefill_bytes"] >= 0 and found["decode_bytes"] >= 0
