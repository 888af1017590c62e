"""Which builds of torch carry code for which card, and what this machine measures at most."""

from __future__ import annotations

import pytest

from ocrlab.machine.hardware import coverage, measure_ceilings, runs_on

# Lists as torch.cuda.get_arch_list() printed them in public issues and release notes.
CU118 = ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_37", "sm_90"]
CU126 = ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"]
CU128 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]
CU130 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_110", "sm_120", "compute_120"]
HOPPER_ONLY = ["sm_80", "sm_90a"]

CARDS = {
    "V100": (7, 0),
    "T4": (7, 5),
    "A100": (8, 0),
    "RTX 3090": (8, 6),
    "Orin": (8, 7),
    "RTX 4090": (8, 9),
    "H200": (9, 0),
    "B200": (10, 0),
    "B300": (10, 3),
    "Thor": (11, 0),
    "RTX 5070 Ti": (12, 0),
    "DGX Spark": (12, 1),
}

EXPECTED = {
    "CU118": (CU118, "native native native native native native native no no no no no"),
    "CU126": (CU126, "native native native native native native native no no no no no"),
    "CU128": (CU128, "no native native native native native native native native no native native"),
    "CU130": (CU130, "no native native native native native native native native native native native"),
}


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_real_lists_on_every_capability(name: str) -> None:
    build, expected = EXPECTED[name]
    assert [coverage(build, card).how for card in CARDS.values()] == expected.split()


def test_no_kernel_image_says_what_the_build_has_and_what_to_install() -> None:
    result = coverage(["sm_80", "sm_90"], (12, 0))
    assert result.how == "no"
    assert result.reason.startswith("no kernel image: this build has sm_80, sm_90; your card is 12.0; install")
    assert "CUDA 12.6" in coverage(CU130, (7, 0)).reason


def test_machine_code_runs_on_the_same_major_upwards_only() -> None:
    assert [runs_on("sm_86", card) for card in ((8, 0), (8, 6), (8, 9), (9, 0))] == [False, True, True, False]


def test_ptx_runs_on_anything_newer() -> None:
    assert coverage(["sm_80", "compute_80"], (12, 0)).how == "ptx"
    assert "compute_80" in coverage(["sm_80", "compute_80"], (12, 0)).reason
    assert coverage(["compute_90"], (8, 6)).how == "no"


def test_suffix_a_binds_to_one_capability() -> None:
    assert coverage(HOPPER_ONLY, (9, 0)).how == "native"
    assert coverage(["sm_100a"], (10, 3)).how == "no"
    assert coverage(["compute_90a"], (12, 0)).how == "no"
    assert coverage(["sm_120a"], (12, 1)).how == "no"


def test_suffix_f_runs_in_its_family() -> None:
    assert coverage(["sm_120f"], (12, 1)).how == "native"
    assert coverage(["sm_100f"], (10, 3)).how == "native"
    assert coverage(["sm_103f"], (10, 0)).how == "no"
    assert coverage(["compute_100f"], (12, 0)).how == "no"


def test_cpu_build_and_nonsense() -> None:
    assert "CPU build" in coverage([], (12, 0)).reason
    with pytest.raises(ValueError, match="sm_90, sm_120f"):
        coverage(["sm_x"], (12, 0))


def test_ceilings_have_units_spread_and_order() -> None:
    found = measure_ceilings("cpu", ("float32", "bfloat16"), repeats=3)
    assert [(one["ceiling"], one["dtype"]) for one in found] == [
        ("copy", "float32"),
        ("gemv", "float32"),
        ("gemv", "bfloat16"),
        ("matmul", "float32"),
        ("matmul", "bfloat16"),
    ]
    for one in found:
        assert 0 < one["low_quartile"] <= one["median"] <= one["high_quartile"] and not one["reason"]
    assert [one["unit"] for one in found] == ["GB/s"] * 3 + ["TFLOP/s"] * 2


def test_what_a_device_cannot_do_has_a_reason() -> None:
    (copy, gemv, matmul) = measure_ceilings("cpu", ("float8_e4m3fn",), repeats=1)
    assert "median" in copy
    assert "median" not in gemv and "float8" in gemv["reason"]
    assert "median" in matmul or matmul["reason"]
