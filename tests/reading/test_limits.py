"""Predictions against known figures of Qwen2-VL-2B, and against what the embedded reader really takes here."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from PIL import Image

from ocrlab import paths
from ocrlab.machine import hardware
from ocrlab.machine.hardware import Machine, UnknownCard, card, cards, measured_machine
from ocrlab.pages import load_pages
from ocrlab.reading import limits
from ocrlab.reading.checkpoints import CheckpointError
from ocrlab.reading.limits import PeakNotModelled, predict, refuse_too_large, shapes_of, weights_of
from ocrlab.reading.reader import open_reader
from ocrlab.reading.settings import PRESETS, Settings, load_preset
from ocrlab.study.records import load_findings, settings_of

TWO_B = Settings(model_id="Qwen/Qwen2-VL-2B-Instruct", weights="dummy", dtype="bfloat16")
GIB = 2**30


def test_shapes_have_the_published_counts() -> None:
    weights = weights_of(TWO_B)
    assert weights.total == 2_208_985_600
    assert (weights.vision, weights.text, weights.embedding, weights.head) == (
        665_271_296,
        1_310_340_608,
        233_373_696,
        0,
    )
    assert shapes_of(TWO_B).cell_pixels == 784


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


@pytest.mark.parametrize(
    ("prefix", "capability", "least"),
    [("RTX 30", "8.6", 3), ("RTX 40", "8.9", 12), ("RTX 50", "12.0", 13), ("RTX PRO", "12.0", 5)],
)
def test_cards_have_their_generations_capability(prefix: str, capability: str, least: int) -> None:
    listed = yaml.safe_load((Path(hardware.__file__).parent / "cards.yaml").read_text(encoding="utf-8"))
    mine = {name: values for name, values in listed.items() if name.startswith(prefix)}
    assert len(mine) >= least and {values["capability"] for values in mine.values()} == {capability}
    assert all(card(name).memory_bytes == values["memory_gb"] * GIB for name, values in mine.items())


def test_what_is_not_known_of_a_card_leaves_its_floor_empty() -> None:
    floors = predict(TWO_B, 1280, card("RTX PRO 4000 Blackwell")).floors
    assert floors is not None and math.isnan(floors.vision_s) and floors.tpot_s > 0
    found = predict(TWO_B, 1280, Machine("any", 12 * GIB))
    assert found.fits and found.floors is not None and math.isnan(found.floors.tpot_s)


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
    weights, sixteen = weights_of(TWO_B), predict(TWO_B, 1280).memory.weights_bytes
    parts = {q: predict(replace(TWO_B, weights="pretrained", quantization=q), 1280).memory for q in ("int8", "nf4")}
    # Norms, biases and the patches' projection are no linear layers' weights: 2 million of the towers' 1.98 billion.
    assert weights.vision_linear + weights.text_linear == pytest.approx(weights.vision + weights.text, rel=2e-3)
    assert sixteen - parts["int8"].weights_bytes == weights.vision_linear + weights.text_linear, "one byte less each"
    assert sixteen - parts["nf4"].weights_bytes == pytest.approx(weights.text_linear * 23 / 16), "4.5 bits of 16"


def test_experts_that_are_no_linear_layers_stay_as_they_are_when_quantised() -> None:
    """DeepSeek-OCR-2 keeps its experts in tensors of three dimensions, which bitsandbytes and torchao pass over."""
    weights = weights_of(replace(TWO_B, model_id="deepseek-ai/DeepSeek-OCR-2"))
    experts = 11 * 64 * 3 * 1280 * 896
    assert weights.text - weights.text_linear == pytest.approx(experts, rel=1e-3)


def test_a_family_whose_peaks_are_not_modelled_has_its_weights_counted() -> None:
    settings = Settings(model_id="zai-org/GLM-OCR", weights="dummy", dtype="bfloat16")
    weights = weights_of(settings)
    assert weights.total == 1_107_405_824 and weights.head == weights.embedding == 59_392 * 1536
    with pytest.raises(PeakNotModelled, match="not modelled for glm_ocr"):
        predict(settings, 100)


def test_a_wider_head_than_the_width_says_counts_in_the_cache() -> None:
    shapes = shapes_of(replace(TWO_B, model_id="Qwen/Qwen3-VL-4B-Instruct"))
    assert (shapes.text.width, shapes.text.heads, shapes.text.head_width) == (2560, 32, 128)
    assert shapes.learned_positions and shapes.deepstack_levels == 3 and shapes.cell_pixels == 1024
    earlier = shapes_of(replace(TWO_B, model_id="Qwen/Qwen2.5-VL-3B-Instruct"))
    assert not earlier.learned_positions and earlier.deepstack_levels == 0 and earlier.vision.mlp_width == 3420


def test_a_page_without_a_limit_is_refused_with_the_budget_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(total=16 * GIB))
    eager = replace(TWO_B, attn_implementation="eager")
    refuse_too_large(eager, 1280, "cpu", "bfloat16")
    words = r"10,731 image tokens per page, 1 in a batch, take \d{3}\.\d GiB, .* 16\.0; max_pixels="
    with pytest.raises(MemoryError, match=words) as no:
        refuse_too_large(eager, 10_731, "cpu", "bfloat16")  # 2550 by 3301 pixels
    (fits,) = re.findall(r"max_pixels=(\d+) fits", str(no.value))
    assert predict(eager, int(fits) // 784).memory.peak_bytes <= 16 * GIB
    refuse_too_large(replace(eager, model_id="zai-org/GLM-OCR"), 10_731, "cpu", "bfloat16")  # peaks not modelled


def test_a_batch_that_will_not_fit_is_read_in_halves_and_a_page_that_will_not_costs_itself(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sizes = {"small": (64, 64), "large": (1024, 1024)}
    for name, size in sizes.items():
        Image.new("RGB", size, "white").save(tmp_path / f"{name}.png")
    settings = Settings(attn_implementation="eager", max_pixels=1024 * 1024, batch_size=2, max_new_tokens=2)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(total=GIB // 4))
    with open_reader(settings) as reader:
        monkeypatch.setattr(limits, "locate_shapes", lambda _: pytest.fail("a loaded model is looked for again"))
        found = {reading.page: reading for reading in reader.read(load_pages(str(tmp_path)))}
    small, large = found["small.png"], found["large.png"]
    assert small.status != "oom" and large.status == "oom" and "predicted, and not tried: 4,096" in large.reason
    assert "max_pixels=" in large.reason
