"""A server's model wherever a model can be chosen: it works, or it is refused with words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ocrlab.commands.parameters import CommandError
from ocrlab.commands.plan import load_experiments, plan_tasks, resolve_model
from ocrlab.experiments.recommend import judge_runs
from ocrlab.playground.capabilities import Capabilities, forecast
from ocrlab.reading.settings import SettingError, Settings
from ocrlab.report.share import anonymiser
from tests.experiments.cells import names_of

MODEL = "endpoint:http://127.0.0.1:9/v1#m"
REMOTE = Settings(model_id=MODEL)


def test_the_playground_says_what_a_server_is_not_asked() -> None:
    known = Capabilities(failed={("sdpa", None, "float32", "cpu"): "a probe of this machine's kernels failed"})
    found = forecast(REMOTE, (300, 60), known, {"dtype": ("auto", "bfloat16")}, [])
    assert not found.against and "a server holds this model" in found.html
    assert not found.reasons["dtype"]["auto"] and "when it is started" in found.reasons["dtype"]["bfloat16"]
    kernels = {"sdpa_kernel": (None, "math")}
    refused = forecast(replace(REMOTE, attn_implementation="eager"), (300, 60), known, kernels, [])
    assert not refused.reasons["sdpa_kernel"][None] and refused.reasons["sdpa_kernel"]["math"]
    assert "leave attn_implementation at 'sdpa'" in refused.against
    known.refuse(REMOTE, "it does not have this model")
    assert known.reason(REMOTE) == "it does not have this model"


def test_notebooks_that_look_inside_a_model_are_passed_over_for_a_server_s() -> None:
    assert resolve_model(MODEL) == (MODEL, False)
    with pytest.raises(SettingError, match="OPENAI_API_KEY"):
        resolve_model("endpoint:http://me:secret@127.0.0.1/v1#m")
    tasks = {task.experiment.name: task for task in plan_tasks(load_experiments(), "smoke", MODEL, None, {})}
    assert not tasks["04-pixels"].skipped and tasks["04-pixels"].parameters["model_id"] == MODEL
    assert "looks inside" in tasks["02-attention"].skipped and "looks inside" in tasks["10-engines"].skipped
    with pytest.raises(CommandError, match="looks inside"):
        plan_tasks(load_experiments(), "smoke", MODEL, "07-limits", {})
    assert not any(task.skipped for task in plan_tasks(load_experiments(), "smoke", None, "07-limits", {}))


def test_what_is_shared_names_no_server() -> None:
    anonymise = anonymiser("", (), Path("/nowhere"))
    words = "endpoint:https://gpu7.corp:8000/v1#m at https://gpu7.corp:8000/v1: lost; see https://github.com/a/v1/b"
    assert anonymise(words) == "endpoint:https://HOST/v1#m at https://HOST/v1: lost; see https://github.com/a/v1/b"
    assert Settings(model_id=anonymise("endpoint:http://gpu7/api#m")).model_id == "endpoint:http://HOST/api#m"
    assert anonymise(MODEL) == MODEL


def _rows(settings: Settings, page_s: float) -> list[dict[str, Any]]:
    made = {
        "status": "ok",
        "reason": "",
        "machine": "M",
        "experiment": "e",
        "repeat": 0,
        "cer_length": 100,
        "page_s": page_s,
        "image_tokens": 10,
        "peak_memory_bytes": None,
    }
    return [settings.as_dict() | made | {"page": f"p{n}", "cer_edits": n} for n in range(20)]


def test_a_server_is_not_recommended_beside_readings_here() -> None:
    here, remote = _rows(Settings(dtype="float32"), 1.0), _rows(REMOTE, 0.1)
    assert set(judge_runs(pd.DataFrame(here + remote), 0.005)["model_id"]) == {"tiny"}
    alone = judge_runs(pd.DataFrame(remote + _rows(replace(REMOTE, max_pixels=5000), 0.05)), 0.005)
    assert set(alone["model_id"]) == {MODEL}
    cells = names_of("04-pixels")
    shown = (
        cells["cost_against_tokens"](pd.DataFrame(remote), "vision_s", "model_id"),
        cells["memory_against_tokens"](pd.DataFrame(remote), "model_id"),
    )
    assert all("not measured" in figure.axes[0].texts[0].get_text() for figure in shown)
