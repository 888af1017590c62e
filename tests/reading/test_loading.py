"""Weights in 8 and 4 bits: asked, applied, read back; refused with the reason where a library or a width is missing."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
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
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
    config = AutoConfig.for_model(
        "qwen2_vl",
        tie_word_embeddings=True,
        **IDS,
        text_config=TEXT | {"intermediate_size": 128, "rope_parameters": rope},
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
    AutoModelForImageTextToText.from_config(config).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "preprocessor_config.json"):
        shutil.copy(paths.MODELS / "tiny" / name, tmp_path)
    return tmp_path


def test_int8_is_read_back_takes_a_third_and_still_reads(pages: list[Page]) -> None:
    pytest.importorskip("torchao", reason="torchao is not installed")
    with open_reader(Settings(dtype="float32")) as reader:
        plain, texts = reader.weight_bytes, [r.text for r in reader.read(pages)]
        assert reader.actual["actual_quantization"] is None
    with open_reader(Settings(dtype="float32", quantization="int8")) as reader:
        assert reader.actual["actual_quantization"] == "int8"
        assert plain / 4 < reader.weight_bytes < plain / 3, "all but embedding, norms and patches are a quarter"
        read = [r.text for r in reader.read(pages)]
    assert sum(a == b for a, b in zip(texts, read, strict=True)) >= 2


def test_nf4_reads_where_the_widths_allow_it(wide: Path, pages: list[Page]) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    settings = Settings(model_id=str(wide), dtype="float32", quantization="nf4", max_new_tokens=4, min_new_tokens=4)
    with open_reader(settings) as reader:
        assert reader.actual["actual_quantization"] == "nf4" and reader.actual["actual_dtype"] == "float32"
        (linear,) = [m for n, m in reader.model.named_modules() if n.endswith("layers.0.self_attn.q_proj")]
        assert loading.stored_bytes(linear) >= 64 * 64 // 2 + 64 * 64 // 64 * 4, "a nibble each, a scale for 64"
        assert reader.read(pages[0]).tokens


def test_nf4_on_a_cpu_names_the_layer_whose_width_is_not_taken() -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    with pytest.raises(Unsupported, match=r"multiple of 64 weights there, and model\..* has \d+; use"):
        open_reader(Settings(dtype="float32", quantization="nf4"))


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
    loading.refuse_compiled(below, (12, 0))
    with pytest.raises(Unsupported, match=r"65,536 may come; lower batch_size, or leave compile out") as caught:
        loading.refuse_compiled(above, (12, 0))
    assert "171389" in str(caught.value)
    for spared, card in (
        (above, (9, 0)),
        (replace(above, compile=False), (12, 0)),
        (replace(above, attn_implementation="eager"), (12, 1)),
    ):
        loading.refuse_compiled(spared, card)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (12, 0))
    with pytest.raises(Unsupported, match="171389"):
        loading.refuse_before_loading(above, "cuda", "bfloat16")
    loading.refuse_before_loading(above, "cpu", "float32")
