"""Predicted memory against what processes really take here, for every attention of this CPU; and time floors."""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path

import pytest

from ocrlab.commands.cli import main
from ocrlab.experiments.limits import (
    against_floor,
    compare_memory,
    fit_matrix,
    fit_table,
    predicted_against_measured,
    published_table,
)
from ocrlab.machine.hardware import Machine
from ocrlab.pages import load_pages
from ocrlab.reading.settings import Settings
from ocrlab.study.speed import run_speed

RUNS = [
    Settings(dtype="float32"), Settings(dtype="float32", attn_implementation="eager"),
    Settings(dtype="bfloat16", attn_implementation="eager"), Settings(dtype="float32", sdpa_kernel="math"),
    Settings(dtype="bfloat16", attn_implementation="flash_attention_3"),
]  # fmt: skip


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator can be made exact")
def test_memory_is_within_fifteen_percent_and_refusals_keep_their_reason() -> None:
    compared = compare_memory(RUNS, [400, 1024])
    done = compared[compared["status"] == "ok"]
    assert len(done) == 8 and done["ratio"].between(0.85, 1.15).all(), done[["dtype", "image_tokens", "ratio"]]
    refused = compared[compared["status"] != "ok"]
    assert set(refused["attn_implementation"]) == {"flash_attention_3"} and refused["reason"].str.len().min() > 20
    assert (refused["predicted_bytes"] > 0).all()
    assert predicted_against_measured(compared).axes[0].get_legend() is not None


def test_shares_follow_the_machines_figures(tmp_path: Path) -> None:
    base = Settings(dtype="float32")
    runs = [base, replace(base, attn_implementation="eager", max_pixels=8192)]
    rows = run_speed("s", runs, load_pages("lines", limit=2), new_tokens=6, repeats=2, folder=tmp_path)
    slow = Machine("slow", 2**33, 1e9, 1e9, "made up", "cpu")
    table, twice = against_floor(rows, slow), against_floor(rows, replace(slow, bandwidth_bytes_s=2e9))
    assert len(table) == 2 and (table["tpot_s"] > 0).all()
    assert (table["tpot_share"] / twice["tpot_share"]).tolist() == pytest.approx([2, 2])
    assert (table["vision_share"] == twice["vision_share"]).all()


def test_tables_over_cards() -> None:
    from ocrlab.machine.hardware import card

    two_b = Settings(model_id="Qwen/Qwen2-VL-2B-Instruct", weights="dummy", dtype="bfloat16")
    matrix = fit_matrix(fit_table(two_b, [card("RTX 5060"), card("RTX 5090")]))
    assert matrix.loc[("RTX 5060, 8 GiB", "eager"), "4,096 tokens"].startswith("no")
    assert matrix.loc[("RTX 5090, 32 GiB", "sdpa"), "4,096 tokens"].startswith("yes")
    assert "tight" in set(matrix.stack().str.split(",").str[0])
    published = published_table()
    assert published["share of the floor"].iloc[0] == pytest.approx(0.053, abs=0.003)


def test_fit_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--model", "Qwen/Qwen2-VL-2B-Instruct", "--card", "RTX 5070 Ti"]) == 0
    told = capsys.readouterr().out
    assert "RTX 5070 Ti, 16 GiB" in told and "nothing was loaded" in told and "no, 36" in told
    assert main(["fit", "--card", "RTX 4090"]) == 2
    assert "not in the list of cards" in capsys.readouterr().err
    assert main(["fit", "--model", "Qwen/Nothing", "--card", "RTX 5090", "--json"]) == 2
    assert main(["fit", "--card", "RTX 5090", "--json"]) == 0
    assert '"fits": true' in capsys.readouterr().out
