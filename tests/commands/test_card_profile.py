"""`make reproduce MODEL=Qwen/Qwen2-VL-2B-Instruct` as on a card: a checkpoint of its layout, out of the Hub's cache."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import huggingface_hub.constants
import nbformat
import pandas as pd
import pytest

from ocrlab.commands import plan, reproduce as command
from ocrlab.commands.for_model import check_model
from ocrlab.reading.limits import shapes_of
from ocrlab.reading.settings import Settings, load_prompts
from ocrlab.study.provenance import read_record
from ocrlab.study.records import load_rows
from tests.qwen_checkpoint import COMMIT, GENERATION, MODEL_ID, write_hub_cache

CELL = 28 * 28
NOTEBOOKS = ("00-quickstart", "04-pixels", "05-generation", "prompts", "08-recommendation")
# What the model's values are cut down to: seconds of a CPU.
CUT = "pages=1 max_new_tokens=12 seeds=[0] batch_size=2 prompts=[plain,system]"


# A whole run is made once, for all tests of this file.
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Hub cache of this module's own, for this process and for the kernels; yields the snapshot's folder."""
    cache = tmp_path_factory.mktemp("hub")
    folder = write_hub_cache(cache)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_CACHE", str(cache))
        patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        yield folder


@pytest.fixture(scope="module")
def run(cached: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the card's profile; only what says that there is a card is not true."""
    results = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "gpu_missing", lambda: "")
        patch.setattr(command, "check_model", lambda model_id: replace(check_model(model_id), on_cpu=False))
        command.reproduce(None, MODEL_ID, ",".join(NOTEBOOKS), "card", CUT, minutes=30, results=results)
    return results / "card"


@pytest.fixture(scope="module")
def rows(run: Path) -> pd.DataFrame:
    return load_rows(run)


def test_every_notebook_ends_well_and_shows_no_error(run: Path) -> None:
    record = read_record(run)
    assert record["profile"] == "gpu"
    ended = {name: (entry["status"], entry["cell"], entry["reason"]) for name, entry in record["notebooks"].items()}
    assert ended == dict.fromkeys(NOTEBOOKS, ("ok", "", ""))
    for name in NOTEBOOKS:
        cells = nbformat.read(run / "notebooks" / f"{name}.ipynb", as_version=4).cells
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        assert not [out for out in outputs if out.output_type == "error" or out.get("name") == "stderr"], name


def test_budgets_in_image_tokens_arrived_in_pixels_against_the_old_spelling(rows: pd.DataFrame, cached: Path) -> None:
    own = json.loads((cached / "preprocessor_config.json").read_text(encoding="utf-8"))
    assert (own["min_pixels"], own["max_pixels"]) == (4 * CELL, 16384 * CELL), "what nobody asked for"
    pixels = rows[rows["experiment"] == "04-pixels"]
    assert list(pixels["actual_max_pixels"]) == [tokens * CELL for tokens in (256, 640, 1280, 2560)]
    assert (rows["actual_max_pixels"] == rows["max_pixels"]).all() and (rows["actual_min_pixels"] == 4 * CELL).all()
    assert (pixels["image_tokens"] * CELL <= pixels["actual_max_pixels"]).all()
    assert pixels["image_tokens"].is_monotonic_increasing and pixels["image_tokens"].iloc[0] > 200


def test_rows_hold_the_models_own_values(rows: pd.DataFrame) -> None:
    known = load_prompts()
    assert set(rows["model_id"]) == {MODEL_ID} and set(rows["actual_revision"]) == {COMMIT}
    dtype = check_model(MODEL_ID).dtype.value
    assert set(rows["dtype"]) == set(rows["actual_dtype"]) == {dtype}
    assert set(rows["max_new_tokens"]) == set(rows["actual_max_new_tokens"]) == {12}
    asked = rows.groupby("experiment")["prompt"].agg(set)
    assert asked.pop("prompts") == {known["plain"].prompt, known["system"].prompt}
    assert all(prompts == {known["plain"].prompt} for prompts in asked)


def test_sampling_of_the_checkpoint_is_read_back_and_does_not_reach_a_greedy_reading(rows: pd.DataFrame) -> None:
    left = rows["do_sample"].isna()  # the setting of 05-generation that leaves all to the checkpoint
    greedy, own = rows[~left], rows[left]
    assert len(greedy) and not greedy["actual_do_sample"].any() and greedy["actual_temperature"].isna().all()
    assert len(own) == 1
    for name in ("do_sample", "temperature", "top_p", "top_k", "repetition_penalty"):
        assert own[f"actual_{name}"].item() == GENERATION[name], name


def test_shapes_are_read_from_a_flat_config(cached: Path) -> None:
    shapes = shapes_of(Settings(model_id=MODEL_ID))
    assert (shapes.cell_pixels, shapes.text.layers, shapes.text.width, shapes.vocabulary) == (CELL, 2, 64, 151936)
