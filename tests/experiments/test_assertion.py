"""The mechanisms behind the assertion, on this machine, and the verdicts on claims from tables of both kinds."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

from ocrlab.experiments.claims import verdicts
from ocrlab.experiments.evidence import overflow_words
from ocrlab.reading.reader import open_reader
from ocrlab.reading.settings import Settings
from ocrlab.study.records import keep_findings, load_findings
from tests.experiments.cells import Cells, names_of

CELLS = names_of("06-assert")


@pytest.fixture(scope="module")
def sampling() -> pd.DataFrame:
    return CELLS["sampling_table"]("cpu")


@pytest.fixture(scope="module")
def overflow() -> pd.DataFrame:
    return CELLS["overflow_table"]("cpu", [1, 64], ["float32", "bfloat16", "float16"])


@pytest.fixture(scope="module")
def recovery() -> pd.DataFrame:
    return CELLS["recovery_table"]("cpu")


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
    assert {(d, w) for d, w in zip(bad["dtype"], bad["variant"], strict=True)} == {("float16", "eager")}
    assert (bad["largest_score"] > 65504).all()
    assert {"sdpa, math", "sdpa, flash"} <= set(overflow["variant"])


def test_fully_masked_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCRLAB_RUN_FOLDER", str(tmp_path))
    table = Cells("06-assert", device="cpu").run("lines = []\nfor dtype in").shown
    assert (table.xs("-inf", level=1) == "NaN").all(axis=None)
    low = table.xs("finfo.min", level=1)
    assert low.loc["float16"].tolist() == ["finite", "NaN"]
    assert (low.loc[["float32", "bfloat16"]] == "finite").all(axis=None)
    assert len(load_findings("masked-rows", tmp_path)) == 6


def test_rotary_buffers_are_right_as_loaded_and_lost_by_the_meta_device() -> None:
    with open_reader(Settings(dtype="float32")) as reader:
        cells = Cells("06-assert", reader=reader).run("def built_on_meta", "def rotary_table")
    assert cells.shown["right"].tolist() == [True, False] and cells.said == "0 weights are reported missing.\n"


def test_a_new_process_works_after_one_died(recovery: pd.DataFrame) -> None:
    assert recovery["works"].tolist() == [False, True]
    assert "SIGABRT" in recovery["outcome"][0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_no_attempt_in_the_process_recovers_cuda() -> None:
    table = CELLS["recovery_table"]("cuda")
    same = table[table["where"] == "same process"].set_index("attempt")["works"]
    assert not same["a new tensor"] and not same["a matrix product"]
    assert table[table["where"] == "new process"]["works"].all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_sampling_from_nan_is_the_assertion_on_cuda() -> None:
    lines = CELLS["sampling_table"]("cuda").set_index("logits")
    assert lines.loc["one NaN", "sampling"].startswith("assert") and lines.loc["healthy", "sampling"].startswith(
        "token"
    )


def test_the_ledger_reads_the_real_tables(
    sampling: pd.DataFrame, overflow: pd.DataFrame, recovery: pd.DataFrame, tmp_path: Path
) -> None:
    keep_findings("sampling", sampling.to_dict("records"), tmp_path)
    keep_findings("recovery", recovery.to_dict("records"), tmp_path)
    cause, way_back = verdicts(tmp_path, ["dots-ocr-assert", "cuda-recovery"])
    assert cause.verdict == "refuted" and "fail in 4 of 4 cases when sampled and pass in 4 when greedy" in cause.reason
    assert way_back.verdict == "not settled here" and "SIGABRT" in way_back.reason
    assert overflow_words(overflow).startswith("float16 overflows in eager from scores of 1.8e+05 on")
    earlier = overflow.rename(columns={"variant": "way"})
    assert overflow_words(earlier) == overflow_words(overflow)
    calm = overflow_words(overflow.assign(not_finite=0.0))
    assert calm == "float16 does not overflow up to scores of 1.8e+05"
    assert "bfloat16, float32 overflow too" in overflow_words(overflow.assign(not_finite=0.5))
