from dataclasses import FrozenInstanceError, replace

import pytest

from ocrlab.reading.settings import (
    SettingError,
    Settings,
    load_preset,
    load_prompts,
    make_settings,
    preset_names,
    with_prompt,
)


def test_settings_are_values() -> None:
    base = Settings()
    assert replace(base, max_pixels=50176).max_pixels == 50176
    assert base.max_pixels is None
    with pytest.raises(FrozenInstanceError):
        base.max_pixels = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"dtype": "bf16"}, "bfloat16"),
        ({"attn_implementation": "flash_attn_2"}, "did you mean 'flash_attention_2'"),
        ({"sdpa_kernel": "flash", "attn_implementation": "eager"}, "needs attn_implementation='sdpa'"),
        ({"attn_implementation": "flash_attention_2", "dtype": "float32"}, "bfloat16 or float16 only"),
        ({"temperature": 0.7}, "set do_sample=True"),
        ({"min_pixels": 100, "max_pixels": 50}, "above max_pixels"),
        ({"min_new_tokens": 2000}, "above max_new_tokens"),
        ({"compile": True}, "cache_implementation='static'"),
        ({"max_pixels": "50176"}, "is a str"),
        ({"max_pixels": True}, "is a bool"),
        ({"batch_size": 0}, "give 1 or more"),
        ({"top_p": 1.5, "do_sample": True}, "at most 1.0"),
        ({"device": "gpu"}, "cuda"),
        ({"prompt": "  "}, "must not be empty"),
        ({"system_prompt": " "}, "system_prompt must not be empty"),
        ({"system_prompt": 3}, "is a int"),
    ],
)
def test_impossible_settings_say_what_to_do(values: dict, says: str) -> None:
    with pytest.raises(SettingError, match=says.replace("(", r"\(")):
        Settings(**values)


def test_unknown_setting_suggests_the_nearest() -> None:
    with pytest.raises(SettingError, match="did you mean 'max_pixels'"):
        make_settings({"maxpixels": 1})


def test_views_hold_what_was_asked_and_nothing_else() -> None:
    settings = Settings(max_pixels=50176, repetition_penalty=None, do_sample=None)
    assert settings.generate_kwargs() == {"max_new_tokens": 1024, "num_beams": 1, "no_repeat_ngram_size": 0}


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_loads_and_survives_a_round_trip(preset: str, tmp_path) -> None:
    settings = load_preset(preset)
    again = tmp_path / "again.yaml"
    again.write_text(settings.to_yaml(), encoding="utf-8")
    assert load_preset(again) == settings


def test_presets_that_cannot_be(tmp_path) -> None:
    with pytest.raises(SettingError, match="the package has"):
        load_preset("tinny")
    broken = tmp_path / "broken.yaml"
    broken.write_text("dtype: [", encoding="utf-8")
    with pytest.raises(SettingError, match=r"broken\.yaml: not a YAML file"):
        load_preset(broken)
    broken.write_text("- a list", encoding="utf-8")
    with pytest.raises(SettingError, match="holds `name: value` lines"):
        load_preset(broken)


def test_a_preset_of_several_cards_asks_which() -> None:
    with pytest.raises(SettingError, match="give one of blackwell-8gb, blackwell-12gb, blackwell-16gb, blackwell-32gb"):
        load_preset("blackwell")
    with pytest.raises(SettingError, match="give one of blackwell-8gb"):
        load_preset("blackwell-24gb")


def test_prompts_load_by_name_and_make_settings() -> None:
    base, known = Settings(max_pixels=50176, system_prompt="Be exact"), load_prompts()
    assert {"usual", "plain", "lines", "markdown", "language", "russian", "ocr", "system"} <= set(known)
    for name, words in known.items():
        made = with_prompt(base, name)
        assert made == replace(base, prompt=words.prompt, system_prompt=words.system_prompt), name
        assert words.purpose and "\n" not in words.prompt and words.prompt == words.prompt.strip(), name
    assert with_prompt(base, "usual").prompt == Settings().prompt and known["system"].system_prompt
    assert with_prompt(base, "OCR!") == replace(base, prompt="OCR!", system_prompt=None)
    with pytest.raises(SettingError, match="did you mean 'plain'"):
        with_prompt(base, "plian")


def test_the_2b_s_presets_ask_for_the_text_alone() -> None:
    asked = {name: load_preset(name).prompt for name in preset_names()}
    plain = {name for name, words in asked.items() if words == load_prompts()["plain"].prompt}
    assert plain == {"qwen2-vl-2b", "fast", *(f"blackwell-{size}gb" for size in (8, 12, 16, 32))}
    assert {words for name, words in asked.items() if name not in plain} == {Settings().prompt}


def test_quantised_random_weights_are_refused() -> None:
    with pytest.raises(SettingError, match="give weights='pretrained'"):
        Settings(weights="dummy", quantization="int8")
