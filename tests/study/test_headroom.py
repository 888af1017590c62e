"""Headroom names the layer that would overflow first, measures eager's scores, and leaves nothing behind."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from ocrlab.experiments.dtype import FLOAT16_END, first_to_overflow, measure_headroom
from ocrlab.machine.worker import Worker
from ocrlab.pages import Page, load_pages
from ocrlab.reading.settings import Settings
from tests.study import faults

LAYERS = [f"model.visual.blocks.{i}.attn" for i in range(4)] + [
    f"model.language_model.layers.{i}.self_attn" for i in range(3)
]


@pytest.fixture(scope="module")
def page() -> Page:
    return load_pages("lines")[0]


@pytest.fixture(scope="module")
def healthy(page: Page) -> pd.DataFrame:
    return measure_headroom(faults.EAGER, page)


def test_every_attention_and_module_is_measured(healthy: pd.DataFrame) -> None:
    scores = healthy[healthy["value"] == "scores"]
    assert scores["module"].tolist() == LAYERS, "in the order of their use"
    assert scores["part"].tolist() == ["vision"] * 4 + ["text"] * 3
    known = healthy.dropna(subset=["bits"])
    assert (known["largest"] * 2 ** known["bits"] - FLOAT16_END).abs().max() < 1e-6 * FLOAT16_END
    assert {"model.visual.blocks.0", "model.language_model.layers.2", "lm_head"} <= set(healthy["module"])
    assert set(healthy["value"]) == {"output", "input", "scores"} and (known["bits"] > 0).all()


def test_swollen_queries_show_in_the_scores_of_their_layer(healthy: pd.DataFrame, page: Page) -> None:
    table = measure_headroom(faults.EAGER, page, prepare=faults.swell_queries)
    layer = "model.language_model.layers.1.self_attn"
    worst = first_to_overflow(table)
    assert (worst["module"], worst["value"]) == (layer, "scores") and worst["bits"] < 0
    before, after = (t[(t["module"] == layer) & (t["value"] == "scores")]["largest"].iloc[0] for t in (healthy, table))
    # The first token is the same question for both; those after it may differ, which moves the maximum a little.
    assert math.log2(after / before) == pytest.approx(10, abs=0.5)


def test_a_swollen_mlp_is_named(page: Page) -> None:
    worst = first_to_overflow(measure_headroom(faults.EAGER, page, prepare=faults.swell_mlp))
    assert (worst["module"], worst["value"]) == ("model.visual.blocks.2.mlp.fc2", "output") and worst["bits"] < 0
    assert first_to_overflow(pd.DataFrame({"bits": [None], "value": ["output"]})) is None


def test_eager_is_itself_again_afterwards(page: Page) -> None:
    with Worker() as worker:
        first = measure_headroom(faults.EAGER, page, worker=worker)
        assert worker.call(eager_is_registered).value is False
        second = measure_headroom(faults.EAGER, page, worker=worker)
    assert first["largest"].tolist() == second["largest"].tolist()


def eager_is_registered() -> bool:
    from transformers import AttentionInterface

    return "eager" in AttentionInterface._global_mapping


def test_what_cannot_run_is_one_line_with_a_reason() -> None:
    page = load_pages("lines")[0]
    (line,) = measure_headroom(Settings(device="cuda:7"), page).to_dict("records")
    assert line["status"] == "unsupported" and "cuda:7" in line["reason"] and line["bits"] is None
    (line,) = measure_headroom(faults.EAGER, page, prepare=faults.die).to_dict("records")
    assert line["status"] == "crashed" and "SIGABRT" in line["reason"]
