"""Distance from float32: by hand, exactly zero for the same, large for a planted fault, a line for what cannot run."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from ocrlab import paths
from ocrlab.experiments.attention import (
    answer_tokens,
    count_kernels,
    distance,
    forced_logits,
    measure_fidelity,
    reference_of,
)
from ocrlab.experiments.dtype import tf32_here, tf32_table
from ocrlab.machine import quarantine
from ocrlab.machine.worker import Worker
from ocrlab.pages import Page, load_pages
from ocrlab.reading.reader import open_reader
from ocrlab.reading.settings import Settings
from ocrlab.study.compare import contrast, failures, name_ways, ratio, ratio_words
from ocrlab.study.experiment import readings_of, run_experiment
from tests.study import faults

SDPA = Settings(dtype="float32", max_new_tokens=40)
FLASH_2 = replace(SDPA, dtype="bfloat16", attn_implementation="flash_attention_2")


@pytest.fixture(autouse=True)
def _own_quarantine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "BUILD", tmp_path / "build")


@pytest.fixture(scope="module")
def pages() -> list[Page]:
    return load_pages("lines", limit=2)


@pytest.fixture(scope="module")
def measured(pages: list[Page]) -> pd.DataFrame:
    runs = [reference_of(SDPA), replace(SDPA, attn_implementation="eager"), replace(SDPA, dtype="bfloat16"), FLASH_2]
    return name_ways(measure_fidelity(runs, pages), with_dtype=True)


def test_distance_by_hand() -> None:
    reference = torch.tensor([[math.log(3), 0.0], [0.0, 1.0]])
    found = distance(torch.tensor([[0.0, 0.1], [0.0, 1.0]]), reference)
    q = 1 / (1 + math.exp(0.1))
    kl = 0.75 * math.log(0.75 / q) + 0.25 * math.log(0.25 / (1 - q))
    assert found["kl_max"] == pytest.approx(kl) and found["kl_mean"] == pytest.approx(kl / 2)
    assert found["logit_error"] == pytest.approx(math.log(3)) and found["positions"] == 2
    assert found["logit_error_sd"] == pytest.approx(math.log(3) / (math.log(3) / math.sqrt(2)))
    assert found["same_argmax"] == 0.5 and found["parted_at"] == 0
    flat = distance(torch.zeros(1, 2), torch.tensor([[math.log(3), 0.0]]))
    assert flat["kl_mean"] == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))


def test_broken_logits_have_a_status_and_no_number() -> None:
    found = distance(torch.tensor([[0.0, 1.0], [float("nan"), 0.0]]), torch.zeros(2, 2))
    assert found["status"] == "invalid" and "1 of 2 positions" in found["reason"] and "kl_mean" not in found


def test_the_reference_against_itself_is_exactly_zero(measured: pd.DataFrame) -> None:
    same = measured[measured["way"] == "float32, sdpa, math"]
    assert len(same) == 2 and (same["status"] == "ok").all()
    assert (same[["kl_mean", "kl_max", "logit_error", "logit_error_sd"]] == 0).all(axis=None)
    assert (same["same_argmax"] == 1).all() and same["parted_at"].isna().all()
    assert (same["positions"] > 3).all() and (same["image_tokens"] > 0).all()


def test_rounding_shows_in_its_order_and_what_cannot_run_keeps_its_line(measured: pd.DataFrame) -> None:
    by_way = measured.groupby("way")["kl_mean"].max()
    assert 0 < by_way["float32, eager"] < 1e-8 < by_way["bfloat16, sdpa"] < 0.1
    sizes = measured.groupby("way")["weight_bytes"].max()
    assert sizes["float32, eager"] == 2 * sizes["bfloat16, sdpa"]
    missing = measured[measured["way"] == "bfloat16, flash_attention_2"]
    assert (missing["status"] == "unsupported").all() and "not installed" in missing["reason"].iloc[0]
    assert missing["kl_mean"].isna().all() and len(missing) == 2


def test_forced_logits_are_those_of_the_generation(pages: list[Page]) -> None:
    with open_reader(SDPA) as reader:
        tokens = answer_tokens(reader, pages[0])
        logits, image_tokens = forced_logits(reader, pages[0], tokens)
        assert logits.argmax(-1).tolist() == tokens, "greedy decoding takes the highest at every step"
        assert image_tokens == reader.read(pages[0]).image_tokens


def test_an_answer_may_hold_the_image_token(pages: list[Page]) -> None:
    with open_reader(SDPA) as reader:
        image = reader.model.config.image_token_id
        logits, _ = forced_logits(reader, pages[0], [image, 5, image])
    assert logits.shape[0] == 3 and bool(logits.isfinite().all())


def test_a_turned_attention_is_far_away_and_only_in_its_own_process(pages: list[Page]) -> None:
    (line,) = measure_fidelity([SDPA], pages[:1], prepare=faults.turn_heads).to_dict("records")
    assert line["kl_mean"] > 0.1 and line["same_argmax"] < 0.9 and line["parted_at"] >= 0
    (line,) = measure_fidelity([SDPA], pages[:1]).to_dict("records")
    assert line["kl_mean"] < 1e-8 and math.isnan(line["parted_at"] or math.nan)


def test_nan_and_death_are_lines_with_a_reason(pages: list[Page]) -> None:
    (line,) = measure_fidelity([SDPA], pages[:1], prepare=faults.give_nan).to_dict("records")
    assert line["status"] == "invalid" and "NaN" in line["reason"] and line["kl_mean"] is None
    lines = measure_fidelity([SDPA], pages, prepare=faults.die)
    assert lines["status"].tolist() == ["crashed"] * 2 and "SIGABRT" in lines["reason"].iloc[0]


def test_quarantine_and_bad_pages_are_lines_with_a_reason(pages: list[Page], tmp_path: Path) -> None:
    quarantine.judge({("float32", "eager", None): "planted"})
    bad = replace(pages[0], id="bad", file=tmp_path / "none.png")
    lines = measure_fidelity([SDPA, replace(SDPA, attn_implementation="eager")], [pages[0], bad])
    assert lines["status"].tolist() == ["ok", "error", "unsupported", "unsupported"]
    assert lines["reason"].iloc[1].startswith("its reference in float32") and lines["reference"].iloc[1] == "error"
    assert "quarantined by the canary" in lines["reason"].iloc[2]


def test_the_profiler_tells_which_kernels_ran(pages: list[Page]) -> None:
    eager, math_ = replace(SDPA, attn_implementation="eager"), replace(SDPA, sdpa_kernel="math")
    table = name_ways(count_kernels([eager, math_, SDPA, FLASH_2], pages[0], new_tokens=3)).set_index("way")
    assert table.loc["eager", ["math", "fused"]].tolist() == [0, 0] and table.loc["eager", "took"] == "none"
    layers = 4 + 3 * 3  # the vision tower's once, the text's once for the prompt and for each token after the first
    assert table.loc["sdpa, math", "math"] == layers and table.loc["sdpa, math", "fused"] == 0
    assert table.loc["sdpa", ["math", "fused"]].sum() == layers
    assert table.loc["flash_attention_2", "status"] == "unsupported" and table.loc["flash_attention_2", "took"] == ""


def test_tf32_without_a_card_is_a_line_and_changes_nothing(pages: list[Page]) -> None:
    table = tf32_table(replace(SDPA, device="cpu"), pages[0])
    assert table["dtype"].tolist() == ["float32", "bfloat16"] and (table["status"] == "unsupported").all()
    assert table["reason"].str.contains("NVIDIA").all()
    found = tf32_here(replace(SDPA, device="cpu"), pages[0], 2)
    assert found["kl_mean"] == 0 and found["logit_error"] == 0
    assert 0 < found["ratio_low"] <= found["ratio"] <= found["ratio_high"]
    assert not torch.backends.cuda.matmul.allow_tf32, "put back"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_tf32_touches_float32_products_only(pages: list[Page]) -> None:
    table = tf32_table(SDPA, pages[0]).set_index("dtype")
    assert table.loc["float32", "logit_error"] > 0 and table.loc["bfloat16", "kl_mean"] < 1e-6


def test_contrast_of_real_readings(pages: list[Page], tmp_path: Path) -> None:
    runs = [SDPA, replace(SDPA, attn_implementation="eager"), replace(FLASH_2, dtype="bfloat16")]
    rows = name_ways(run_experiment("c", runs, pages, folder=tmp_path))
    table = contrast(rows, readings_of("c", tmp_path), "sdpa").set_index("way")
    assert table.loc["eager", "same_text"] == 1 and table.loc["eager", "kind"] == "not worse"
    assert table.loc["sdpa", "words"] == "the one compared with" and table.loc["sdpa", "pages"] == 2
    assert table.loc["flash_attention_2", "pages"] == 0 and table.loc["flash_attention_2", "status"] == "unsupported"
    assert pd.isna(table.loc["flash_attention_2", "cer"]) and pd.isna(table.loc["flash_attention_2", "same_text"])

    other = readings_of("c", tmp_path)
    eager = set(rows[rows["way"] == "eager"]["key"])
    other.loc[other["key"].isin(eager), "text"] += "x"
    table = contrast(rows, other, "sdpa").set_index("way")
    assert table.loc["eager", "same_text"] == 0 and table.loc["eager", "first_difference"] > 0


def test_random_weights_leave_quality_empty(pages: list[Page], tmp_path: Path) -> None:
    dummy = replace(SDPA, weights="dummy", max_new_tokens=4)
    rows = name_ways(run_experiment("d", [dummy, replace(dummy, attn_implementation="eager")], pages, folder=tmp_path))
    table = contrast(rows, readings_of("d", tmp_path), "sdpa")
    assert table["cer"].isna().all() and (table["kind"] == "").all() and (table["pages"] == 2).all()


def lines(**ways: list[float]) -> pd.DataFrame:
    """Rows of pages p0, p1, … with `kl_mean` and `page_s` of the given values; NaN did not run."""
    return pd.DataFrame([
        {"way": way.replace("__", ", "), "page": f"p{i}", "kl_mean": value, "page_s": value, "reference": "ok",
         "status": "ok" if value == value else "invalid", "reason": "" if value == value else "NaN in logits"}
        for way, values in ways.items() for i, value in enumerate(values)
    ])  # fmt: skip


def test_ratios_are_paired() -> None:
    base = [1.0, 2.0, 4.0, 8.0, 1.0, 2.0]
    rows = lines(a=[2 * value for value in base], b=base, c=[2.0, 1.0, 8.0, 4.0, 2.0, 1.0])
    assert ratio_words(rows, "kl_mean", "a", "b") == "2 times b's (2 to 2 over 6 pairs)"
    assert "no difference seen" in ratio_words(rows, "kl_mean", "c", "b")
    assert ratio_words(rows, "kl_mean", "a", "z") == "not compared with z"
    few = lines(a=[2.0, 4.0], b=[1.0, 2.0])
    assert ratio_words(few, "kl_mean", "a", "b") == "2 times b's (2 pairs, too few for an interval)"
    thrice = pd.concat([few.assign(repeat=i) for i in range(3)])
    assert ratio_words(thrice, "kl_mean", "a", "b") == "2 times b's (2 to 2 over 6 pairs)"
    found = ratio(rows, "kl_mean", "a", "b")
    assert found is not None and found == (pytest.approx(2), pytest.approx(2), pytest.approx(2), 6)
    assert ratio(few, "kl_mean", "a", "b") == (2, None, None, 2) and ratio(rows, "kl_mean", "a", "z") is None
    assert ratio_words(lines(a=[0.0], b=[0.0]), "kl_mean", "a", "b") == "the same as b's"


def test_failures_are_the_ways_own() -> None:
    broken = lines(a=[1.0, math.nan])
    assert failures(broken, "a") == (1, 2, "NaN in logits")
    assert failures(broken.assign(reference=["ok", "error"]), "a") == (0, 1, ""), "a bad page is not the way's fault"


def test_one_worker_serves_several_measurements(pages: list[Page]) -> None:
    with Worker() as worker:
        measure_fidelity([SDPA], pages[:1], worker=worker)
        count_kernels([SDPA], pages[0], new_tokens=2, worker=worker)
        assert worker.starts == 1 and worker.pid is not None
