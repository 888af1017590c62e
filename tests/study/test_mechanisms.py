"""The mechanisms behind the assertion, on this machine, and the verdicts on claims from tables of both kinds."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from ocrlab.reading.reader import open_reader
from ocrlab.reading.settings import Settings
from ocrlab.study import mechanisms
from ocrlab.study.hearsay import verdicts_on_kernels, verdicts_on_the_assert
from ocrlab.study.recovery import recovery_table


@pytest.fixture(scope="module")
def sampling() -> pd.DataFrame:
    return mechanisms.sampling_table("cpu")


@pytest.fixture(scope="module")
def overflow() -> pd.DataFrame:
    return mechanisms.overflow_table("cpu", [1, 64], ["float32", "bfloat16", "float16"])


@pytest.fixture(scope="module")
def recovery() -> pd.DataFrame:
    return recovery_table("cpu")


def test_sampling_from_broken_logits_raises_and_greedy_hides_it(sampling: pd.DataFrame) -> None:
    lines = sampling.set_index("logits")
    assert lines.loc["healthy", "greedy"] == "token 2" and lines.loc["healthy", "sampling"].startswith("token")
    for kind in ("one NaN", "all NaN", "+inf", "all -inf"):
        assert (
            "probability tensor" in lines.loc[kind, "sampling"] or "sum of probabilities" in lines.loc[kind, "sampling"]
        )
        assert lines.loc[kind, "greedy"].startswith("token")
        assert lines.loc[kind, "remove_invalid_values"].startswith("token")
    assert lines.loc["all NaN", "greedy"] == "token 0"


def test_only_float16_eager_overflows(overflow: pd.DataFrame) -> None:
    bad = overflow[overflow["not_finite"] > 0]
    assert {(d, w) for d, w in zip(bad["dtype"], bad["way"], strict=True)} == {("float16", "eager")}
    assert (bad["largest_score"] > 65504).all()
    assert {"sdpa, math", "sdpa, flash"} <= set(overflow["way"])


def test_fully_masked_rows() -> None:
    table = mechanisms.masked_rows_table("cpu").set_index(["dtype", "mask filled with"])
    assert (table.xs("-inf", level=1) == "NaN").all(axis=None)
    low = table.xs("finfo.min", level=1)
    assert low.loc["float16"].tolist() == ["finite", "NaN"]
    assert (low.loc[["float32", "bfloat16"]] == "finite").all(axis=None)


def test_rotary_buffers_are_right_as_loaded_and_lost_by_the_meta_device() -> None:
    with open_reader(Settings(dtype="float32")) as reader:
        table = mechanisms.rotary_table(reader)
    assert table["right"].tolist() == [True, False] and table["missing weights"].tolist() == [0, 0]


def test_a_new_process_works_after_one_died(recovery: pd.DataFrame) -> None:
    assert recovery["works"].tolist() == [False, True]
    assert "SIGABRT" in recovery["outcome"][0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_no_attempt_in_the_process_recovers_cuda() -> None:
    table = recovery_table("cuda")
    same = table[table["where"] == "same process"].set_index("attempt")["works"]
    assert not same["a new tensor"] and not same["a matrix product"]
    assert table[table["where"] == "new process"]["works"].all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_sampling_from_nan_is_the_assertion_on_cuda() -> None:
    lines = mechanisms.sampling_table("cuda").set_index("logits")
    assert lines.loc["one NaN", "sampling"].startswith("assert") and lines.loc["healthy", "sampling"].startswith(
        "token"
    )


def test_verdicts_follow_the_tables(sampling: pd.DataFrame, overflow: pd.DataFrame, recovery: pd.DataFrame) -> None:
    told = verdicts_on_the_assert(sampling, overflow, recovery, "cpu")
    assert "mechanism is shown on cpu" in told["dots-ocr-assert"] and "not settled here" in told["cuda-recovery"]
    assert "float16 overflows in eager" in told["fp16-forbidden"] and "stay finite" in told["fp16-forbidden"]

    calm = sampling.assign(sampling="token 1")
    lost = pd.DataFrame(
        [("same process", "sample from NaN", False), ("same process", "a new tensor", False),
         ("same process", "a matrix product", False), ("new process", "a matrix product", True)],
        columns=["where", "attempt", "works"],
    )  # fmt: skip
    told = verdicts_on_the_assert(calm, overflow.assign(not_finite=0.0), lost, "cuda")
    assert told["dots-ocr-assert"].startswith("not explained here")
    assert told["cuda-recovery"].startswith("refuted: 0 of 2 attempts") and "new process works" in told["cuda-recovery"]
    assert told["fp16-forbidden"].startswith("no overflow")
    back = verdicts_on_the_assert(sampling, overflow, lost.assign(works=True), "cuda")
    assert back["cuda-recovery"].startswith("confirmed: 2 of 2")


def matrix(**flash: object) -> pd.DataFrame:
    lines = [
        {"attention": "eager", "kernel": None, "verdict": "works", "reason": "", "took": ""},
        {"attention": "sdpa", "kernel": None, "verdict": "works", "reason": "", "took": "flash"},
        {"attention": "flash_attention_2", "kernel": None, "took": ""} | flash,
    ]
    return pd.DataFrame(lines)


def test_verdicts_on_kernels_know_which_card_they_saw() -> None:
    cpu = {"machine": {}, "arch_list": []}
    missing = matrix(verdict="not installed", reason="No module named 'flash_attn'")
    told = verdicts_on_kernels(missing, cpu)
    assert told["fa2-incompatible"].startswith("not tested") and told["sm120-torch"].startswith("not tested")
    assert "never both at once" in told["sdpa-active"]

    card = {"machine": {"compute_capability": "12.0"}, "arch_list": ["sm_90", "sm_120"]}
    told = verdicts_on_kernels(matrix(verdict="works", reason=""), card)
    assert told["fa2-incompatible"].startswith("refuted on this card") and "3 of 3 launches work" in told["sm120-torch"]
    told = verdicts_on_kernels(missing, card)
    assert told["fa2-incompatible"].startswith("not refuted here") and "flash_attn" in told["fa2-incompatible"]
    both = matrix(verdict="works", reason="").assign(took="flash")
    assert "both at once" in verdicts_on_kernels(both, card)["sdpa-active"]
