"""Every family goes through the same door: small random checkpoints of its true class and processor, as on the Hub."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from ocrlab.pages import Page, load_pages
from ocrlab.reading import isolated
from ocrlab.reading.checkpoints import CheckpointError
from ocrlab.reading.families import FAMILIES
from ocrlab.reading.limits import predict
from ocrlab.reading.loading import image_tokens_of
from ocrlab.reading.reader import Reader, open_reader
from ocrlab.reading.settings import DEFAULT_PROMPT, SettingNotApplied, Settings
from tests.reading import tiny_checkpoints
from tests.reading.tiny_checkpoints import IDS

WIDE = (1500, 1000)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """What gives a family's small checkpoint, written once."""
    folder = tmp_path_factory.mktemp("families")
    return cache(lambda name: tiny_checkpoints.write(name, folder / name))


@pytest.fixture(scope="module", params=sorted(tiny_checkpoints.CONFIGS))
def name(request: pytest.FixtureRequest) -> Iterator[str]:
    """A family's model_type, with a stand-in where its image processor needs torchvision."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        if FAMILIES[request.param].needs:
            tiny_checkpoints.stand_in_for_torchvision(monkeypatch)
        yield request.param


@pytest.fixture(scope="module")
def settings(name: str, made: Callable[[str], Path]) -> Settings:
    return Settings(model_id=str(made(name)), dtype="float32", device="cpu", max_new_tokens=4, min_new_tokens=4)


@pytest.fixture(scope="module")
def loaded(settings: Settings) -> Iterator[Reader]:
    with open_reader(settings) as reader:
        assert isinstance(reader, Reader)
        yield reader


@pytest.fixture
def reader(loaded: Reader, settings: Settings) -> Reader:
    loaded.apply(settings)
    return loaded


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Page]:
    """Pages of three shapes, each with noise of its own; the last is larger than any tile."""
    folder, noise = tmp_path_factory.mktemp("pages"), np.random.default_rng(0)
    for number, (width, height) in enumerate([(120, 60), (70, 200), (800, 300)]):
        grey = noise.integers(0, 255, (height // 10, width // 10), np.uint8)
        Image.fromarray(grey).resize((width, height)).convert("RGB").save(folder / f"{number}.png")
    return load_pages(folder)


def test_all_families_are_tried_here() -> None:
    assert set(tiny_checkpoints.CONFIGS) == set(FAMILIES)


def test_a_batch_of_pages_of_different_sizes_reads_as_one_by_one(
    reader: Reader, settings: Settings, pages: list[Page]
) -> None:
    single = [reader.read(page) for page in pages]
    logits = [_logits(reader, [page]) for page in pages]
    reader.apply(replace(settings, batch_size=3))
    batched = reader.read(pages)
    assert [one.status for one in single + batched] == ["ok"] * 6, single[0].reason
    assert [one.token_ids for one in single] == [one.token_ids for one in batched]
    assert [one.text for one in single] == [one.text for one in batched]
    assert [one.image_tokens for one in single] == [reader.size_of(page) for page in pages]
    assert image_tokens_of(settings, pages) == [one.image_tokens for one in single]
    assert all(one.vision_s for one in single)
    together = _logits(reader, pages)
    for alone, row in zip(logits, together.split(1, dim=1), strict=True):
        # 1e-4 would do for rounding, but a page's number in the batch shows at 2e-5 in a model as small as these.
        torch.testing.assert_close(row, alone, atol=5e-6, rtol=0)
    assert all((logits[0] - other).abs().max() > 1e-3 for other in logits[1:]), "what is on a page does not matter"


def _logits(reader: Reader, pages: list[Page]) -> torch.Tensor:
    """Return the scores of each step as (steps, pages, words), as `generate` has them."""
    built = reader.builder.build([page.open() for page in pages], reader.settings.prompt)
    with torch.inference_mode():
        tensors = built.tensors | reader.family.positions(reader.model, built.tensors)
        made = reader.model.generate(**tensors, return_dict_in_generate=True, output_logits=True)
    return torch.stack(made.logits)


def test_inputs_are_those_of_the_family_s_own_processor(name: str, reader: Reader, pages: list[Page]) -> None:
    images = [page.open() for page in pages]
    ours = reader.builder.build(images, DEFAULT_PROMPT)
    processor = tiny_checkpoints.processor(name)
    processor.tokenizer.padding_side = "left"
    text: Any = [reader.builder.text(DEFAULT_PROMPT)] * len(images)
    more: dict[str, Any] = {}
    if name == "got_ocr2":  # its processor writes the prompt as well
        text, more = None, {"num_image_tokens": 1}
    theirs = processor(images=images, text=text, padding=True, return_tensors="pt", **more)
    assert set(theirs) - {"mm_token_type_ids"} == set(ours.tensors) - {"mm_token_type_ids"}
    for key, tensor in theirs.items():
        torch.testing.assert_close(ours.tensors[key], torch.as_tensor(tensor), check_dtype=False, msg=f"{name}: {key}")


def test_padding_is_on_the_left_and_masked(name: str, reader: Reader, pages: list[Page]) -> None:
    inputs = reader.builder.build([page.open() for page in pages], DEFAULT_PROMPT)
    ids, mask = inputs.tensors["input_ids"], inputs.tensors["attention_mask"]
    short = min(range(3), key=lambda row: inputs.prompt_tokens[row])
    padded = ids.shape[1] - inputs.prompt_tokens[short]
    assert padded > 0 or FAMILIES[name].usual_prompt(reader.builder.image_processor).startswith(("OCR: ", "Free")), name
    assert (ids[short, :padded] == IDS["<|endoftext|>"]).all() and not mask[short, :padded].any()
    assert mask[short, padded:].all() and ids[short, padded] != IDS["<|endoftext|>"]


def test_budgets_arrive_and_are_read_back(name: str, reader: Reader, settings: Settings, pages: list[Page]) -> None:
    family, images = FAMILIES[name], reader.builder.image_processor
    least, most = reader.builder.limits()
    full = reader.builder.count(*WIDE)
    asked = 4 * family.tile_side(images) ** 2 + 5 if hasattr(family, "tile_side") else 150_000
    reader.apply(replace(settings, max_pixels=asked))
    actual = reader.actual["actual_max_pixels"]
    assert actual == reader.builder.limits()[1] and 0.7 * asked < actual <= asked
    assert (actual != asked) == bool(reader.actual.get("actual_budget") and name != "glm_ocr")
    fewer = reader.builder.count(*WIDE)
    inputs = reader.builder.build([Image.new("RGB", WIDE)], DEFAULT_PROMPT)
    assert inputs.image_tokens == (fewer,) and ((fewer < full) if asked < most else (fewer > full))
    reading = reader.read(pages[2])
    assert reading.status == "ok" and reading.image_tokens == reader.size_of(pages[2])
    assert image_tokens_of(replace(settings, max_pixels=asked), [pages[2]]) == [reading.image_tokens]
    reader.apply(settings)
    assert (reader.builder.limits(), reader.builder.count(*WIDE)) == ((least, most), full)


def test_what_a_budget_cannot_be_is_refused(name: str, reader: Reader, settings: Settings) -> None:
    if not reader.actual.get("actual_budget") or name == "glm_ocr":  # any pixels will do
        reader.apply(replace(settings, max_pixels=100))
        assert reader.actual["actual_max_pixels"] == 100
        return
    with pytest.raises(SettingNotApplied, match=r"max_pixels: asked for 100, but one .* ask for more"):
        reader.apply(replace(settings, max_pixels=100))
    if name in {"lighton_ocr", "minicpm_ocr"}:
        with pytest.raises(SettingNotApplied, match="min_pixels: asked for 90000"):
            reader.apply(replace(settings, min_pixels=90_000))


def test_a_page_that_does_not_fit_at_one_tile_stays_what_it_is(
    name: str, reader: Reader, settings: Settings, pages: list[Page]
) -> None:
    too_large = replace(reader.read(pages[2]), status="oom")
    again = isolated._smaller(reader, settings, pages[2], too_large).reading
    if name == "got_ocr2":  # whose one tile is all that a page has
        assert again.status == "oom" and not again.retried and "one tile of 64 by 64" in again.reason
    else:
        assert again.status != "oom" and again.retried


def test_a_narrow_page_costs_its_row_only(name: str, reader: Reader, pages: list[Page], tmp_path: Path) -> None:
    Image.new("RGB", (800, 9), "white").save(tmp_path / "narrow.png")
    narrow, ordinary = reader.read([*load_pages(tmp_path / "narrow.png"), pages[0]])
    assert ordinary.status == "ok" and narrow.status == ("error" if name == "lighton_ocr" else "ok"), narrow.reason
    assert name != "lighton_ocr" or "less than one cell of 28 pixels" in narrow.reason


def test_each_family_asks_what_it_was_trained_on(name: str, reader: Reader, settings: Settings) -> None:
    page = Image.new("RGB", (64, 64))
    asked = reader.actual.get("actual_prompt", DEFAULT_PROMPT)
    assert asked == FAMILIES[name].usual_prompt(reader.builder.image_processor)
    assert asked in _words(reader, page) and (asked == DEFAULT_PROMPT or DEFAULT_PROMPT not in _words(reader, page))
    reader.apply(replace(settings, prompt="Only the total."))
    assert "Only the total." in _words(reader, page) and "actual_prompt" not in reader.actual
    assert not asked or asked not in _words(reader, page)


def _words(reader: Reader, page: Image.Image) -> str:
    return str(reader.builder.tokenizer.decode(reader.tensors(page)["input_ids"][0]))


def test_dummies_need_a_config_alone(name: str, made: Callable[[str], Path], pages: list[Page], tmp_path: Path) -> None:
    shutil.copy(made(name) / "config.json", tmp_path)
    asked = Settings(
        model_id=str(tmp_path), weights="dummy", dtype="float32", device="cpu", attn_implementation="eager"
    )
    with open_reader(replace(asked, max_new_tokens=2, min_new_tokens=2, batch_size=2)) as reader:
        readings = reader.read(pages[:2])
        assert [one.status for one in readings] == ["ok", "ok"], readings[0].reason
        assert [one.image_tokens for one in readings] == [reader.size_of(page) for page in pages[:2]]
        assert {reader.actual[f"actual_{part}attn_implementation"] for part in ("", "vision_")} == {"eager"}


def test_attention_is_confirmed_for_both_towers(name: str, reader: Reader) -> None:
    assert reader.actual["actual_attn_implementation"] == "sdpa"
    assert reader.actual["actual_vision_attn_implementation"] == ("eager" if name == "got_ocr2" else "sdpa")
    vision = reader.model.get_submodule(FAMILIES[name].vision)
    kinds = {module.config._attn_implementation for module in vision.modules() if hasattr(module, "config")}
    assert kinds == {reader.actual["actual_vision_attn_implementation"]}
    flash = FAMILIES[name].attention("flash_attention_2")
    assert flash == {"got_ocr2": "eager", "deepseek_ocr2": "sdpa"}.get(name, "flash_attention_2")


def test_text_is_told_as_it_comes(reader: Reader, pages: list[Page], monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(isolated, "report", told.append)
    reader.followers = isolated._followers(reader)
    try:
        reading = reader.read(pages[0])
    finally:
        reader.followers = {}
    assert "".join(told) == reader.builder.tokenizer.decode(reading.token_ids, skip_special_tokens=True)


def test_memory_is_predicted_or_refused_by_name(name: str, settings: Settings) -> None:
    if FAMILIES[name].memory_modelled:
        assert predict(settings, 64).memory.weights_bytes > 0
    else:
        with pytest.raises(CheckpointError, match=f"not modelled for {name}; measure it"):
            predict(settings, 64)


#: What a family writes around the text, and what is left of it.
MARKED = {
    "granite_docling": ('<text><loc_1><loc_2>Summe</text><otsl><fcel>1<fcel>2<nl></otsl><b at="3"/>', "Summe\n1\t2"),
    "deepseek_ocr2": ("<|ref|>title<|/ref|><|det|>[[1, 2, 3, 4]]<|/det|>\nTotal <5 EUR", "Total <5 EUR"),
}


def test_answers_lose_the_marks_that_a_family_writes(
    name: str, reader: Reader, settings: Settings, pages: list[Page]
) -> None:
    written, text = MARKED.get(name, ("  plain <5 text\n", "plain <5 text"))
    reader.apply(replace(settings, min_new_tokens=None, max_new_tokens=99))
    ids = [*reader.builder.tokenizer(written, add_special_tokens=False)["input_ids"], IDS["<|im_end|>"]]
    with _forced(reader, ids):
        reading = reader.read(pages[0])
    assert (reading.text, reading.stop_reason, reading.tokens) == (text, "eos", len(ids) - 1)


class _forced:
    """Has a reader's model write these tokens."""

    def __init__(self, reader: Reader, ids: list[int]) -> None:
        self.reader, self.coming = reader, iter(ids)

    def __enter__(self) -> None:
        self.handle = self.reader.model.get_output_embeddings().register_forward_hook(self._force)

    def __exit__(self, *_: object) -> None:
        self.handle.remove()

    def _force(self, _module: object, _args: object, logits: torch.Tensor) -> torch.Tensor:
        return logits.index_fill(-1, torch.tensor([next(self.coming)]), 1e6)


def test_a_stop_that_no_generation_config_names(name: str, reader: Reader) -> None:
    for stop in FAMILIES[name].stops:
        own, reader._own_generation.eos_token_id = reader._own_generation.eos_token_id, 3
        try:
            assert reader._generation_config().eos_token_id == [3, IDS[stop]]
        finally:
            reader._own_generation.eos_token_id = own


#: What a family takes of transformers by name: its image processor's attributes, and its model's parts.
PIXELS = ("size", "patch_size", "merge_size")
PATCHES = (*PIXELS, "get_number_of_image_patches")
TILES = ("size", "min_patches", "max_patches", "crop_to_patches", "get_number_of_image_patches")
RELIED_ON: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5"), PIXELS),
    "glm_ocr": (*PATCHES, "temporal_patch_size"),
    **dict.fromkeys(("paddleocr_vl", "hunyuan_vl"), PATCHES),
    "lighton_ocr": ("size", "patch_size"),
    "deepseek_ocr2": ("size", "tile_size", "min_patches", "max_patches", "crop_to_patches"),
    **dict.fromkeys(("got_ocr2", "qianfan_ocr"), TILES),
    "granite_docling": (*TILES, "fine_route", "get_tile_grid"),
    "minicpm_ocr": (
        *("max_slice_nums", "scale_resolution", "patch_size", "slice_mode", "downsample_mode", "use_image_id"),
        *("small_image_upsize", "get_sliced_grid", "find_best_resize", "get_refine_size"),
    ),
}


def _renamed(name: str, reader: Reader) -> list[str]:
    """Return what a family relies on and this transformers has not, in words."""
    images, family = reader.builder.image_processor, FAMILIES[name]
    parts = {part for part, _ in reader.model.named_modules()}
    absent = [f"{type(images).__name__}.{one}" for one in RELIED_ON[name] if not hasattr(images, one)]
    absent += [f"{type(reader.model).__name__}.{one}" for one in (family.vision, family.language) if one not in parts]
    return [f"{name}: transformers {transformers.__version__} has no {one}" for one in absent]


def test_transformers_has_what_a_family_relies_on(name: str, reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not _renamed(name, reader)
    images = reader.builder.image_processor
    held = RELIED_ON[name][-1]
    for owner in (images, *type(images).__mro__):
        if held in vars(owner):
            monkeypatch.delattr(owner, held)
    version, kind = transformers.__version__, type(images).__name__
    assert _renamed(name, reader) == [f"{name}: transformers {version} has no {kind}.{held}"]
