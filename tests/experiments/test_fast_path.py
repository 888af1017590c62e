"""The fast path: a step changes one thing, gains are hand-worked, texts compared, a decode step is taken apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from ocrlab.machine.worker import Worker
from ocrlab.pages import load_pages
from ocrlab.reading.reader import open_reader
from ocrlab.reading.settings import Settings, load_preset
from ocrlab.study.experiment import readings_of, run_experiment
from tests.experiments.cells import Cells, names_of

BASE = Settings(dtype="float32")
NOTEBOOK = Cells("fast-path").run("PARTS = ", "STEPS = ")
STEPS, steps_between = NOTEBOOK["STEPS"], NOTEBOOK["steps_between"]
gains, same_texts = NOTEBOOK["gains"], NOTEBOOK["same_texts"]
PARTS, Tally, watched, measure_step = (NOTEBOOK[name] for name in ("PARTS", "Tally", "watched", "measure_step"))


def test_from_the_field_report_to_fast_one_change_at_a_time() -> None:
    start, goal = (load_preset(name, model_id="tiny") for name in ("field-report", "fast"))
    steps = steps_between(start, goal)
    assert [label for label, _ in steps] == [
        "start",
        "generation settings",
        "attn_implementation=sdpa",
        "batch_size=8",
        "cache_implementation=static",
        "compile=True",
    ]
    last = steps[-1][1]
    assert all(getattr(last, name) == getattr(goal, name) for group in STEPS.values() for name in group)
    assert steps_between(start, start) == [("start", start)]


def test_gains_by_hand() -> None:
    start = Settings()
    steps = [
        ("start", start),
        ("batch", replace(start, batch_size=4)),
        ("eager", replace(start, device="cpu", batch_size=4, attn_implementation="eager")),
    ]
    runs = [settings.as_dict() for _, settings in [*steps, *steps[:2]]]
    rows = pd.DataFrame(runs).assign(tpot_s=0.1, vision_s=0.1, peak_memory_bytes=1)
    rows["page_s"] = [2.0, 0.5, None, 4.0, 0.5]
    rows["status"] = ["ok", "ok", "oom", "ok", "ok"]
    rows["reason"] = ["", "", "too large", "", ""]
    table = gains(rows, steps).set_index("step")
    assert table.loc["start", "page_s"] == 3.0 and table.loc["start", "times"] == 1
    assert table.loc["batch", "times"] == pytest.approx(6) and table.loc["batch", "step_times"] == pytest.approx(6)
    assert table.loc["eager", ["status", "reason"]].tolist() == ["oom", "too large"]
    figure = Cells("fast-path", table=table.reset_index()).run("times = table.reindex").shown
    words = [text.get_text() for text in figure.axes[0].texts]
    assert "6.00 ×" in words and "oom: too large" in words


def test_a_step_that_reads_something_else_is_seen(tmp_path: Path) -> None:
    start = Settings(dtype="float32", max_new_tokens=24)
    runs = [start, replace(start, batch_size=4), replace(start, repetition_penalty=3.0)]
    run_experiment("texts", runs, load_pages("lines", limit=4), folder=tmp_path)
    table = same_texts(readings_of("texts", tmp_path), ["start", "batch", "penalty"], runs).set_index("step")
    assert table.loc["start", "same"] == table.loc["batch", "same"] == 4
    assert table.loc["penalty", "same"] < 4 and (table["pages"] == 4).all()


def test_operators_of_every_part_are_counted() -> None:
    page = load_pages("lines", limit=1)[0]
    with Worker() as worker:
        eager, sdpa, refused = (
            measure_step(s, page, worker, new_tokens=6)
            for s in (
                replace(BASE, attn_implementation="eager"),
                BASE,
                replace(BASE, dtype="bfloat16", attn_implementation="flash_attention_2"),
            )
        )
    counts = sdpa.set_index("part")["operators"]
    assert list(counts.index) == list(PARTS) and counts["output head"] == 1, "one product for a tied head"
    more = eager.set_index("part")["operators"]
    assert more["layers"] > counts["layers"] > 50, "eager's scores, softmax and products are operators of their own"
    assert sdpa["share"].sum() == pytest.approx(1) and (sdpa["host_s"] >= 0).all()
    assert refused["status"].tolist() == ["unsupported"] and "flash_attn" in refused["reason"].iloc[0]


def test_a_compiled_step_has_no_parts() -> None:
    with pytest.raises(ValueError, match="compile=False"):
        measure_step(replace(BASE, cache_implementation="static", compile=True), load_pages("lines", limit=1)[0], None)


def test_the_model_is_as_before() -> None:
    with open_reader(BASE) as reader:
        before = reader.model.model.language_model.layers[0].forward
        with watched(reader.model, Tally()):
            assert reader.model.model.language_model.layers[0].forward is not before
        assert "forward" not in vars(reader.model.model.language_model.layers[0])
        assert reader.model.model.language_model.layers[0].forward == before


def test_time_goes_to_the_innermost_part() -> None:
    tally = Tally()
    with tally.inside("rest of the model"):
        with tally.inside("layers"):
            assert tally.stack[-1] == "layers"
        assert tally.stack[-1] == "rest of the model"
    assert tally.stack[-1] == "rest of generate" and set(tally.seconds) == {
        "rest of generate",
        "rest of the model",
        "layers",
    }


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_fast_preset_compiles_once_and_reads_the_same_on_a_card() -> None:
    from torch._dynamo.utils import counters

    pages = load_pages("lines", limit=16)
    with open_reader(load_preset("fast", model_id="tiny", max_new_tokens=64, compile=False)) as reader:
        plain = [reading.text for reading in reader.read(pages)]
        reader.apply(replace(reader.settings, compile=True))
        counters.clear()
        compiled = [reading.text for reading in reader.read(pages)]
        assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]
    assert sum(a == b for a, b in zip(plain, compiled, strict=True)) >= 15


def test_rows_of_a_batch_that_had_ended_are_counted() -> None:
    same = {"batch_size": 2, "batch_pages": 2, "status": "ok"}
    rows = pd.DataFrame([
        {**same, "generate_s": 1.0, "tokens": 10}, {**same, "generate_s": 1.0, "tokens": 30},
        {**same, "generate_s": 2.0, "tokens": 20}, {**same, "generate_s": 2.0, "tokens": 20},
        {**same, "batch_pages": 1, "generate_s": 3.0, "tokens": 99},
    ])  # fmt: skip
    ended_share = names_of("fast-path")["ended_share"]
    assert ended_share(rows) == pytest.approx(20 / 100) and ended_share(rows[4:]) is None
