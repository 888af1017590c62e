"""Distance from float32: by hand, exactly zero for the same, large for a planted fault, a line for what cannot run."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from ocrlab.experiments.attention import (
    contrast_table,
    distance,
    divergence_plot,
    fidelity_table,
    measure_fidelity,
    phases_plot,
    reference_of,
    teacher_forced_logits,
)
from ocrlab.experiments.limits import growth_exponents
from ocrlab.machine import quarantine
from ocrlab.machine.worker import Worker
from ocrlab.pages import Page, load_pages
from ocrlab.reading.reader import open_reader
from ocrlab.reading.settings import Settings
from ocrlab.study.compare import name_variants
from tests.experiments import faults
from tests.experiments.cells import names_of

CELLS = names_of("02-attention")

SDPA = Settings(dtype="float32", max_new_tokens=40)
FLASH_2 = replace(SDPA, dtype="bfloat16", attn_implementation="flash_attention_2")


pytestmark = pytest.mark.usefixtures("own_quarantine")


@pytest.fixture(scope="module")
def pages() -> list[Page]:
    return load_pages("lines", limit=2)


@pytest.fixture(scope="module")
def measured(pages: list[Page]) -> pd.DataFrame:
    runs = [reference_of(SDPA), replace(SDPA, attn_implementation="eager"), replace(SDPA, dtype="bfloat16"), FLASH_2]
    with Worker() as worker:
        return name_variants(measure_fidelity(runs, pages, worker), with_dtype=True)


@pytest.fixture
def worker() -> Iterator[Worker]:
    with Worker() as worker:
        yield worker


def test_distance_by_hand() -> None:
    reference = torch.tensor([[math.log(3), 0.0], [0.0, 1.0]])
    found = distance(torch.tensor([[0.0, 0.1], [0.0, 1.0]]), reference)
    q = 1 / (1 + math.exp(0.1))
    kl = 0.75 * math.log(0.75 / q) + 0.25 * math.log(0.25 / (1 - q))
    assert found["kl_max"] == pytest.approx(kl) and found["kl_mean"] == pytest.approx(kl / 2)
    assert found["logit_error"] == pytest.approx(math.log(3)) and found["positions"] == 2
    assert found["logit_error_sd"] == pytest.approx(math.log(3) / (math.log(3) / math.sqrt(2)))
    assert found["same_argmax"] == 0.5 and found["first_difference"] == 0
    flat = distance(torch.zeros(1, 2), torch.tensor([[math.log(3), 0.0]]))
    assert flat["kl_mean"] == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))


def test_broken_logits_have_a_status_and_no_number() -> None:
    found = distance(torch.tensor([[0.0, 1.0], [float("nan"), 0.0]]), torch.zeros(2, 2))
    assert found["status"] == "invalid" and "1 of 2 positions" in found["reason"] and "kl_mean" not in found


def test_the_reference_against_itself_is_exactly_zero(measured: pd.DataFrame) -> None:
    same = measured[measured["variant"] == "float32, sdpa, math"]
    assert len(same) == 2 and (same["status"] == "ok").all()
    assert (same[["kl_mean", "kl_max", "logit_error", "logit_error_sd"]] == 0).all(axis=None)
    assert (same["same_argmax"] == 1).all() and same["first_difference"].isna().all()
    assert (same["positions"] > 3).all() and (same["image_tokens"] > 0).all()


def test_rounding_shows_in_its_order_and_what_cannot_run_keeps_its_line(measured: pd.DataFrame) -> None:
    by_variant = measured.groupby("variant")["kl_mean"].max()
    assert 0 < by_variant["float32, eager"] < 1e-8 < by_variant["bfloat16, sdpa"] < 0.1
    sizes = measured.groupby("variant")["weight_bytes"].max()
    assert sizes["float32, eager"] == 2 * sizes["bfloat16, sdpa"]
    missing = measured[measured["variant"] == "bfloat16, flash_attention_2"]
    assert (missing["status"] == "unsupported").all() and "not installed" in missing["reason"].iloc[0]
    assert missing["kl_mean"].isna().all() and len(missing) == 2


def test_teacher_forced_logits_are_those_of_the_generation(pages: list[Page]) -> None:
    with open_reader(SDPA) as reader:
        tokens = reader.generate(pages[0])
        logits, image_tokens = teacher_forced_logits(reader, pages[0], tokens)
        assert logits.argmax(-1).tolist() == tokens, "greedy decoding takes the highest at every step"
        assert image_tokens == reader.read(pages[0]).image_tokens


def test_an_answer_may_hold_the_image_token(pages: list[Page]) -> None:
    with open_reader(SDPA) as reader:
        image = reader.model.config.image_token_id
        logits, _ = teacher_forced_logits(reader, pages[0], [image, 5, image])
    assert logits.shape[0] == 3 and bool(logits.isfinite().all())


def test_a_turned_attention_is_far_away_and_only_in_its_own_process(pages: list[Page], worker: Worker) -> None:
    (line,) = measure_fidelity([SDPA], pages[:1], worker, faults.turn_heads).to_dict("records")
    assert line["kl_mean"] > 0.1 and line["same_argmax"] < 0.9 and line["first_difference"] >= 0
    with Worker() as another:
        (line,) = measure_fidelity([SDPA], pages[:1], another).to_dict("records")
    assert line["kl_mean"] < 1e-8 and math.isnan(line["first_difference"] or math.nan)


def test_nan_and_death_are_lines_with_a_reason(pages: list[Page], worker: Worker) -> None:
    (line,) = measure_fidelity([SDPA], pages[:1], worker, faults.give_nan).to_dict("records")
    assert line["status"] == "invalid" and "NaN" in line["reason"] and line["kl_mean"] is None
    worker.close()  # its kernels are faulty now
    lines = measure_fidelity([SDPA], pages, worker, faults.die)
    assert lines["status"].tolist() == ["crashed"] * 2
    assert ("SIGABRT" if os.name == "posix" else "abort()") in lines["reason"].iloc[0]


def test_quarantine_and_bad_pages_are_lines_with_a_reason(pages: list[Page], tmp_path: Path, worker: Worker) -> None:
    quarantine.judge({("float32", "eager", None): "planted"})
    bad = replace(pages[0], id="bad", file=tmp_path / "none.png")
    lines = measure_fidelity([SDPA, replace(SDPA, attn_implementation="eager")], [pages[0], bad], worker)
    assert lines["status"].tolist() == ["ok", "error", "unsupported", "unsupported"]
    assert lines["reason"].iloc[1].startswith("its reference in float32") and lines["reference"].iloc[1] == "error"
    assert "quarantined by the canary" in lines["reason"].iloc[2]


def test_the_profiler_tells_which_kernels_ran(pages: list[Page], worker: Worker) -> None:
    eager, math_ = replace(SDPA, attn_implementation="eager"), replace(SDPA, sdpa_kernel="math")
    counted = CELLS["count_kernels"]([eager, math_, SDPA, FLASH_2], pages[0], worker, 3)
    table = name_variants(counted).set_index("variant")
    assert table.loc["eager", ["math", "fused"]].tolist() == [0, 0] and table.loc["eager", "took"] == "none"
    layers = 4 + 3 * 3  # the vision tower's once, the text's once for the prompt and for each token after the first
    assert table.loc["sdpa, math", "math"] == layers and table.loc["sdpa, math", "fused"] == 0
    assert table.loc["sdpa", ["math", "fused"]].sum() == layers
    assert table.loc["flash_attention_2", "status"] == "unsupported" and table.loc["flash_attention_2", "took"] == ""


def test_one_worker_serves_several_measurements(pages: list[Page], worker: Worker) -> None:
    measure_fidelity([SDPA], pages[:1], worker)
    CELLS["count_kernels"]([SDPA], pages[0], worker, 2)
    assert worker.starts == 1 and worker.pid is not None


# Figures and tables, from planted rows: every reason is to be read somewhere.


OWN = {"model_id": "tiny", "weights": "pretrained"}
GREY = {"status": "unsupported", "reason": "Unsupported: flash_attn is not installed; use sdpa"}
FIDELITY = pd.DataFrame(
    [
        *(
            {
                "variant": "sdpa, math",
                "page": f"p{i}",
                "kl_mean": 0.0,
                "kl_max": 0.0,
                "logit_error": 0.0,
                "logit_error_sd": 0.0,
                "same_argmax": 1.0,
                "positions": 10,
                "first_difference": None,
                "status": "ok",
                "reason": "",
            }
            | OWN
            for i in range(3)
        ),
        *(
            {
                "variant": "eager",
                "page": f"p{i}",
                "kl_mean": 1e-4 * (i + 1),
                "kl_max": 0.01,
                "logit_error": 0.3,
                "logit_error_sd": 0.05,
                "same_argmax": 0.9,
                "positions": 10,
                "first_difference": 4.0,
                "status": "ok",
                "reason": "",
            }
            | OWN
            for i in range(3)
        ),
        {"variant": "flash_attention_2", "page": "p0", "kl_mean": None} | GREY | OWN,
    ]
)


def texts(figure: Figure) -> str:
    return " | ".join(text.get_text() for axes in figure.axes for text in axes.texts)


def legend(figure: Figure) -> list[str]:
    boxes = [axes.get_legend() for axes in figure.axes if axes.get_legend()] + figure.legends
    return [text.get_text() for box in boxes for text in box.get_texts()]


def test_divergence_plot_has_every_variant_zero_and_the_reason() -> None:
    figure = divergence_plot(FIDELITY)
    (axes,) = figure.axes
    assert [t.get_text() for t in axes.get_yticklabels()] == ["sdpa, math", "eager", "flash_attention_2"]
    assert "flash_attn is not installed" in texts(figure) and "KL 0" in texts(figure)
    assert axes.get_xscale() == "log" and "nats" in axes.get_xlabel() and axes.get_xlim()[0] > 0
    figure = divergence_plot(FIDELITY[FIDELITY["variant"] != "eager"])
    assert figure.axes[0].get_xlim()[0] > 0, "all zero"
    assert "flash_attn" in texts(divergence_plot(FIDELITY.tail(1)))


def test_fidelity_table_counts_pages_and_says_where_they_first_differ() -> None:
    table = fidelity_table(FIDELITY)
    assert table["pages"].tolist() == ["3 of 3", "3 of 3", "0 of 1"]
    assert table["first difference at"].tolist() == ["nowhere", "4", ""]
    assert table.loc["eager", "KL, nats (quartiles over pages)"] == "0.0002 (0.00015 to 0.00025)"
    assert table.loc["eager", "same first token"] == "90.00% of 30"
    assert table.loc["flash_attention_2", "problem"] == "unsupported: flash_attn is not installed"


def test_contrast_table_shows_the_interval_and_the_empty() -> None:
    lines = [
        {
            "variant": "eager",
            "pages": 3,
            "of": 3,
            "same_text": 0.5,
            "first_difference": 7.0,
            "cer": 0.1,
            "cer_low": 0.05,
            "cer_high": 0.2,
            "difference": 0.01,
            "low": -0.01,
            "high": 0.03,
            "kind": "not settled",
            "words": "w",
            "status": "ok",
            "reason": "",
        },
        {"variant": "int8", **GREY},
    ]
    table = contrast_table(pd.DataFrame(lines))
    assert table.loc["eager"].tolist() == [
        "3 of 3",
        "50%",
        "7",
        "10.00% (5.00% to 20.00%)",
        "+1.00 (-1.00 to +3.00)",
        "not settled",
        "",
    ]
    assert table.loc["int8", "CER"] == "" and "flash_attn" in table.loc["int8", "problem"]


def test_phases_plot_has_a_panel_per_phase_and_grey_in_the_legend() -> None:
    lines = [
        {
            "variant": variant,
            "image_tokens": n,
            "vision_s": n / 1e4,
            "prefill_s": n / 1e5,
            "decode_s": 0.1,
            "status": "ok",
            "reason": "",
        }
        for variant in ("eager", "sdpa")
        for n in (40, 40, 250)
    ]
    figure = phases_plot(pd.DataFrame([*lines, {"variant": "flex", **GREY}]))
    assert [axes.get_ylabel() for axes in figure.axes] == ["vision, ms", "prefill, ms", "decode, ms"]
    assert legend(figure)[0] == "flex: unsupported: flash_attn is not installed" and len(legend(figure)) == 3


def test_growth_plot_tells_exponents_and_reasons() -> None:
    lines = [
        {"variant": variant, "image_tokens": n, "peak_memory_bytes": 8.0 * n**power, "status": "ok", "reason": ""} | OWN
        for variant, power in (("eager", 2), ("sdpa", 1))
        for n in (64, 128, 256, 512)
    ]
    growth_plot = CELLS["growth_plot"]
    growth = pd.DataFrame([*lines, {"variant": "flash_attention_2", **GREY, **OWN}])
    figure = growth_plot(growth, growth_exponents(growth))
    labels = legend(figure)
    assert labels[0] == "eager: exponent 2.00 (2.00 to 2.00)" and labels[1].startswith("sdpa: exponent 1.00")
    assert "flash_attn is not installed" in labels[2]
    nothing = growth.tail(1)
    assert "flash_attn" in legend(growth_plot(nothing, growth_exponents(nothing)))[0]
