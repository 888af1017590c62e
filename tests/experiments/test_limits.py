"""Memory growth, loads, predictions: made-up data come back, pages have the asked size, failures have their lines."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from ocrlab import paths
from ocrlab.commands.cli import main
from ocrlab.experiments import limits
from ocrlab.experiments.limits import (
    against_floor,
    compare_memory,
    fit_matrix,
    fit_table,
    floor_words,
    growth_exponents,
    measure_growth,
    measured_facts,
)
from ocrlab.machine import hardware
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
    found = CELLS["load_here"](Settings(weights="dummy", dtype="bfloat16"), page, 4)
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


SHAPES = {  # the embedded reader's, in the other families' terms
    "qwen2_5_vl": {"intermediate_size": 432, "window_size": 64, "fullatt_block_indexes": [1, 3]},
    "qwen3_vl": {"intermediate_size": 640, "num_position_embeddings": 256, "deepstack_visual_indexes": [0, 1, 2]},
}


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator can be made exact")
@pytest.mark.parametrize("family", SHAPES)
def test_memory_of_other_families_is_within_fifteen_percent(family: str, tmp_path: Path) -> None:
    tiny = json.loads((paths.MODELS / "tiny" / "config.json").read_text(encoding="utf-8"))
    text, vision = tiny["text_config"], tiny["vision_config"]
    text = {name: text[name] for name in text if name.endswith(("size", "heads", "num_hidden_layers", "token_id"))}
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": 200.0, "mrope_section": [6, 5, 5]}
    vision = {name: vision[name] for name in ("depth", "num_heads", "patch_size", "spatial_merge_size")}
    vision |= {"hidden_size": 160, "temporal_patch_size": 2, "out_hidden_size": text["hidden_size"]} | SHAPES[family]
    tokens = {name: value for name, value in tiny.items() if name.endswith("token_id")}
    heads = {"head_dim": 32} if family == "qwen3_vl" else {}
    config = tokens | {"model_type": family, "tie_word_embeddings": True, "vision_config": vision}
    for file in (paths.MODELS / "tiny").glob("*token*"):
        shutil.copy(file, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | {"text_config": text | heads}), encoding="utf-8")
    settings = Settings(model_id=str(tmp_path), weights="dummy", dtype="float32")
    compared = compare_memory([settings], [400, 1024])
    above = (compared["predicted_bytes"] - compared["weights_bytes"]) / compared["peak_memory_bytes"]
    assert len(compared) == 2 and above.between(0.85, 1.15).all(), compared[["status", "reason", "ratio"]]


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
    assert floor_words(0.04).startswith("4%, low: see fast-path") and "doctor" in floor_words(0.04)


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
    ceilings = [{"ceiling": "copy", "median": 210.0}, {"ceiling": "gemv", "median": 400.0}]
    keep_findings("ceilings", [line | {"dtype": "float32"} for line in ceilings], tmp_path)
    assert measured_facts(tmp_path) == {}, "no card here"
    laptop = {"gpu": "NVIDIA GeForce RTX 5070 Ti Laptop GPU", "gpu_memory_bytes": 12 * 2**30}
    for module in (limits, hardware):
        monkeypatch.setattr(module, "describe_machine", lambda: laptop)
    facts = measured_facts(tmp_path)
    assert facts == {"floor_percent": 2, "step_ms": 160, "held_percent": 131, "bandwidth_percent": 31}
    lines = {line.check for line in check(replace(HEALTHY, facts=facts | {"system": "WSL"}))}
    assert {"memory-spilled", "steps-far-from-floor", "bandwidth-low"} <= lines
    monkeypatch.setitem(laptop, "gpu", "NVIDIA RTX 9999")
    assert "bandwidth_percent" not in measured_facts(tmp_path), "no datasheet, no share"
    monkeypatch.setattr(limits, "machine_name", lambda: "another")
    assert measured_facts(tmp_path) == {} == measured_facts(tmp_path / "none")


def test_tables_over_cards() -> None:
    two_b = Settings(model_id="Qwen/Qwen2-VL-2B-Instruct", weights="dummy", dtype="bfloat16")
    table = fit_table(two_b, [card("RTX 5090"), card("RTX 5060"), card("RTX 4060")])
    matrix = fit_matrix(table)
    assert table["weights_gib"].unique() == pytest.approx([4.115], rel=1e-3)
    assert matrix.loc[("8 GiB: RTX 5060, RTX 4060", "eager"), "4,096 tokens"].startswith("no")
    assert matrix.loc[("32 GiB: RTX 5090", "sdpa"), "4,096 tokens"].startswith("yes")
    assert len(matrix) == 4, "cards of one size stand in one row"
    assert "tight" in set(matrix.stack().str.split(",").str[0])
    published = CELLS["published_table"]()
    assert published["share of the floor"].iloc[0] == pytest.approx(0.053, abs=0.003)


def test_fit_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--model", "Qwen/Qwen2-VL-2B-Instruct", "--card", "RTX 5070 Ti"]) == 0
    said = capsys.readouterr().out
    assert "16 GiB: RTX 5070 Ti" in said and "nothing was loaded" in said and "no, 44" in said
    assert "weights: 4.11 GiB for 2,208,985,600 parameters, a part of every peak" in said
    assert main(["fit", "--card", "RTX 2080"]) == 2
    assert "not in the list of cards" in capsys.readouterr().err
    assert main(["fit", "--model", "Qwen/Nothing", "--card", "RTX 5090", "--json"]) == 2
    assert main(["fit", "--card", "RTX 5090", "--json"]) == 0
    assert '"fits": true' in capsys.readouterr().out


def test_fit_asks_about_rtx_50_about_all_or_about_any_size(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit"]) == 0
    default = capsys.readouterr().out
    assert "RTX 5050" in default and "RTX 5090 Laptop" in default and "RTX 4090" not in default
    assert main(["fit", "--all"]) == 0
    every = capsys.readouterr().out
    assert "RTX 3060 12 GB: vision" in every and "RTX PRO 4000 Blackwell: vision not known; " in every
    assert main(["fit", "--memory-gib", "10", "--model", "Qwen/Qwen3-VL-4B-Instruct"]) == 0
    sized = capsys.readouterr().out
    assert (
        "weights: 8.27 GiB" in sized and "any card of 10 GiB: its rates are not known" in sized and "nan" not in sized
    )
    assert main(["fit", "--memory-gib", "10", "--json"]) == 0
    line = json.loads(capsys.readouterr().out.splitlines()[0])
    assert line["vision_s"] is None and line["tpot_s"] is None and line["fits"] and line["memory_gib"] == 10
    assert main(["fit", "--memory-gib", "0"]) == 2
    assert "--memory-gib 0: give a card's memory in GiB" in capsys.readouterr().err


def test_fit_says_where_only_the_weights_are_known(
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = ["fit", "--model", "zai-org/GLM-OCR", "--memory-gib", "2", "--card", "RTX 5060"]
    assert main(asked) == 0
    said = capsys.readouterr().out
    assert "weights: 2.06 GiB for 1,107,405,824 parameters" in said and "is not modelled for this family" in said
    assert "weights do not fit" in said and "weights fit and leave 5.4 GiB" in said
    assert main([*asked, "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["fits"] for line in lines] == [None, False], "what fits by its weights may still not fit"


def test_a_model_that_this_machine_cannot_hold_is_not_loaded_and_the_figures_are_named() -> None:
    too_large = names_of("07-limits")["too_large"]
    asked = Settings(model_id="Qwen/Qwen2-VL-2B-Instruct", weights="dummy", dtype="float32", max_pixels=50176)
    laptop = Machine("a laptop", 4 * 2**30, 1e10, 1e11, "planted", "cpu")
    assert re.fullmatch(
        r".*2B.* in float32 takes 8\.\d GiB, and a laptop has 4\.0: not measured\. Set .*", too_large(asked, laptop)
    )
    assert too_large(asked, replace(laptop, memory_bytes=16 * 2**30)) == ""
    assert too_large(replace(asked, model_id="small-glm-ocr"), laptop) == "", "not predicted: it is tried"
