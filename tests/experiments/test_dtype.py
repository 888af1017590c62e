"""Headroom names the layer that would overflow first, measures eager's scores, and leaves nothing behind."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from ocrlab.experiments.evidence import FLOAT16_END, first_to_overflow
from ocrlab.machine.worker import Worker
from ocrlab.pages import Page, load_pages, page_size
from ocrlab.reading.settings import Settings
from tests.experiments import faults
from tests.experiments.cells import Cells, names_of

FLOAT32 = Settings(dtype="float32", max_new_tokens=40)
LAYERS = [f"model.visual.blocks.{i}.attn" for i in range(4)] + [
    f"model.language_model.layers.{i}.self_attn" for i in range(3)
]
CELLS = names_of("03-dtype")


@pytest.fixture(scope="module")
def page() -> Page:
    return load_pages("lines")[0]


@pytest.fixture(scope="module")
def healthy(page: Page) -> pd.DataFrame:
    with Worker() as worker:
        return CELLS["measure_headroom"](faults.EAGER, page, worker)


@pytest.fixture
def worker() -> Iterator[Worker]:
    with Worker() as worker:
        yield worker


def test_every_attention_and_module_is_measured(healthy: pd.DataFrame) -> None:
    scores = healthy[healthy["value"] == "scores"]
    assert scores["module"].tolist() == LAYERS, "in the order of their use"
    assert scores["part"].tolist() == ["vision"] * 4 + ["text"] * 3
    known = healthy.dropna(subset=["bits"])
    assert (known["largest"] * 2 ** known["bits"] - FLOAT16_END).abs().max() < 1e-6 * FLOAT16_END
    assert {"model.visual.blocks.0", "model.language_model.layers.2", "lm_head"} <= set(healthy["module"])
    assert set(healthy["value"]) == {"output", "input", "scores"} and (known["bits"] > 0).all()


def test_swollen_queries_show_in_the_scores_of_their_layer(healthy: pd.DataFrame, page: Page, worker: Worker) -> None:
    table = CELLS["measure_headroom"](faults.EAGER, page, worker, faults.swell_queries)
    layer = "model.language_model.layers.1.self_attn"
    worst = first_to_overflow(table)
    assert (worst["module"], worst["value"]) == (layer, "scores") and worst["bits"] < 0
    before, after = (t[(t["module"] == layer) & (t["value"] == "scores")]["largest"].iloc[0] for t in (healthy, table))
    # The first token is the same question for both; those after it may differ, which moves the maximum a little.
    assert math.log2(after / before) == pytest.approx(10, abs=0.5)


def test_a_swollen_mlp_is_named(page: Page, worker: Worker) -> None:
    worst = first_to_overflow(CELLS["measure_headroom"](faults.EAGER, page, worker, faults.swell_mlp))
    assert (worst["module"], worst["value"]) == ("model.visual.blocks.2.mlp.fc2", "output") and worst["bits"] < 0
    assert first_to_overflow(pd.DataFrame({"bits": [None], "value": ["output"]})) is None


def test_eager_is_itself_again_afterwards(page: Page, worker: Worker) -> None:
    first = CELLS["measure_headroom"](faults.EAGER, page, worker)
    assert worker.call(eager_is_registered).value is False
    second = CELLS["measure_headroom"](faults.EAGER, page, worker)
    assert first["largest"].tolist() == second["largest"].tolist()


def eager_is_registered() -> bool:
    from transformers import AttentionInterface

    return "eager" in AttentionInterface._global_mapping


def test_what_cannot_run_is_one_line_with_a_reason(page: Page, worker: Worker) -> None:
    (line,) = CELLS["measure_headroom"](Settings(device="cuda:7"), page, worker).to_dict("records")
    assert line["status"] == "unsupported" and "cuda:7" in line["reason"] and line["bits"] is None
    (line,) = CELLS["measure_headroom"](faults.EAGER, page, worker, faults.die).to_dict("records")
    assert line["status"] == "crashed" and "SIGABRT" in line["reason"]


def test_tf32_without_a_card_is_a_line_and_changes_nothing(page: Page, worker: Worker) -> None:
    table = CELLS["tf32_table"](replace(FLOAT32, device="cpu"), page, worker)
    assert table["dtype"].tolist() == ["float32", "bfloat16"] and (table["status"] == "unsupported").all()
    assert table["reason"].str.contains("NVIDIA").all()
    found = CELLS["tf32_here"](replace(FLOAT32, device="cpu"), page, 2)
    assert found["kl_mean"] == 0 and found["logit_error"] == 0
    assert 0 < found["ratio_low"] <= found["ratio"] <= found["ratio_high"]
    assert not torch.backends.cuda.matmul.allow_tf32, "put back"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_tf32_touches_float32_products_only(page: Page, worker: Worker) -> None:
    table = CELLS["tf32_table"](FLOAT32, page, worker).set_index("dtype")
    assert table.loc["float32", "logit_error"] > 0 and table.loc["bfloat16", "kl_mean"] < 1e-6


def test_headroom_is_measured_on_the_smallest_and_the_largest_page(
    worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OCRLAB_RUN_FOLDER", str(tmp_path))
    some = sorted(load_pages("lines", limit=5), key=lambda page: math.prod(page_size(page)))
    given = {"base": faults.EAGER, "some": [some[2], some[4], some[0], some[1]], "worker": worker}
    cells = Cells("03-dtype", **(CELLS | given))
    found = cells.run("def measure_headroom")["headroom"]
    assert found["page"].unique().tolist() == [some[0].id, some[4].id]
    sizes = dict(zip(found["page"], found["page_pixels"], strict=True))
    assert sizes[some[4].id] == "{} × {}".format(*page_size(some[4])), "what would overflow is named with the size"


def test_headroom_plot_and_table() -> None:
    base = {"status": "ok", "reason": "", "model_id": "tiny", "weights": "pretrained"}
    lines = [
        {"module": "model.visual.blocks.0.attn", "part": "vision", "value": "scores", "largest": 100.0, "bits": 9.4},
        {"module": "model.visual.blocks.0.mlp", "part": "vision", "value": "output", "largest": 10.0, "bits": 12.7},
        {
            "module": "model.language_model.layers.0.self_attn",
            "part": "text",
            "value": "scores",
            "largest": 2e5,
            "bits": -1.6,
        },
        {"module": "lm_head", "part": "text", "value": "output", "largest": 20.0, "bits": 11.7},
    ]
    headroom = pd.DataFrame([base | line for line in lines])
    figure = CELLS["headroom_plot"](headroom)
    (axes,) = figure.axes
    assert [t.get_text() for t in axes.get_xticklabels()] == ["vision 0", "text 0"]
    heights = [bar.get_height() for bar in axes.patches]
    assert heights[:2] == [9.4, -1.6] and axes.get_ylim()[0] < -1.6 and "bits" in axes.get_ylabel()
    assert "float16's end: 65504" in [text.get_text() for text in figure.legends[0].get_texts()]
    table = CELLS["headroom_table"](headroom.assign(page_pixels="8 × 8"), most=2)
    assert table.index.tolist() == ["model.language_model.layers.0.self_attn", "model.visual.blocks.0.attn"]
    assert table["largest"].tolist() == ["2e+05", "100"]
    empty = pd.DataFrame(
        [{"module": None, "part": None, "value": None, "largest": None, "bits": None} | {"status": "crashed"}]
    )
    assert CELLS["headroom_table"](empty.assign(page_pixels="")).empty and CELLS["headroom_plot"](empty).axes
