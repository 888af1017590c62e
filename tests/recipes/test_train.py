"""The trainer computes what the stock model computes, never sees what is held out, and goes on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data.recipes import forward
from data.recipes.architecture import MAX_PIXELS, MIN_PIXELS, save_checkpoint
from data.recipes.batches import CURRICULUM, SLOTS, Batches, stage_at
from data.recipes.sampler import is_held_out, training_line
from data.recipes.train import AFTER, BEFORE, SYSTEM, Trainer, rate_at
from ocrlab.paths import MODELS
from ocrlab.reading.reader import open_reader
from ocrlab.reading.settings import Settings

pytest.importorskip("wordfreq", reason="the training extra is not installed")
from data.recipes.fonts import FontsMissing, load_fonts

try:
    FONTS = load_fonts("train")
except FontsMissing as missing:
    pytest.skip(str(missing), allow_module_level=True)


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    return Trainer(seed=1, learning_rate=3e-3)


@pytest.fixture(scope="module")
def item() -> dict[str, Any]:
    batch = Batches(1)[20, 700_000]
    return batch | {"pixels": torch.from_numpy(batch["pixels"][:2]), "texts": batch["texts"][:2]}


@pytest.fixture(scope="module")
def processed(item: dict[str, Any]) -> dict[str, torch.Tensor]:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    size = {"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS}
    processor = Qwen2VLImageProcessorPil(patch_size=8, merge_size=2, temporal_patch_size=2, size=size)
    return processor(images=[page.numpy() for page in item["pixels"]], return_tensors="pt")


def test_patches_are_the_image_processors(item: dict[str, Any], processed: dict[str, torch.Tensor]) -> None:
    assert torch.equal(forward.patches(item["pixels"]).flatten(0, 1), processed["pixel_values"])


def test_image_features_are_the_stock_models(
    trainer: Trainer, item: dict[str, Any], processed: dict[str, torch.Tensor]
) -> None:
    model = trainer.trainee.model.eval()
    with torch.no_grad():
        ours = forward.image_features(model.model.visual, item["pixels"])
        stock = model.model.get_image_features(processed["pixel_values"], processed["image_grid_thw"]).pooler_output
    torch.testing.assert_close(ours, torch.stack(list(stock)), rtol=1e-4, atol=1e-5)


def test_answer_loss_is_the_stock_models(
    trainer: Trainer, item: dict[str, Any], processed: dict[str, torch.Tensor]
) -> None:
    model, ids = trainer.trainee.model.eval(), trainer._ids
    before, after = SYSTEM.format(system="You read.") + BEFORE, AFTER.format(prompt="Что здесь?")
    answers = trainer._answers(item)
    grid = (item["pixels"].shape[1] // 16, item["pixels"].shape[2] // 16)
    losses = []
    with torch.no_grad():
        features = forward.image_features(model.model.visual, item["pixels"])
        ours = trainer.trainee.answer_loss(features, grid, torch.tensor(ids(before)), torch.tensor(ids(after)), answers)
        text_config = model.model.language_model.config
        training, text_config._attn_implementation = text_config._attn_implementation, "sdpa"
        for i, text in enumerate(item["texts"]):
            image = "<|image_pad|>" * (grid[0] * grid[1])
            tokens = torch.tensor([ids(before + image + after + text + "<|im_end|>")])
            count = int((answers[i] != -100).sum())
            kinds = (tokens == model.config.image_token_id).int()
            patches = processed["pixel_values"].chunk(2)[i]
            logits = model(
                input_ids=tokens,
                attention_mask=torch.ones_like(tokens),
                mm_token_type_ids=kinds,
                pixel_values=patches,
                image_grid_thw=processed["image_grid_thw"][i : i + 1],
            ).logits[0, -count - 1 : -1]
            losses.append(torch.nn.functional.cross_entropy(logits, tokens[0, -count:], reduction="none"))
        text_config._attn_implementation = training
    torch.testing.assert_close(ours, torch.cat(losses).mean(), rtol=1e-4, atol=1e-4)


def test_plain_attention_is_sdpa() -> None:
    q, k, v = torch.randn(3, 2, 4, 33, 8).unbind(0)
    for causal in (False, True):
        expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
        torch.testing.assert_close(forward.mix(q, k, v, causal=causal), expected)


def test_batches_are_a_function_of_seed_and_index() -> None:
    one, again, other = Batches(3)[5, 0], Batches(3)[5, 0], Batches(4)[5, 0]
    assert one["texts"] == again["texts"] != other["texts"]
    assert np.array_equal(one["pixels"], again["pixels"]) and one["glyphs"] == again["glyphs"]


def test_nothing_held_out_is_trained_on() -> None:
    texts = [text for i in range(12) for text in Batches(9)[i, 700_000]["texts"]]
    assert len(texts) > 60
    assert not any(is_held_out(line) for text in texts for line in text.split("\n"))
    assert {font.role for font in FONTS} == {"train"}
    held = {font.path.name for font in load_fonts("held_out")}
    assert held and not held & {font.path.name for font in FONTS}


def test_training_lines_avoid_the_held_out_ones() -> None:
    from random import Random

    rng = Random(5)
    assert not any(is_held_out(training_line(rng, "en", 12)) for _ in range(300))
    assert any(is_held_out(str(i)) for i in range(1000, 1300)), "the rule holds out something"


def test_glyph_labels_lie_on_ink() -> None:
    """The slot of a character covers pixels that differ from the paper, for nearly all characters."""
    batch = Batches(2)[3, 0]
    height, width = batch["pixels"].shape[1] // 16, batch["pixels"].shape[2] // 16
    hits = []
    for image, cell, slot, character in batch["glyphs"]:
        assert 0 <= cell < height * width and 0 <= slot < SLOTS and not character.isspace()
        y, x = cell // width * 16, cell % width * 16
        around = batch["pixels"][image, max(0, y - 8) : y + 24, max(0, x - 4) : x + 20].astype(int)
        hits.append(np.ptp(around) > 40)
    assert np.mean(hits) > 0.95


def test_trainer_goes_on_from_its_checkpoint(tmp_path: Path, item: dict[str, Any]) -> None:
    first = Trainer(seed=2, learning_rate=1e-3)
    first.step(item | {"glyphs": [g for g in item["glyphs"] if g[0] < 2]}, 1.0)
    torch.save(first.state(), tmp_path / "state.pt")
    second = Trainer(seed=3, learning_rate=1e-3)
    second.resume(tmp_path / "state.pt")
    assert (second.batch, second.images) == (1, 2)
    for a, b in zip(first.trainee.parameters(), second.trainee.parameters(), strict=True):
        assert torch.equal(a, b)


def test_trainer_starts_from_a_readers_checkpoint() -> None:
    trainer = Trainer(seed=4, learning_rate=1e-3)
    trainer.start_from(MODELS / "tiny")
    last = json.loads((MODELS / "tiny" / "curve.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    assert (trainer.batch, trainer.images) == (last["batch"], last["images"])
    reader = open_reader(Settings(dtype="float32"))
    for model in (trainer.trainee.model, trainer.average.module.model):
        for name, weight in reader.model.state_dict().items():
            assert torch.equal(model.state_dict()[name], weight), name


def test_stages_and_rate() -> None:
    assert not stage_at(0).decoder and stage_at(10**9) == CURRICULUM[-1]
    assert rate_at(0, 0, 1000, 100) == 0.01
    assert rate_at(500, 500, 1000, 100) == 1.0
    assert rate_at(950, 500, 1000, 100) == 0.5


def test_saved_checkpoint_is_bfloat16_and_open_to_all(trainer: Trainer, tmp_path: Path) -> None:
    from safetensors import safe_open

    save_checkpoint(trainer.trainee.model, trainer.tokenizer, tmp_path / "out")
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.bfloat16}  # noqa: SIM118
        assert not any("slot_weight" in name or "glyph" in name for name in file.keys())  # noqa: SIM118
    assert (tmp_path / "out" / "model.safetensors").stat().st_mode & 0o044
