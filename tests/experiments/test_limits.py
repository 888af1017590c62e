"""Memory growth, loads, predictions: made-up data come back, pages have the asked size, failures have their lines."""

from __future__ import annotations

import os
import platform
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from ocrlab.commands.cli import main
from ocrlab.experiments import limits
from ocrlab.experiments.limits import (
    against_floor,
    compare_memory,
    fit_matrix,
    fit_table,
    floor_words,
    growth_exponents,
    load_here,
    measure_growth,
    measured_facts,
)
from ocrlab.machine.doctor import check
from ocrlab.machine.hardware import Machine, card
from ocrlab.pages import load_pages
from ocrlab.reading.limits import score_bytes
from ocrlab.reading.settings import Settings
from ocrlab.study.compare import name_variants
from ocrlab.study.records import keep_findings
from ocrlab.study.speed import run_speed
from tests.experiments.cells import names_of
from tests.machine.test_doctor import HEALTHY

SDPA = Settings(dtype="float32")
EAGER = replace(SDPA, attn_implementation="eager")
FLASH_2 = replace(SDPA, dtype="bfloat16", attn_implementation="flash_attention_2")
CELLS = names_of("07-limits")


@pytest.mark.parametrize("exponent", [1.0, 1.5, 2.0])
def test_exponents_are_recovered(exponent: float) -> None:
    lines = [
        {"variant": "a", "image_tokens": size, "peak_memory_bytes": 3e4 * size**exponent, "reason": ""}
        for size in (256, 512, 1024)
    ]
    (found,) = growth_exponents(pd.DataFrame(lines)).to_dict("records")
    assert found["exponent"] == pytest.approx(exponent) and found["factor"] == pytest.approx(3e4)
    assert found["low"] == pytest.approx(exponent) and found["high"] == pytest.approx(exponent)


def test_exponents_are_fitted_over_the_largest_sizes_and_failures_keep_their_reason() -> None:
    tokens = [64, 128, 256, 512]
    lines = [
        {"variant": "eager", "image_tokens": n, "peak_memory_bytes": 1e7 if n == 64 else 8.0 * n**2, "reason": ""}
        for n in tokens
    ]
    lines += [{"variant": "gone", "image_tokens": None, "peak_memory_bytes": None, "reason": "not here"}] * 2
    table = growth_exponents(pd.DataFrame(lines)).set_index("variant")
    assert table.loc["eager", "exponent"] == pytest.approx(2) and table.loc["eager", "sizes"] == 3
    assert pd.isna(table.loc["gone", "exponent"]) and table.loc["gone", "reason"] == "not here"


def test_the_formula_of_eager_attention() -> None:
    """02-attention derives from it how many image tokens fill a card, and nbval compares its figures."""
    eager = Settings(attn_implementation="eager")
    assert 16 * (4 * 4096) ** 2 * score_bytes(eager, "bfloat16", on_cpu=False) == 40 * 2**30
    assert 16 * (4 * 4096) ** 2 * score_bytes(eager, "float16", on_cpu=False) == 32 * 2**30


def test_pages_have_the_asked_size_and_eager_needs_more() -> None:
    growth = name_variants(measure_growth([EAGER, FLASH_2, SDPA], [144, 484]))
    done = growth[growth["variant"] != "flash_attention_2"]
    assert done["image_tokens"].tolist() == [144, 484] * 2 and done["patches"].tolist() == [576, 1936] * 2
    assert (done["vision_heads"] == 5).all() and (done["peak_memory_bytes"] > 0).all()
    largest = done[done["image_tokens"] == 484].set_index("variant")["peak_memory_bytes"]
    scores = 5 * 1936**2 * 8
    assert scores < largest["eager"] < 2 * scores and largest["sdpa"] < scores
    missing = growth[growth["variant"] == "flash_attention_2"]
    assert (missing["status"] == "unsupported").all() and "not installed" in missing["reason"].iloc[0]


def test_too_much_is_a_line_that_says_out_of_memory() -> None:
    growth = measure_growth([replace(EAGER, device="cpu")], [64, 2500], memory_limit_bytes=1_500_000_000)
    assert growth["status"].tolist() == ["ok", "oom"] and "memory" in growth["reason"].iloc[1]


def test_a_file_leaves_the_cache_and_the_proof_sees_one_that_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "w.safetensors"
    file.write_bytes(os.urandom(3 << 20))
    drop_from_cache = CELLS["drop_from_cache"]
    if reason := drop_from_cache(file):
        pytest.skip(reason)
    file.read_bytes()
    monkeypatch.setattr(os, "posix_fadvise", lambda *_: None)
    assert "stayed in memory" in drop_from_cache(file)
    monkeypatch.delattr(os, "posix_fadvise")
    assert "no way to drop a file" in drop_from_cache(file)


def test_loads_of_the_embedded_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    page = load_pages("lines", limit=1)[0]
    monkeypatch.setitem(CELLS, "drop_from_cache", lambda file: f"{file.name} stays, by plan")
    table = CELLS["measure_loads"]([Settings(dtype="float32")], page, repeats=1, new_tokens=4)
    assert table["cache"].tolist() == ["cold", "warm"] and table["status"].tolist() == ["unsupported", "ok"]
    assert "by plan" in table["reason"].iloc[0] and table["load_s"].isna().iloc[0]
    done = table.iloc[1]
    assert done["load_s"] > 0 and done["import_s"] > 0 and done["device"] == "cpu"
    assert done["weight_bytes"] == 4 * done["parameters"] and done["tokens"] == 4
    found = load_here(Settings(weights="dummy", dtype="bfloat16"), page, 4)
    assert found["weight_bytes"] == 2 * found["parameters"] and found["dtype"] == "bfloat16"
    assert found["prefill_bytes"] >= 0 and found["decode_bytes"] >= 0


RUNS = [
    Settings(dtype="float32"),
    Settings(dtype="float32", attn_implementation="eager"),
    Settings(dtype="bfloat16", attn_implementation="eager"),
    Settings(dtype="float32", sdpa_kernel="math"),
    Settings(dtype="bfloat16", attn_implementation="flash_attention_3"),
]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator can be made exact")
def test_memory_is_within_fifteen_percent_and_refusals_keep_their_reason() -> None:
    compared = compare_memory(RUNS, [400, 1024])
    done = compared[compared["status"] == "ok"]
    assert len(done) == 8 and done["ratio"].between(0.85, 1.15).all(), done[["dtype", "image_tokens", "ratio"]]
    refused = compared[compared["status"] != "ok"]
    assert set(refused["attn_implementation"]) == {"flash_attention_3"} and refused["reason"].str.len().min() > 20
    assert (refused["predicted_bytes"] > 0).all()
    figure = CELLS["predicted_against_measured"](compared)
    assert figure.axes[0].get_legend() is not None


def test_shares_follow_the_machines_figures(tmp_path: Path) -> None:
    base = Settings(dtype="float32")
    runs = [base, replace(base, attn_implementation="eager", max_pixels=8192)]
    rows = run_speed("s", runs, load_pages("lines", limit=2), new_tokens=6, repeats=2, folder=tmp_path)
    slow = Machine("slow", 2**33, 1e9, 1e9, "made up", "cpu")
    table, twice = against_floor(rows, slow), against_floor(rows, replace(slow, bandwidth_bytes_s=2e9))
    assert len(table) == 2 and (table["tpot_s"] > 0).all()
    assert (table["tpot_share"] / twice["tpot_share"]).tolist() == pytest.approx([2, 2])
    assert (table["vision_share"] == twice["vision_share"]).all()
    assert table["of_floor"].tolist() == [floor_words(share) for share in table["tpot_share"]]


def test_a_low_share_of_the_floor_has_a_word() -> None:
    assert floor_words(0.31) == "31%" and floor_words(float("nan")) == ""
    assert floor_words(0.04).startswith("4%, low: fast-path says") and "doctor" in floor_words(0.04)


def test_the_doctor_hears_what_a_run_measured_of_this_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_findings(
        "speed",
        [
            {"model_id": "tiny", "tpot_share": 0.9, "tpot_s": 0.001, "held_bytes": None},
            {"model_id": "Qwen/Qwen2-VL-2B-Instruct", "tpot_share": 0.02, "tpot_s": 0.16, "held_bytes": 15.72 * 2**30},
            {"model_id": "Qwen/Qwen2-VL-2B-Instruct", "tpot_share": 0.01, "tpot_s": 0.31, "held_bytes": 14e9},
        ],
        tmp_path,
    )
    assert measured_facts(tmp_path) == {}, "no card here"
    monkeypatch.setattr(limits, "describe_machine", lambda: {"gpu_memory_bytes": 12 * 2**30})
    facts = measured_facts(tmp_path)
    assert facts == {"floor_percent": 2, "step_ms": 160, "held_percent": 131}
    lines = {line.check for line in check(replace(HEALTHY, facts=facts | {"system": "WSL"}))}
    assert {"memory-spilled", "steps-far-from-floor"} <= lines
    monkeypatch.setattr(limits, "machine_name", lambda: "another")
    assert measured_facts(tmp_path) == {} == measured_facts(tmp_path / "none")


def test_tables_over_cards() -> None:
    two_b = Settings(model_id="Qwen/Qwen2-VL-2B-Instruct", weights="dummy", dtype="bfloat16")
    matrix = fit_matrix(fit_table(two_b, [card("RTX 5060"), card("RTX 5090")]))
    assert matrix.loc[("RTX 5060, 8 GiB", "eager"), "4,096 tokens"].startswith("no")
    assert matrix.loc[("RTX 5090, 32 GiB", "sdpa"), "4,096 tokens"].startswith("yes")
    assert "tight" in set(matrix.stack().str.split(",").str[0])
    published = CELLS["published_table"]()
    assert published["share of the floor"].iloc[0] == pytest.approx(0.053, abs=0.003)


def test_fit_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--model", "Qwen/Qwen2-VL-2B-Instruct", "--card", "RTX 5070 Ti"]) == 0
    said = capsys.readouterr().out
    assert "RTX 5070 Ti, 16 GiB" in said and "nothing was loaded" in said and "no, 44" in said
    assert main(["fit", "--card", "RTX 4090"]) == 2
    assert "not in the list of cards" in capsys.readouterr().err
    assert main(["fit", "--model", "Qwen/Nothing", "--card", "RTX 5090", "--json"]) == 2
    assert main(["fit", "--card", "RTX 5090", "--json"]) == 0
    assert '"fits": true' in capsys.readouterr().out
