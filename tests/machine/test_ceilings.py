from __future__ import annotations

from ocrlab.machine.ceilings import as_table, measure_ceilings


def test_ceilings_have_units_spread_and_order() -> None:
    found = measure_ceilings("cpu", ("float32", "bfloat16"), repeats=3)
    assert [(m.ceiling, m.dtype) for m in found] == [
        ("copy", "float32"), ("gemv", "float32"), ("gemv", "bfloat16"), ("matmul", "float32"), ("matmul", "bfloat16"),
    ]  # fmt: skip
    for one in found:
        assert one.spread is not None and 0 < one.spread.low_quartile <= one.spread.median <= one.spread.high_quartile
    assert as_table(found)["unit"].tolist() == ["GB/s"] * 3 + ["TFLOP/s"] * 2


def test_what_a_device_cannot_do_has_a_reason() -> None:
    (copy, gemv, matmul) = measure_ceilings("cpu", ("float8_e4m3fn",), repeats=1)
    assert copy.spread is not None
    assert gemv.spread is None and "float8" in gemv.reason
    assert matmul.spread is not None or matmul.reason
