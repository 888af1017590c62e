"""Tables and figures about the machine, from planted findings of every verdict."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from ocrlab.experiments import machine
from ocrlab.machine.describe import describe_stack
from ocrlab.study.records import keep_findings

VERDICTS = ("works", "wrong", "unsupported", "not installed", "crashed", "timed out")


def test_coverage_table_has_the_rules_and_the_installed_build() -> None:
    table = machine.coverage_table(["sm_90", "compute_120"])
    assert table.loc["RTX 50 (12.0)", "CUDA 12.6"] == "no" and table.loc["RTX 50 (12.0)", "CUDA 13.0"] == "yes"
    assert (
        table.loc["V100 (7.0)", "CUDA 13.0"] == "no" and table.loc["RTX 50 (12.0)", "installed here"] == "through PTX"
    )
    assert "installed here" not in machine.coverage_table([])


def test_stack_table_says_none_where_nothing_is() -> None:
    table = machine.stack_table(describe_stack() | {"torch_cuda": None, "arch_list": []})
    assert table.loc["torch_cuda", "here"] == "none" and table.loc["arch_list", "here"] == "none"
    assert not table["here"].isin(["None", "nan", "NaN", "{}"]).any()


def test_probe_matrix_draws_every_verdict() -> None:
    lines = [
        {"attention": f"way {verdict}", "kernel": None, "dtype": dtype, "case": "decode", "verdict": verdict,
         "reason": f"RuntimeError: why it is {verdict}. And more; remedy"}
        for verdict in VERDICTS for dtype in ("float32", "bfloat16")
    ]  # fmt: skip
    figure = machine.probe_matrix(pd.DataFrame(lines))
    texts = {text.get_text() for text in figure.axes[0].texts}
    assert "unsupported: why it is unsupported" in texts and "✗ crashed" in texts and "✓" in texts
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == [
        v for v in machine.VERDICTS if v in VERDICTS
    ]


def test_overflow_plot_has_a_panel_a_way() -> None:
    lines = [
        {"way": way, "dtype": dtype, "scale": s, "largest_score": 44.0 * s, "not_finite": float(s > 60)}
        for way in ("eager", "sdpa, math") for dtype in ("float32", "float16") for s in (1, 64)
    ]  # fmt: skip
    figure = machine.overflow_plot(pd.DataFrame(lines))
    assert [axes.get_title() for axes in figure.axes] == ["eager", "sdpa, math"]
    assert len(figure.axes[0].get_lines()) == 3  # two dtypes and the end of float16


def test_canary_table_tells_the_reason_beside_the_verdict() -> None:
    base = {"dtype": "float32", "attn_implementation": "sdpa", "doubled": 0, "run": 1, "tokens": 9}
    found = pd.DataFrame([
        base | {"sdpa_kernel": None, "verdict": "same text", "reason": "", "parted_at": None, "error": 1e-6,
                "bound": 1e-4},
        base | {"sdpa_kernel": "cudnn", "verdict": "faulty", "reason": "its logits hold NaN or inf", "parted_at": 3.0,
                "error": None, "bound": 1e-4},
    ])  # fmt: skip
    table = machine.canary_table(found)
    assert table.loc[("float32", "sdpa, cudnn"), "verdict"] == "faulty: its logits hold NaN or inf"
    assert table["parts at token"].tolist() == ["", "3"] and table["logit error (bound)"].tolist() == [
        "1e-06 (0.0001)",
        "",
    ]


def test_findings_are_kept_with_machine_and_versions_and_replaced(tmp_path: Path) -> None:
    keep_findings("probes", [{"a": 1}, {"a": 2}], tmp_path)
    table = keep_findings("probes", [{"a": float("nan"), "b": "x"}], tmp_path)
    assert len(table) == 1 and {"machine", "torch", "transformers"} <= set(table.columns)
    (line,) = (tmp_path / "findings" / "probes.jsonl").read_text(encoding="utf-8").splitlines()
    assert '"a": null' in line
    with pytest.raises(TypeError):
        keep_findings("probes", [{"a": object()}], tmp_path)
    assert len((tmp_path / "findings" / "probes.jsonl").read_text(encoding="utf-8").splitlines()) == 1
