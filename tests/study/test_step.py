"""A decode step taken apart: counts are exact, nothing stays patched, what cannot run is a line with its reason."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ocrlab.experiments.fast_path import PARTS, _parts, _Tally, measure_step
from ocrlab.machine.worker import Worker
from ocrlab.pages import load_pages
from ocrlab.reading.reader import open_reader
from ocrlab.reading.settings import Settings

BASE = Settings(dtype="float32")


def test_operators_of_every_part_are_counted() -> None:
    page = load_pages("lines", limit=1)[0]
    with Worker() as worker:
        eager, sdpa, refused = (
            measure_step(s, page, new_tokens=6, worker=worker)
            for s in (
                replace(BASE, attn_implementation="eager"), BASE,
                replace(BASE, dtype="bfloat16", attn_implementation="flash_attention_2"),
            )
        )  # fmt: skip
    counts = sdpa.set_index("part")["operators"]
    assert list(counts.index) == list(PARTS) and counts["output head"] == 1, "one product for a tied head"
    more = eager.set_index("part")["operators"]
    assert more["layers"] > counts["layers"] > 50, "eager's scores, softmax and products are operators of their own"
    assert sdpa["share"].sum() == pytest.approx(1) and (sdpa["host_s"] >= 0).all()
    assert refused["status"].tolist() == ["unsupported"] and "flash_attn" in refused["reason"].iloc[0]


def test_a_compiled_step_has_no_parts() -> None:
    with pytest.raises(ValueError, match="compile=False"):
        measure_step(replace(BASE, cache_implementation="static", compile=True), load_pages("lines", limit=1)[0])


def test_the_model_is_as_before() -> None:
    with open_reader(BASE) as reader:
        before = reader.model.model.language_model.layers[0].forward
        with _parts(reader, _Tally()):
            assert reader.model.model.language_model.layers[0].forward is not before
        assert "forward" not in vars(reader.model.model.language_model.layers[0])
        assert reader.model.model.language_model.layers[0].forward == before


def test_time_goes_to_the_innermost_part() -> None:
    tally = _Tally()
    with tally.inside("rest of the model"):
        with tally.inside("layers"):
            assert tally.part == "layers"
        assert tally.part == "rest of the model"
    assert tally.part == "rest of generate" and set(tally.seconds) == {
        "rest of generate", "rest of the model", "layers",
    }  # fmt: skip
