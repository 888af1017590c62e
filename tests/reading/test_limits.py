"""Predictions against known figures of Qwen2-VL-2B, and against what the embedded reader really takes here."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ocrlab import paths
from ocrlab.machine.hardware import UnknownCard, card, cards, measured_machine
from ocrlab.reading.checkpoints import CheckpointError
from ocrlab.reading.limits import predict, shapes_of
from ocrlab.reading.settings import PRESETS, Settings, load_preset
from ocrlab.study.records import load_findings, settings_of

TWO_B = Settings(model_id="Qwen/Qwen2-VL-2B-Instruct", weights="dummy", dtype="bfloat16")
GIB = 2**30


def test_shapes_have_the_published_counts() -> None:
    shapes = shapes_of(TWO_B)
    parts = (shapes.vision.parameters, shapes.text.parameters, shapes.embedding_parameters, shapes.head_parameters)
    assert sum(parts) == 2_208_985_600
    assert parts == (665_271_296, 1_310_340_608, 233_373_696, 0) and shapes.cell_pixels == 784


def test_weights_and_cache_by_hand() -> None:
    memory = predict(replace(TWO_B, max_new_tokens=1000), 1280).memory
    assert memory.weights_bytes == pytest.approx(4.115 * GIB, rel=1e-3)
    assert memory.kv_cache_bytes == 28 * 1024 * (1280 + 32 + 1000), "28 KiB a token"
    assert predict(replace(TWO_B, dtype="float32"), 64).memory.weights_bytes == 2 * memory.weights_bytes


@pytest.mark.parametrize(("tokens", "gib"), [(1280, 3.1), (2560, 12.5), (4096, 32.0), (16384, 512.0)])
def test_eager_vision_grows_with_the_square(tokens: int, gib: float) -> None:
    eager, half = (
        predict(replace(TWO_B, attn_implementation="eager", dtype=dtype), tokens).memory  # type: ignore[arg-type]
        for dtype in ("bfloat16", "float16")
    )
    sdpa = predict(TWO_B, tokens).memory
    assert half.vision_bytes == pytest.approx(gib * GIB, rel=0.06)
    assert eager.vision_bytes == pytest.approx(1.25 * gib * GIB, rel=0.06), "softmax copies bfloat16 to float32 first"
    assert sdpa.vision_bytes < eager.vision_bytes / 10


def test_eager_in_bfloat16_on_a_card_as_measured_there() -> None:
    """An H200 at the 2B's shapes, 4,096 image tokens (results/reference-h200, LOG.md)."""
    found = load_findings("memory-true-shapes", paths.RESULTS / "reference-h200").dropna(subset=["measured_bytes"])
    assert len(found) == 15
    for line in found.to_dict("records"):
        asked = replace(settings_of(line), max_new_tokens=2)
        memory = predict(asked, int(line["image_tokens"])).memory
        assert memory.peak_bytes == pytest.approx(line["measured_bytes"], rel=0.02)


def test_a_token_reads_the_text_layers_and_the_tied_head_once() -> None:
    floors = predict(replace(TWO_B, max_new_tokens=1), 1, card("RTX 5070 Ti")).floors
    assert floors is not None and floors.tpot_s == pytest.approx(3.45e-3, rel=0.01)
    faster = predict(replace(TWO_B, max_new_tokens=1), 1, card("RTX 5090")).floors
    assert faster is not None and 1 / faster.tpot_s == pytest.approx(580, rel=0.01)


def test_what_fits_which_card() -> None:
    eager = replace(TWO_B, attn_implementation="eager")
    assert predict(TWO_B, 16384, card("RTX 5060")).fits
    assert not predict(eager, 2560, card("RTX 5070 Ti")).fits and predict(eager, 1280, card("RTX 5070 Ti")).fits
    assert predict(eager, 1280).fits is None
    margin = predict(eager, 16384, card("RTX 5090")).margin_bytes
    assert margin is not None and margin < -400 * GIB


def test_cards_are_found_by_name_and_the_nearest_is_named() -> None:
    assert card("NVIDIA GeForce RTX 5090").memory_bytes == 32 * GIB and len(cards()) >= 8
    with pytest.raises(UnknownCard, match="did you mean RTX 5070"):
        card("RTX 5075")


def test_other_families_are_not_guessed(tmp_path: object) -> None:
    with pytest.raises(CheckpointError):
        shapes_of(Settings(model_id="Qwen/Unknown-VL"))


def test_this_machine_is_measured() -> None:
    machine = measured_machine("float32")
    assert machine.device == "cpu" and machine.source == "measured here"
    assert 1e8 < machine.bandwidth_bytes_s < 1e13 and 1e8 < machine.matmul_flops_s < 1e15


@pytest.mark.parametrize(
    ("gigabytes", "names"),
    [
        (8, ["RTX 5060"]),
        (12, ["RTX 5070", "RTX 5070 Ti Laptop"]),
        (16, ["RTX 5060 Ti 16 GB", "RTX 5070 Ti", "RTX 5080"]),
        (32, ["RTX 5090"]),
    ],
)
def test_the_blackwell_presets_fit_their_cards_at_their_full_budget(gigabytes: int, names: list[str]) -> None:
    settings = load_preset(f"blackwell-{gigabytes}gb", weights="dummy")
    tokens = (settings.max_pixels or 0) // 784
    for name in names:
        margin = predict(settings, tokens, card(name)).margin_bytes
        assert margin is not None and margin > 1.5 * GIB, "a desktop on the card needs some, too"
    text = (PRESETS / "blackwell.yaml").read_text(encoding="utf-8")
    predicted = predict(settings, tokens).memory.peak_bytes / GIB
    assert f"{predicted:.1f} GiB" in text, "the figure in the file is what is predicted"


def test_quantised_weights_take_what_their_bits_say() -> None:
    sixteen = predict(TWO_B, 1280).memory.weights_bytes
    parts = {q: predict(replace(TWO_B, weights="pretrained", quantization=q), 1280).memory for q in ("int8", "nf4")}
    embedding = 233_373_696 * 2
    assert parts["int8"].weights_bytes - embedding == pytest.approx((sixteen - embedding) / 2, rel=1e-6)
    vision = shapes_of(TWO_B).vision.parameters * 2
    text = sixteen - embedding - vision
    assert parts["nf4"].weights_bytes - embedding - vision == pytest.approx(text * 4.5 / 16, rel=1e-6)
