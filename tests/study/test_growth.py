"""Memory growth: exponents of made-up data come back, real pages have the asked size, failures keep their lines."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from ocrlab.experiments.attention import eager_limits, fit_exponent, growth_exponents, measure_growth
from ocrlab.reading.settings import Settings
from ocrlab.study.compare import name_ways

SDPA = Settings(dtype="float32")
EAGER = replace(SDPA, attn_implementation="eager")
FLASH_2 = replace(SDPA, dtype="bfloat16", attn_implementation="flash_attention_2")


@pytest.mark.parametrize("exponent", [1.0, 1.5, 2.0])
def test_exponents_are_recovered(exponent: float) -> None:
    sizes = [256, 512, 1024]
    found = fit_exponent(sizes, [3e4 * size**exponent for size in sizes])
    assert found["exponent"] == pytest.approx(exponent) and found["factor"] == pytest.approx(3e4)
    assert found["low"] == pytest.approx(exponent) and found["high"] == pytest.approx(exponent)


def test_exponents_are_fitted_over_the_largest_sizes_and_failures_keep_their_reason() -> None:
    tokens = [64, 128, 256, 512]
    lines = [
        {"way": "eager", "image_tokens": n, "peak_memory_bytes": 1e7 if n == 64 else 8.0 * n**2, "reason": ""}
        for n in tokens
    ]
    lines += [{"way": "gone", "image_tokens": None, "peak_memory_bytes": None, "reason": "not here"}] * 2
    table = growth_exponents(pd.DataFrame(lines)).set_index("way")
    assert table.loc["eager", "exponent"] == pytest.approx(2) and table.loc["eager", "sizes"] == 3
    assert pd.isna(table.loc["gone", "exponent"]) and table.loc["gone", "reason"] == "not here"


def test_eager_limits_of_the_large_model() -> None:
    table = eager_limits([8, 32]).set_index("memory_gib")["image_tokens"]
    assert table.tolist() == [2048, 4096]  # FACTS: 4096 image tokens need 32 GiB, and half the tokens a quarter
    assert 16 * (4 * 4096) ** 2 * 8 == 32 * 2**30


def test_pages_have_the_asked_size_and_eager_needs_more() -> None:
    growth = name_ways(measure_growth([EAGER, FLASH_2, SDPA], [144, 484]))
    done = growth[growth["way"] != "flash_attention_2"]
    assert done["image_tokens"].tolist() == [144, 484] * 2 and done["patches"].tolist() == [576, 1936] * 2
    assert (done["vision_heads"] == 5).all() and (done["peak_memory_bytes"] > 0).all()
    largest = done[done["image_tokens"] == 484].set_index("way")["peak_memory_bytes"]
    scores = 5 * 1936**2 * 8
    assert scores < largest["eager"] < 2 * scores and largest["sdpa"] < scores
    missing = growth[growth["way"] == "flash_attention_2"]
    assert (missing["status"] == "unsupported").all() and "not installed" in missing["reason"].iloc[0]


def test_too_much_is_a_line_that_says_out_of_memory() -> None:
    growth = measure_growth([replace(EAGER, device="cpu")], [64, 2500], memory_limit_bytes=1_500_000_000)
    assert growth["status"].tolist() == ["ok", "oom"] and "memory" in growth["reason"].iloc[1]
