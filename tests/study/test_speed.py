"""Speed rows: forced length, all settings in turns, no quality columns, reasons for what cannot run, resumable."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from ocrlab.pages import load_pages
from ocrlab.reading.settings import Settings
from ocrlab.study.records import read_records, record_files
from ocrlab.study.speed import run_speed

BASE = Settings(dtype="float32")
RUNS = [
    BASE,
    replace(BASE, max_pixels=8192),
    replace(BASE, batch_size=2),
    replace(BASE, attn_implementation="eager"),
    replace(BASE, dtype="bfloat16", attn_implementation="flash_attention_2"),
]


def test_settings_take_turns_at_a_forced_length(tmp_path: Path) -> None:
    pages = load_pages("lines", limit=3)
    rows = run_speed("s", RUNS, pages, new_tokens=5, repeats=2, folder=tmp_path)
    assert len(rows) == len(RUNS) * 3 * 2 and rows["key"].is_unique
    good, bad = rows[rows["attn_implementation"] != "flash_attention_2"], rows[rows["dtype"] == "bfloat16"]
    assert (good["status"] == "ok").all() and (good["tokens"] <= 5).all() and (good["page_s"] > 0).all()
    assert "cer" not in rows and "speed row" in good["reason"].iloc[0]
    assert (bad["status"] == "unsupported").all() and "flash_attn" in bad["reason"].iloc[0]
    assert set(rows[rows["batch_size"] == 2]["batch_pages"]) == {1, 2}

    (file,) = record_files(tmp_path / "readings")
    order = [str(record["asked"]) for record in read_records(file)]
    blocks = 1 + sum(a != b for a, b in pairwise(order))
    assert blocks > 2 * len(RUNS), "settings are interleaved, not read one after another"

    again = run_speed("s", RUNS, pages, new_tokens=5, repeats=2, folder=tmp_path)
    assert again["key"].tolist() == rows["key"].tolist()
    assert len(read_records(file)) == len(rows), "nothing is read twice"
