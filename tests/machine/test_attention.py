from __future__ import annotations

import os

import pytest
import torch

from ocrlab.machine.attention import CASES, DTYPES, Probe, all_probes, run_probes

PLANTS = "tests.machine.plants."


@pytest.fixture(scope="module")
def results() -> dict[tuple, dict]:
    """Every probe of this CPU, once."""
    probes = all_probes("cpu")
    keys = [(probe.attention, probe.kernel, probe.dtype, probe.case) for probe in probes]
    return dict(zip(keys, run_probes(probes), strict=True))


def test_every_probe_has_a_verdict_and_a_reason_unless_it_works(results: dict) -> None:
    assert len(results) == len(all_probes("cpu")) == (7 + 4) * len(DTYPES) * len(CASES)
    for key, result in results.items():
        assert result["verdict"] == "works" or len(result["reason"]) > 20, key


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_cpu_kernels_agree_with_float64(results: dict, dtype: str, case: str) -> None:
    for attention, kernel in (("eager", None), ("sdpa", None), ("sdpa", "math"), ("flex_attention", None)):
        result = results[attention, kernel, dtype, case]
        assert result["verdict"] == "works", (attention, kernel, result)
        assert 0 < result["error"] <= result["bound"]


def test_the_profiler_tells_which_kernel_ran(results: dict) -> None:
    assert results["sdpa", "math", "float32", "vision"]["took"] == "math"
    assert results["sdpa", "flash", "float32", "vision"]["took"] == "flash"
    assert results["sdpa", None, "bfloat16", "prefill"]["took"] == "flash"
    assert results["eager", None, "float32", "vision"]["took"] == ""


def test_what_a_cpu_does_not_have_is_grey_with_a_reason(results: dict) -> None:
    assert results["sdpa", "cudnn", "float32", "vision"]["verdict"] == "unsupported"
    assert results["sdpa", "efficient", "float32", "vision"]["verdict"] == "unsupported"
    missing = results["flash_attention_3", None, "bfloat16", "vision"]
    assert missing["verdict"] == "not installed" and "use sdpa" in missing["reason"]


def test_planted_faults_are_caught_and_the_next_probe_is_healthy() -> None:
    names = ("corrupt", "nan", "slow", "deadly", "sloppy")
    probes = [Probe(PLANTS + name, None, "float32", "decode") for name in names]
    probes.append(Probe("sdpa", None, "float32", "decode"))
    found = list(run_probes(probes, timeout_s=20))
    assert [r["verdict"] for r in found] == ["wrong", "wrong", "timed out", "crashed", "wrong", "works"]
    assert "not finite" in found[1]["reason"] and ("SIGABRT" if os.name == "posix" else "abort()") in found[3]["reason"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_has_at_least_eager_and_sdpa() -> None:
    probes = [p for p in all_probes("cuda", ["bfloat16"]) if p.attention in {"eager", "sdpa"} and p.kernel is None]
    assert {r["verdict"] for r in run_probes(probes)} == {"works"}
