"""A server's model wherever a model can be chosen: it works, or it is refused with words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ocrlab.commands.plan import PlanError, load_experiments, plan_tasks, resolve_model
from ocrlab.experiments import engines as pictures
from ocrlab.experiments import engines as study
from ocrlab.experiments.engines import HERE, SERVED, Engine, engine_runs, engine_table, engines, same_texts
from ocrlab.experiments.recommend import judge_runs, pareto
from ocrlab.playground.capabilities import Capabilities, forecast
from ocrlab.reading.settings import Settings
from ocrlab.report.share import anonymiser
from ocrlab.study.plots import cost_against_tokens, memory_against_tokens

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
    with pytest.raises(PlanError, match="OPENAI_API_KEY"):
        resolve_model("endpoint:http://me:secret@127.0.0.1/v1#m")
    tasks = {task.experiment.name: task for task in plan_tasks(load_experiments(), "smoke", MODEL, None, {})}
    assert not tasks["04-pixels"].skipped and tasks["04-pixels"].parameters["model_id"] == MODEL
    assert "looks inside" in tasks["02-attention"].skipped and "looks inside" in tasks["10-engines"].skipped
    with pytest.raises(PlanError, match="looks inside"):
        plan_tasks(load_experiments(), "smoke", MODEL, "07-limits", {})
    assert not any(task.skipped for task in plan_tasks(load_experiments(), "smoke", None, "07-limits", {}))


def test_what_is_shared_names_no_server() -> None:
    anonymise = anonymiser("", (), Path("/nowhere"))
    told = "endpoint:https://gpu7.corp:8000/v1#m at https://gpu7.corp:8000/v1: lost; see https://github.com/a/v1/b"
    assert anonymise(told) == "endpoint:https://HOST/v1#m at https://HOST/v1: lost; see https://github.com/a/v1/b"
    assert Settings(model_id=anonymise("endpoint:http://gpu7/api#m")).model_id == "endpoint:http://HOST/api#m"
    assert anonymise(MODEL) == MODEL


def _rows(settings: Settings, page_s: float) -> list[dict[str, Any]]:
    made = {"status": "ok", "reason": "", "machine": "M", "experiment": "e", "repeat": 0, "cer_length": 100,
            "page_s": page_s, "image_tokens": 10, "peak_memory_bytes": None}  # fmt: skip
    return [settings.as_dict() | made | {"page": f"p{n}", "cer_edits": n} for n in range(20)]


def test_a_server_is_not_recommended_beside_readings_here() -> None:
    here, remote = _rows(Settings(dtype="float32"), 1.0), _rows(REMOTE, 0.1)
    assert set(judge_runs(pd.DataFrame(here + remote), 0.005)["model_id"]) == {"tiny"}
    alone = judge_runs(pd.DataFrame(remote + _rows(replace(REMOTE, max_pixels=5000), 0.05)), 0.005)
    assert set(alone["model_id"]) == {MODEL}
    pareto(alone).canvas.draw()  # no memory is known: the points are there all the same
    shown = (cost_against_tokens(pd.DataFrame(remote), "vision_s", "model_id"),
             memory_against_tokens(pd.DataFrame(remote), "model_id"))  # fmt: skip
    assert all("not measured" in figure.axes[0].texts[0].get_text() for figure in shown)


def _readings(settings: Settings, text: str, page_s: list[float], status: str = "ok") -> list[dict[str, Any]]:
    return [
        {"asked": settings.as_dict(), "page": f"p{page}", "repeat": repeat, "status": status, "reason": "gone",
         "text": text if page else "same", "measured": {"page_s": seconds, "ttft_s": 0.01}}
        for repeat, seconds in enumerate(page_s) for page in range(2)
    ]  # fmt: skip


def test_engines_are_held_against_this_process() -> None:
    other = replace(REMOTE, model_id="endpoint:http://127.0.0.1:8/v1#m")
    ways = [Engine(HERE, Settings()), Engine(SERVED, REMOTE), Engine("third", other), Engine("none", None, "absent")]
    assert engine_runs(ways, [1, 2])[:3] == [Settings(), Settings(batch_size=2), REMOTE]
    readings = pd.DataFrame([
        *_readings(Settings(), "a text", [0.1, 0.2]), *_readings(REMOTE, "a test", [0.3, 0.3]),
        *_readings(other, "", [0.1], "crashed"),
    ])  # fmt: skip
    table = engine_table(readings, ways, [1]).set_index("engine")
    assert table["same"].tolist()[:2] == [2, 1] and table.loc[SERVED, "parts"].startswith("p1: at letter 5")
    assert table.loc[HERE, "pages_per_s"] == pytest.approx(7.5)
    assert (table.loc[HERE, "pages_per_s_low"], table.loc[HERE, "pages_per_s_high"]) == (5, 10)
    assert table["status"].tolist() == ["ok", "ok", "crashed", "unsupported"]
    told = same_texts(table.reset_index())
    assert told[1].startswith("transformers serve, 1 at once: 1 of 2 texts the same; first other one: p1")
    assert told[2:] == ["third, 1 at once: crashed: gone", "none, 1 at once: unsupported: absent"]
    assert pictures.words(table.reset_index())[-1].startswith("Fastest: in this process with 1")
    texts = [text.get_text() for text in pictures.pages_a_second(table.reset_index()).axes[0].texts]
    assert texts == ["7.5", "3.3", "crashed: gone", "unsupported: absent"]


def test_where_no_server_starts_the_engines_are_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("ocrlab.reading.serve.NEEDED", ("no_such_module",))
    with engines(Settings(dtype="float32"), MODEL) as ways:
        assert [way.name for way in ways] == [HERE, SERVED, study.GIVEN]
        assert ways[1].settings is None and "no_such_module" in ways[1].reason and "ocrlab[serve]" in ways[1].reason
        assert ways[2].settings == REMOTE, "dtype is the given server's own"
    with engines(Settings(weights="dummy", model_id="Qwen/Qwen2-VL-2B-Instruct")) as ways:
        assert ways[1].reason.startswith("weights:")
