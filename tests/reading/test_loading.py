"""Weights in 8 and 4 bits: asked, applied, read back; refused with the reason where a library or a width is missing."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModelForImageTextToText

from ocrlab import paths
from ocrlab.pages import Page, load_pages
from ocrlab.reading import loading
from ocrlab.reading.loading import Unsupported
from ocrlab.reading.reader import open_reader
from ocrlab.reading.settings import SettingNotApplied, Settings
from tests.reading.test_families import IDS, TEXT


@pytest.fixture(scope="module")
def pages() -> list[Page]:
    return load_pages("lines", limit=3)


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """A random Qwen2-VL whose rows are multiples of 64 weights, as the real ones are."""
    return qwen2_vl(tmp_path)


def qwen2_vl(folder: Path, intermediate_size: int = 128) -> Path:
    """Return the folder with a random Qwen2-VL in it."""
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
    config = AutoConfig.for_model(
        "qwen2_vl",
        tie_word_embeddings=True,
        **IDS,
        text_config=TEXT | {"intermediate_size": intermediate_size, "rope_parameters": rope},
        vision_config={
            "depth": 2,
            "embed_dim": 64,
            "hidden_size": 64,
            "num_heads": 2,
            "mlp_ratio": 2,
            "patch_size": 8,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
    )
    torch.manual_seed(0)
    AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "preprocessor_config.json"):
        shutil.copy(paths.MODELS / "tiny" / name, folder)
    return folder


def test_int8_is_read_back_takes_a_third_and_still_reads(pages: list[Page]) -> None:
    pytest.importorskip("torchao", reason="torchao is not installed")
    with open_reader(Settings(dtype="float32")) as reader:
        plain, texts = reader.weight_bytes, [r.text for r in reader.read(pages)]
        assert reader.actual["actual_quantization"] is reader.actual["actual_quantization_left_out"] is None
    with open_reader(Settings(dtype="float32", quantization="int8")) as reader:
        assert reader.actual["actual_quantization"] == "int8"
        assert reader.actual["actual_quantization_left_out"] == [], "all linear layers but the head"
        assert plain / 4 < reader.weight_bytes < plain / 3, "all but embedding, norms and patches are a quarter"
        read = [r.text for r in reader.read(pages)]
    assert sum(a == b for a, b in zip(texts, read, strict=True)) >= 2


def test_nf4_reads_where_the_widths_allow_it(wide: Path, pages: list[Page]) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    settings = Settings(model_id=str(wide), dtype="float32", quantization="nf4", max_new_tokens=4, min_new_tokens=4)
    with open_reader(settings) as reader:
        assert reader.actual["actual_quantization"] == "nf4" and reader.actual["actual_dtype"] == "float32"
        assert reader.actual["actual_quantization_left_out"] == ["model.visual"]
        seeing = {n: m for n, m in reader.model.model.visual.named_modules() if hasattr(m, "weight")}
        assert {m.weight.dtype for m in seeing.values()} == {torch.float32}, "4 bits there break the 2B"
        (linear,) = [m for n, m in reader.model.named_modules() if n.endswith("layers.0.self_attn.q_proj")]
        assert loading.stored_bytes(linear) >= 64 * 64 // 2 + 64 * 64 // 64 * 4, "a nibble each, a scale for 64"
        assert reader.read(pages[0]).tokens


def test_nf4_on_a_cpu_names_the_layer_whose_width_is_not_taken(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    narrow = qwen2_vl(tmp_path, intermediate_size=96)
    with pytest.raises(
        Unsupported, match=r"multiple of 64 weights there, and model\.language_model.*down_proj has 96; use"
    ):
        open_reader(Settings(model_id=str(narrow), dtype="float32", quantization="nf4"))


def test_the_embedded_reader_reads_in_four_bits(pages: list[Page]) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    with open_reader(Settings(dtype="float32", quantization="nf4")) as reader:
        assert all(len(reading.text) > 3 for reading in reader.read(pages))


def test_nf4_that_took_the_vision_tower_too_stops(monkeypatch: pytest.MonkeyPatch, wide: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    everything = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    monkeypatch.setattr(loading, "quantization_config", lambda *_: everything)
    with pytest.raises(SettingNotApplied, match=r"quantization_left_out: asked for \['model.visual'\], but \[\]"):
        open_reader(Settings(model_id=str(wide), dtype="float32", quantization="nf4"))


@pytest.mark.parametrize(
    ("own", "stored"),
    [
        ({"quant_method": "gptq", "bits": 4}, "gptq, 4 bits"),
        ({"quant_method": "awq", "bits": 4}, "awq, 4 bits"),
        ({"quant_method": "compressed-tensors"}, "compressed-tensors"),
    ],
)
def test_a_checkpoint_that_comes_quantised_is_loaded_or_refused_by_name(own: dict, stored: str, wide: Path) -> None:
    file = wide / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"quantization_config": own}))
    with pytest.raises(Unsupported, match=f"quantization='int8': the weights .* are stored as {stored} already"):
        open_reader(Settings(model_id=str(wide), quantization="int8"))
    with pytest.raises(Unsupported, match=f"its weights are stored as {stored}, which cannot be loaded here"):
        open_reader(Settings(model_id=str(wide)))


def test_a_checkpoint_in_fp8_computes_in_the_dtype_on_a_cpu_and_says_so(wide: Path) -> None:
    file = wide / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"quantization_config": {"quant_method": "fp8"}}))
    with open_reader(Settings(model_id=str(wide), dtype="float32", device="cpu", max_new_tokens=2)) as reader:
        assert reader.actual["actual_quantization"] is None, "transformers dequantizes it where there is no GPU"
        assert reader.weight_bytes == sum(4 * p.numel() for p in reader.model.parameters())


def test_a_checkpoint_in_four_bits_says_so(wide: Path, tmp_path: Path, pages: list[Page]) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    settings = Settings(model_id=str(wide), dtype="float32", quantization="nf4", max_new_tokens=4, min_new_tokens=4)
    with open_reader(settings) as reader:
        reader.model.save_pretrained(tmp_path / "nf4")
        text = reader.read(pages[0]).text
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "preprocessor_config.json"):
        shutil.copy(wide / name, tmp_path / "nf4")
    with open_reader(replace(settings, model_id=str(tmp_path / "nf4"), quantization=None)) as reader:
        assert reader.actual["actual_quantization"] == "nf4"
        assert reader.actual["actual_quantization_left_out"] == ["model.visual"]
        assert reader.read(pages[0]).text == text


def test_a_missing_library_is_named_before_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "find_spec", lambda _: None)
    with pytest.raises(Unsupported, match="torchao is not installed; pip install torchao"):
        open_reader(Settings(quantization="int8"))


def test_quantization_that_did_not_happen_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchao", reason="torchao is not installed")
    monkeypatch.setattr(loading, "quantization_config", lambda *_: None)
    with pytest.raises(SettingNotApplied, match="quantization: asked for 'int8', but None is in force"):
        open_reader(Settings(quantization="int8"))


def test_the_tests_here_cover_every_kind() -> None:
    assert set(loading.MODULES) == set(loading.BYTES_PER_WEIGHT) == {"int8", "nf4"}
    assert json.dumps(Settings(quantization="nf4").as_dict())


def test_a_compiled_batch_that_gives_nan_on_sm_120_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    static = Settings(cache_implementation="static", compile=True, max_new_tokens=3000, max_pixels=784 * 1096)
    below, above = replace(static, batch_size=15), replace(static, batch_size=16)  # 61,440 and 65,536 tokens
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (12, 0))
    loading.refuse_compiled(below, "cuda")
    with pytest.raises(Unsupported, match=r"65,536 may come; lower batch_size, or leave compile out") as caught:
        loading.refuse_compiled(above, "cuda")
    assert "171389" in str(caught.value)
    for spared in (replace(above, compile=False), replace(above, attn_implementation="eager")):
        loading.refuse_compiled(spared, "cuda")
    with pytest.raises(Unsupported, match="171389"):
        loading.refuse_before_loading(above, "cuda", "bfloat16")
    loading.refuse_before_loading(above, "cpu", "float32")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    loading.refuse_compiled(above, "cuda")


def test_other_settings_of_a_loaded_model_are_guarded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with open_reader(Settings()) as reader:
        reader.device = "cuda"  # as it would be on a card
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (12, 0))
        more = {"cache_implementation": "static", "compile": True, "batch_size": 64, "max_new_tokens": 1024}
        with pytest.raises(Unsupported, match="171389"):
            reader.apply(replace(reader.settings, **more))
