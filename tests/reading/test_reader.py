"""Every setting arrives, on a checkpoint whose own files say something else; failures are readings, not gaps."""

from __future__ import annotations

import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from ocrlab.pages import Page, load_pages
from ocrlab.reading import reader as reader_module
from ocrlab.reading.checkpoints import CheckpointError
from ocrlab.reading.loading import Unsupported
from ocrlab.reading.reader import PageReader, in_this_process, open_reader
from ocrlab.reading.settings import SettingNotApplied, Settings, same_load
from tests.conftest import QWEN_GENERATION

ASKED = {
    "dtype": "bfloat16",
    "attn_implementation": "eager",
    "device": "cpu",
    "min_pixels": 4096,
    "max_pixels": 16384,
    "max_new_tokens": 7,
    "min_new_tokens": 3,
    "do_sample": True,
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 5,
    "num_beams": 2,
    "repetition_penalty": 1.2,
    "no_repeat_ngram_size": 4,
    "cache_implementation": "static",
    "weights": "pretrained",
}
CHECKED_ELSEWHERE = {
    "model_id",
    "revision",
    "trust_remote_code",
    "sdpa_kernel",
    "prompt",
    "system_prompt",
    "compile",
    "batch_size",
    "seed",
    "quantization",
}


@pytest.fixture(scope="module")
def pages() -> list[Page]:
    return load_pages("lines", limit=4)


def test_the_tests_below_cover_every_setting() -> None:
    assert {f.name for f in fields(Settings)} == set(ASKED) | CHECKED_ELSEWHERE


@pytest.mark.parametrize("name", sorted(ASKED))
def test_setting_arrives_against_the_checkpoints_own_files(name: str, stubborn_checkpoint: Path) -> None:
    values = {name: ASKED[name]}
    if name in {"temperature", "top_p", "top_k"}:
        values["do_sample"] = True
    with open_reader(Settings(model_id=str(stubborn_checkpoint), **values)) as reader:
        assert reader.actual[f"actual_{name}"] == ASKED[name]


def test_what_is_left_to_the_checkpoint_is_recorded(stubborn_checkpoint: Path) -> None:
    settings = Settings(model_id=str(stubborn_checkpoint), do_sample=None, repetition_penalty=None)
    with open_reader(settings) as reader:
        for name, value in QWEN_GENERATION.items():
            assert reader.actual[f"actual_{name}"] == value
        assert (reader.actual["actual_min_pixels"], reader.actual["actual_max_pixels"]) == (3136, 12845056)


def test_greedy_drops_the_checkpoints_sampling_values(stubborn_checkpoint: Path) -> None:
    with open_reader(Settings(model_id=str(stubborn_checkpoint))) as reader:
        assert reader.actual["actual_temperature"] is None
        assert reader.actual["actual_repetition_penalty"] == 1.0


def test_pixel_limit_governs_the_image_that_is_read(stubborn_checkpoint: Path, pages: list[Page]) -> None:
    settings = Settings(model_id=str(stubborn_checkpoint), max_pixels=8192, max_new_tokens=1)
    with open_reader(settings) as reader:
        small = reader.read(pages[0])
        reader.apply(replace(settings, max_pixels=None))
        large = reader.read(pages[0])
        assert small.image_tokens * reader.builder.cell_pixels <= 8192
    assert small.image_tokens < large.image_tokens


def test_prompt_is_what_the_model_gets(pages: list[Page]) -> None:
    with open_reader(Settings(prompt="Что здесь?", max_new_tokens=1)) as reader:
        inputs = reader.builder.build([Image.new("RGB", (64, 32), "white")], reader.settings.prompt)
        assert "Что здесь?" in reader.builder.tokenizer.decode(inputs.tensors["input_ids"][0])
        assert inputs.image_tokens == (8,)
        with pytest.raises(ValueError, match="must not hold"):
            reader.builder.text("a <|image_pad|> b")


def test_system_prompt_is_what_the_model_gets_until_it_is_left_out(pages: list[Page]) -> None:
    base = Settings(max_new_tokens=1)

    def seen(reader: PageReader) -> str:
        here = in_this_process(reader)
        return str(here.builder.tokenizer.decode(here.tensors(Image.new("RGB", (64, 32), "white"))["input_ids"][0]))

    with open_reader(replace(base, system_prompt="Du liest. ")) as reader:
        assert seen(reader).startswith("<|im_start|>system\nDu liest. <|im_end|>\n<|im_start|>user\n")
        longer = reader.read(pages[0])
        reader.apply(base)
        assert seen(reader).startswith("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n")
        assert reader.read(pages[0]).prompt_tokens != longer.prompt_tokens
        reader.apply(replace(base, system_prompt="<|image_pad|>"))
        refused = reader.read(pages[0])
        assert refused.status == "error" and "must not hold <|image_pad|>" in refused.reason


@pytest.mark.parametrize("kernel", ["math", "flash"])
def test_sdpa_kernel_is_pinned_while_generating(kernel: str, pages: list[Page]) -> None:
    with open_reader(Settings(sdpa_kernel=kernel, max_new_tokens=2)) as reader:
        assert reader.actual["actual_sdpa_kernels"] == [kernel]
        seen = []
        reader.model.lm_head.register_forward_hook(
            lambda *_: seen.append((torch.backends.cuda.math_sdp_enabled(), torch.backends.cuda.flash_sdp_enabled()))
        )
        reader.read(pages[0])
    assert set(seen) == {(kernel == "math", kernel == "flash")}


def test_seed_decides_sampled_text(pages: list[Page]) -> None:
    settings = Settings(do_sample=True, temperature=3.0, max_new_tokens=24)
    with open_reader(settings) as reader:
        first, again = reader.read(pages[0]).text, reader.read(pages[0]).text
        reader.apply(replace(settings, seed=1))
        other = reader.read(pages[0]).text
    assert first == again != other


def test_cache_implementation_is_the_cache_that_generates(pages: list[Page], monkeypatch: pytest.MonkeyPatch) -> None:
    with open_reader(Settings(cache_implementation="static", max_new_tokens=2)) as reader:
        seen = []
        inner = reader.model.model.language_model
        inner.register_forward_pre_hook(
            lambda _m, _a, kwargs: seen.append(type(kwargs["past_key_values"]).__name__), with_kwargs=True
        )
        reader.read(pages[0])
    assert set(seen) == {"StaticCache"}


def test_static_caches_have_one_length_for_pages_of_like_size(pages: list[Page]) -> None:
    with open_reader(Settings(cache_implementation="static", max_new_tokens=8)) as reader:
        lengths = []
        reader.model.model.language_model.register_forward_pre_hook(
            lambda _m, _a, kwargs: lengths.append(kwargs["past_key_values"].layers[0].max_cache_len), with_kwargs=True
        )
        read = reader.read(pages)
        assert len({reading.prompt_tokens for reading in read}) > 1 and set(lengths) == {reader_module.CACHE_STEP}
        reader.apply(replace(reader.settings, max_new_tokens=400))
        reader.read(pages[0])
        reader.apply(replace(reader.settings, max_new_tokens=8))
        lengths.clear()
        reader.read(pages[0])
    assert set(lengths) == {reader_module.CACHE_STEP}, "a longer cache of other settings is not kept"


def test_batches_come_largest_first(pages: list[Page]) -> None:
    with open_reader(Settings(batch_size=2, max_new_tokens=2)) as reader:
        tokens = [reading.image_tokens for reading in reader.stream(load_pages("lines", limit=7))]
    firsts = [max(tokens[i : i + 2]) for i in range(0, 7, 2)]
    assert firsts == sorted(firsts, reverse=True) and len(set(firsts)) > 1


def test_a_setting_that_did_not_arrive_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "choose_dtype", lambda *_: reader_module_choice("bfloat16"))
    real = reader_module.load
    monkeypatch.setattr(reader_module, "load", lambda s, c, d, _dtype: real(s, c, d, "float32"))
    with pytest.raises(SettingNotApplied, match="dtype: asked for 'bfloat16', but 'float32' is in force"):
        open_reader(Settings(dtype="bfloat16"))


def reader_module_choice(value: str) -> object:
    from ocrlab.machine.describe import Choice

    return Choice(value, "test")


def test_batches_give_the_same_texts_as_single_pages(pages: list[Page]) -> None:
    with open_reader(Settings(max_new_tokens=24)) as reader:
        single = [reading.text for reading in reader.read(pages)]
    with open_reader(Settings(max_new_tokens=24, batch_size=3)) as reader:
        batched = reader.read(pages)
    assert [reading.text for reading in batched] == single
    assert {reading.batch_pages for reading in batched} == {3, 1}


def test_costs_add_up(pages: list[Page]) -> None:
    with open_reader(Settings(max_new_tokens=16)) as reader:
        reading = reader.read(pages[0])
    phases = reading.vision_s + reading.prefill_s + reading.decode_s
    assert reading.ttft_s == pytest.approx(reading.vision_s + reading.prefill_s)
    assert 0 < phases < reading.page_s
    assert reading.tokens > 1 and reading.peak_memory_bytes > 0


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a warm process is sampled, and keeps what it has")
def test_memory_follows_the_pixels_in_a_warm_process(pages: list[Page]) -> None:
    """An allocator that keeps its memory must not hide a reading's: small, large and small again."""
    large = max(load_pages("documents", limit=20), key=lambda page: page.file.stat().st_size)
    with open_reader(Settings(dtype="float32", max_new_tokens=2)) as reader:
        peaks = []
        for max_pixels in (8192, 262144, 8192):
            reader.apply(replace(reader.settings, max_pixels=max_pixels))
            peaks.append(reader.read(large).peak_memory_bytes)
    assert 0 < peaks[0] < peaks[1] > peaks[2] > 0
    assert peaks[1] > 2 * max(peaks[0], peaks[2])


def test_a_page_of_a_pdf_is_planned_and_read_like_the_image_in_it(pages: list[Page], tmp_path: Path) -> None:
    sheets = [page.open() for page in pages[:2]]
    sheets[0].save(tmp_path / "two.pdf", save_all=True, append_images=sheets[1:], resolution=150)
    drawn = load_pages(tmp_path / "two.pdf")
    with open_reader(Settings(max_new_tokens=24)) as reader:
        for one in drawn:
            one.open().save(tmp_path / "drawn.png")
            found, wanted = reader.read(one), reader.read(load_pages(tmp_path / "drawn.png")[0])
            assert (found.page, found.text) == (one.id, wanted.text) and wanted.text
            assert reader.size_of(one) == found.image_tokens > 0
        assert reader.size_of(replace(drawn[0], refused=True)) == 0


def test_bad_page_in_a_batch_costs_that_page_only(pages: list[Page], tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"")
    bad = replace(pages[0], id="bad", file=broken)
    with open_reader(Settings(max_new_tokens=8, batch_size=3)) as reader:
        readings = reader.read([pages[0], bad, pages[1]])
    assert [r.status != "error" for r in readings] == [True, False, True]
    assert "broken.png" in readings[1].reason


def test_nan_in_the_logits_is_invalid_though_greedy_hides_it(pages: list[Page]) -> None:
    with open_reader(Settings(max_new_tokens=4)) as reader:
        with torch.no_grad():
            reader.model.model.language_model.norm.weight[0] = float("nan")
        assert reader.read(pages[0]).status == "invalid"


def test_nan_when_sampling_is_invalid_too(pages: list[Page]) -> None:
    with open_reader(Settings(max_new_tokens=4, do_sample=True)) as reader:
        with torch.no_grad():
            reader.model.model.language_model.norm.weight[0] = float("nan")
        reading = reader.read(pages[0])
    assert reading.status == "invalid" and "sampling" in reading.reason


def test_out_of_memory_is_a_status(pages: list[Page], monkeypatch: pytest.MonkeyPatch) -> None:
    with open_reader(Settings(max_new_tokens=4)) as reader:
        hook = reader.model.lm_head.register_forward_pre_hook(lambda *_: torch.empty(1 << 60))
        assert reader.read(pages[0]).status == "oom"
        hook.remove()
        assert reader.read(pages[0]).status != "oom"


def test_truncated_and_fixed_length(pages: list[Page]) -> None:
    with open_reader(Settings(max_new_tokens=2)) as reader:
        cut = reader.read(pages[0])
        reader.apply(Settings(max_new_tokens=40, min_new_tokens=40))
        forced = reader.read(pages[0])
    assert (cut.status, cut.stop_reason, cut.tokens) == ("truncated", "length", 2)
    assert (forced.status, forced.tokens) == ("ok", 40) and "speed" in forced.reason


def test_empty_reading(pages: list[Page]) -> None:
    with open_reader(Settings()) as reader:
        reader.model.generation_config.suppress_tokens = None
        reader.model.generation_config.forced_eos_token_id = reader.model.generation_config.eos_token_id
        reader.model.generation_config.max_new_tokens = 1
        assert reader.read(pages[0]).status == "empty"


def test_missing_flash_attention_is_refused_before_loading() -> None:
    with pytest.raises(Unsupported, match="flash_attn is not installed"):
        open_reader(Settings(attn_implementation="flash_attention_2", dtype="bfloat16"))


def test_device_that_is_not_here() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(Unsupported, match="use device='cpu'"):
        open_reader(Settings(device="cuda"))


def test_damaged_weights_name_the_folder(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(CheckpointError, match="checkpoint: cannot be loaded"):
        open_reader(Settings(model_id=str(checkpoint)))


def test_settings_that_need_another_load_are_not_applied() -> None:
    with open_reader(Settings()) as reader, pytest.raises(ValueError, match="open another reader"):
        reader.apply(Settings(dtype="bfloat16"))
    assert same_load(Settings(), Settings(max_pixels=4096))


def test_hub_id_is_read_offline_from_its_cache(hub_cache: str, pages: list[Page]) -> None:
    settings = Settings(model_id="Qwen/Qwen2-VL-2B-Instruct", max_new_tokens=24)
    with open_reader(settings) as reader, open_reader(Settings(max_new_tokens=24)) as tiny:
        assert reader.actual["actual_revision"] == hub_cache
        assert reader.read(pages[0]).text == tiny.read(pages[0]).text


def test_auto_classes_load_the_embedded_reader() -> None:
    from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

    from ocrlab.paths import MODELS

    model = AutoModelForImageTextToText.from_pretrained(MODELS / "tiny")
    assert type(model).__name__ == "Qwen2VLForConditionalGeneration"
    assert (
        type(AutoImageProcessor.from_pretrained(MODELS / "tiny", backend="pil")).__name__ == "Qwen2VLImageProcessorPil"
    )
    tokenizer = AutoTokenizer.from_pretrained(MODELS / "tiny")
    for sign in "aZ9~ЯёЁ№°":
        assert len(tokenizer(sign)["input_ids"]) == 1
    assert sum(f.stat().st_size for f in (MODELS / "tiny").iterdir()) < 16_000_000


def test_dummy_weights_run_with_the_folders_shapes(checkpoint: Path, pages: list[Page]) -> None:
    (checkpoint / "model.safetensors").unlink()
    settings = Settings(model_id=str(checkpoint), weights="dummy", min_new_tokens=8, max_new_tokens=8)
    with open_reader(settings) as reader:
        reading = reader.read(pages[0])
        assert reader.actual["actual_weights"] == "dummy"
    assert (reading.status, reading.tokens) == ("ok", 8)
