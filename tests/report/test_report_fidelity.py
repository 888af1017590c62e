"""Figures and tables of fidelity, growth and headroom, from planted rows: every reason is to be read somewhere."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from ocrlab.experiments import attention
from ocrlab.experiments.attention import growth_exponents

OWN = {"model_id": "tiny", "weights": "pretrained"}
GREY = {"status": "unsupported", "reason": "Unsupported: flash_attn is not installed; use sdpa"}
FIDELITY = pd.DataFrame([
    *({"way": "sdpa, math", "page": f"p{i}", "kl_mean": 0.0, "kl_max": 0.0, "logit_error": 0.0, "logit_error_sd": 0.0,
       "same_argmax": 1.0, "positions": 10, "parted_at": None, "status": "ok", "reason": ""} | OWN for i in range(3)),
    *({"way": "eager", "page": f"p{i}", "kl_mean": 1e-4 * (i + 1), "kl_max": 0.01, "logit_error": 0.3,
       "logit_error_sd": 0.05, "same_argmax": 0.9, "positions": 10, "parted_at": 4.0, "status": "ok",
       "reason": ""} | OWN for i in range(3)),
    {"way": "flash_attention_2", "page": "p0", "kl_mean": None} | GREY | OWN,
])  # fmt: skip


def texts(figure: Figure) -> str:
    return " | ".join(text.get_text() for axes in figure.axes for text in axes.texts)


def legend(figure: Figure) -> list[str]:
    boxes = [axes.get_legend() for axes in figure.axes if axes.get_legend()] + figure.legends
    return [text.get_text() for box in boxes for text in box.get_texts()]


def test_divergence_plot_has_every_way_zero_and_the_reason() -> None:
    figure = attention.divergence_plot(FIDELITY)
    (axes,) = figure.axes
    assert [t.get_text() for t in axes.get_yticklabels()] == ["sdpa, math", "eager", "flash_attention_2"]
    assert "flash_attn is not installed" in texts(figure) and "KL 0" in texts(figure)
    assert axes.get_xscale() == "log" and "nats" in axes.get_xlabel() and axes.get_xlim()[0] > 0
    figure = attention.divergence_plot(FIDELITY[FIDELITY["way"] != "eager"])
    assert figure.axes[0].get_xlim()[0] > 0, "all zero"
    assert "flash_attn" in texts(attention.divergence_plot(FIDELITY.tail(1)))


def test_fidelity_table_counts_pages_and_says_where_they_part() -> None:
    table = attention.fidelity_table(FIDELITY)
    assert table["pages"].tolist() == ["3 of 3", "3 of 3", "0 of 1"]
    assert table["first parts at"].tolist() == ["nowhere", "4", ""]
    assert table.loc["eager", "KL, nats (quartiles over pages)"] == "0.0002 (0.00015 to 0.00025)"
    assert table.loc["eager", "same first token"] == "90.00% of 30"
    assert table.loc["flash_attention_2", "problem"] == "unsupported: flash_attn is not installed"


def test_contrast_table_shows_the_interval_and_the_empty() -> None:
    lines = [
        {"way": "eager", "pages": 3, "of": 3, "same_text": 0.5, "first_difference": 7.0, "cer": 0.1, "cer_low": 0.05,
         "cer_high": 0.2, "difference": 0.01, "low": -0.01, "high": 0.03, "kind": "not settled", "words": "w",
         "status": "ok", "reason": ""},
        {"way": "int8", **GREY},
    ]  # fmt: skip
    table = attention.contrast_table(pd.DataFrame(lines))
    assert table.loc["eager"].tolist() == [
        "3 of 3", "50%", "7", "10.00% (5.00% to 20.00%)", "+1.00 (-1.00 to +3.00)", "not settled", "",
    ]  # fmt: skip
    assert table.loc["int8", "CER"] == "" and "flash_attn" in table.loc["int8", "problem"]


def test_phases_plot_has_a_panel_a_phase_and_grey_in_the_legend() -> None:
    lines = [
        {"way": way, "image_tokens": n, "vision_s": n / 1e4, "prefill_s": n / 1e5, "decode_s": 0.1, "status": "ok",
         "reason": ""}
        for way in ("eager", "sdpa") for n in (40, 40, 250)
    ]  # fmt: skip
    figure = attention.phases_plot(pd.DataFrame([*lines, {"way": "flex", **GREY}]))
    assert [axes.get_ylabel() for axes in figure.axes] == ["vision, ms", "prefill, ms", "decode, ms"]
    assert legend(figure)[0] == "flex: unsupported: flash_attn is not installed" and len(legend(figure)) == 3


def test_growth_plot_tells_exponents_and_reasons() -> None:
    lines = [
        {"way": way, "image_tokens": n, "peak_memory_bytes": 8.0 * n**power, "status": "ok", "reason": ""} | OWN
        for way, power in (("eager", 2), ("sdpa", 1)) for n in (64, 128, 256, 512)
    ]  # fmt: skip
    growth = pd.DataFrame([*lines, {"way": "flash_attention_2", **GREY, **OWN}])
    figure = attention.growth_plot(growth, growth_exponents(growth))
    told = legend(figure)
    assert told[0] == "eager: exponent 2.00 (2.00 to 2.00)" and told[1].startswith("sdpa: exponent 1.00")
    assert "flash_attn is not installed" in told[2]
    nothing = growth.tail(1)
    assert "flash_attn" in legend(attention.growth_plot(nothing, growth_exponents(nothing)))[0]


def test_headroom_plot_and_table() -> None:
    base = {"status": "ok", "reason": "", **OWN}
    lines = [
        {"module": "model.visual.blocks.0.attn", "part": "vision", "value": "scores", "largest": 100.0, "bits": 9.4},
        {"module": "model.visual.blocks.0.mlp", "part": "vision", "value": "output", "largest": 10.0, "bits": 12.7},
        {"module": "model.language_model.layers.0.self_attn", "part": "text", "value": "scores", "largest": 2e5,
         "bits": -1.6},
        {"module": "lm_head", "part": "text", "value": "output", "largest": 20.0, "bits": 11.7},
    ]  # fmt: skip
    headroom = pd.DataFrame([base | line for line in lines])
    figure = attention.headroom_plot(headroom)
    (axes,) = figure.axes
    assert [t.get_text() for t in axes.get_xticklabels()] == ["vision 0", "text 0"]
    heights = [bar.get_height() for bar in axes.patches]
    assert heights[:2] == [9.4, -1.6] and axes.get_ylim()[0] < -1.6 and "bits" in axes.get_ylabel()
    assert "float16's end: 65504" in legend(figure)
    table = attention.headroom_table(headroom, most=2)
    assert table.index.tolist() == ["model.language_model.layers.0.self_attn", "model.visual.blocks.0.attn"]
    assert table["largest"].tolist() == ["2e+05", "100"]
    empty = pd.DataFrame([{"module": None, "part": None, "value": None, "largest": None, "bits": None} | GREY])
    assert attention.headroom_table(empty).empty and attention.headroom_plot(empty).axes
