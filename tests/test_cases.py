"""Each kind of fault that others reported keeps a test that protects against it: the ledger falls where one is gone."""

from __future__ import annotations

import ast
from functools import cache

import pytest

from tests.test_project import ROOT

#: Kinds by number and what protects against them; a few words say what others saw.
CASES: dict[int, tuple[str, tuple[str, ...]]] = {
    1: (
        "float16 overflows at some sizes of an image (ggml-org/llama.cpp#17534)",
        (
            "tests/reading/test_nonfinite.py::test_float16_overflow_is_traced_with_the_size_of_what_went_in",
            "tests/experiments/test_dtype.py::test_headroom_is_measured_on_the_smallest_and_the_largest_page",
        ),
    ),
    2: (
        "a page without a limit wants 67 GiB (Tencent-Hunyuan/HunyuanOCR#114)",
        (
            "tests/experiments/test_limits.py::test_tables_over_cards",
            "tests/reading/test_limits.py::test_what_fits_which_card",
            "tests/reading/test_limits.py::test_a_page_without_a_limit_is_refused_with_the_budget_that_fits",
        ),
    ),
    3: (
        "more pixels read worse (unslothai/unsloth#1371)",
        (
            "tests/experiments/test_recommend.py::test_what_reads_better_but_slower_is_what_the_others_are_held_against",
            "tests/study/test_sources.py::test_04_says_when_more_pixels_read_worse",
        ),
    ),
    4: (
        "a page is drawn small, then shrunk (docling-project/docling#1807)",
        (
            "tests/pages/test_documents.py::test_the_size_that_is_planned_is_the_size_that_is_drawn",
            "tests/reading/test_inputs.py::test_a_pdf_page_is_drawn_once_and_fills_its_budget",
        ),
    ),
    5: (
        "a batch gives other results than one by one (QwenLM/Qwen3-VL#1956)",
        (
            "tests/reading/test_reader.py::test_batches_give_the_same_texts_as_single_pages",
            "tests/experiments/test_fast_path.py::test_a_step_that_reads_something_else_is_seen",
            "tests/reading/test_every_family.py::test_a_batch_of_pages_of_different_sizes_reads_as_one_by_one",
        ),
    ),
    6: (
        "repeated digits are dropped; prompts do not carry over (QwenLM/Qwen3-VL#1822)",
        (
            "tests/scoring/test_metrics_digits.py::test_digits_kept_by_hand",
            "tests/experiments/test_prompts.py::test_the_prompt_that_gets_the_text_alone_is_found",
        ),
    ),
    7: (
        "a tied head is not seen (huggingface/transformers#45857)",
        (
            "tests/reading/test_checkpoints.py::test_a_missing_weight_is_refused_and_not_made_up",
            "tests/reading/test_checkpoints.py::test_a_tied_head_that_only_the_texts_config_names_is_read_right_or_refused",
        ),
    ),
    8: (
        "pixel limits under the old or new spelling (vllm-project/vllm#33208)",
        (
            "tests/commands/test_card_profile.py::test_budgets_in_image_tokens_arrived_in_pixels_against_the_old_spelling",
            "tests/reading/test_checkpoints.py::test_pixel_limits_of_a_checkpoint_arrive_in_either_spelling",
        ),
    ),
    9: (
        "a blank page gives invented text (rednote-hilab/dots.ocr#292)",
        (
            "tests/study/test_flags.py::test_blank_images",
            "tests/study/test_flags.py::test_a_server_s_text_of_a_blank_page_is_flagged",
        ),
    ),
    10: (
        "the whole text again and again, then a proper end (zai-org/GLM-OCR#220)",
        ("tests/study/test_flags.py::test_repeated_by_hand",),
    ),
    11: (
        "a context that is too short leaves empty fences (zai-org/GLM-OCR#32)",
        (
            "tests/reading/test_server_answers.py::test_a_fault_costs_its_page_and_says_why",
            "tests/reading/test_server_answers.py::test_an_early_length_is_a_full_context_though_the_server_does_not_tell_its_size",
        ),
    ),
    12: (
        "an image is longer than the encoder's cache (vllm-project/vllm#34040)",
        (
            "tests/reading/test_server_answers.py::test_a_fault_costs_its_page_and_says_why",
            "tests/reading/test_server_answers.py::test_what_does_not_fit_is_read_at_fewer_pixels",
        ),
    ),
    13: (
        "every page comes back as page one (waybarrios/vllm-mlx#718)",
        (
            "tests/reading/test_server_answers.py::test_a_cache_that_looks_at_the_prompt_alone_is_found_when_the_server_is_opened",
            "tests/study/test_flags.py::test_a_text_of_another_page",
        ),
    ),
    14: (
        "a server ignores EXIF's rotation (sgl-project/sglang#33449)",
        ("tests/reading/test_server_answers.py::test_a_server_gets_upright_pixels",),
    ),
    15: (
        "the text comes as reasoning (ollama/ollama#14502)",
        ("tests/reading/test_server_answers.py::test_a_fault_costs_its_page_and_says_why",),
    ),
    16: (
        "no finish reason: blank and broken answers look alike (nyxtron/paperless-aissist#45)",
        ("tests/reading/test_server_answers.py::test_a_fault_costs_its_page_and_says_why",),
    ),
    17: (
        "a server's text differs by a letter or two (vllm-project/vllm#31963)",
        ("tests/experiments/test_engines.py::test_single_letters_are_listed_by_what_they_became_and_digits_apart",),
    ),
    18: (
        "compiled SDPA gives NaN on sm_120 (pytorch/pytorch#171389)",
        (
            "tests/reading/test_loading.py::test_a_compiled_batch_that_gives_nan_on_sm_120_is_refused",
            "tests/machine/test_doctor.py::test_what_ocrlab_keeps_clear_of_is_no_warning",
        ),
    ),
    19: (
        "a compiled setting is six times slower (sgl-project/sglang#35777)",
        ("tests/experiments/test_recommend.py::test_a_compiled_setting_that_measures_slower_is_never_advice",),
    ),
    20: (
        "no wheel of flash-attn for this torch (Dao-AILab/flash-attention#2361)",
        ("tests/machine/test_doctor.py::test_a_remedy_is_one_that_works_on_that_system",),
    ),
    21: (
        "the other GPU, two CUDA libraries, memory spilled without an error (vllm-project/vllm#41614)",
        (
            "tests/machine/test_doctor.py::test_a_remedy_is_one_that_works_on_that_system",
            "tests/experiments/test_limits.py::test_the_doctor_hears_what_a_run_measured_of_this_card",
        ),
    ),
    22: (
        "a backend falls back, and the GPU idles (opendatalab/MinerU#5121)",
        ("tests/experiments/test_limits.py::test_a_low_share_of_the_floor_has_a_word",),
    ),
    23: (
        "4 bits on all layers break the eyes (unslothai/unsloth)",
        (
            "tests/reading/test_loading.py::test_nf4_reads_where_the_widths_allow_it",
            "tests/reading/test_loading.py::test_nf4_that_took_the_vision_tower_too_stops",
        ),
    ),
    24: (
        "filled form fields are not drawn (pypdfium2)",
        (
            "tests/pages/test_forms.py::test_fields_are_drawn_as_they_are_filled_in",
            "tests/pages/test_forms.py::test_the_embedded_reader_reads_what_was_filled_in",
        ),
    ),
    25: (
        "one looping page in sixty, and nothing is recommended",
        (
            "tests/experiments/test_recommend.py::test_one_page_in_sixty_that_loops_under_every_setting_costs_its_letters_and_seconds",
            "tests/study/test_summary.py::test_endings_give_the_interval_of_their_share",
        ),
    ),
}


@cache
def _tests_in(file: str) -> set[str]:
    path = ROOT / file
    tree = ast.parse(path.read_text(encoding="utf-8")) if path.is_file() else ast.Module([], [])
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_there_are_twenty_five_kinds() -> None:
    assert list(CASES) == list(range(1, 26)) and all(ids for _, ids in CASES.values())


@pytest.mark.parametrize("number", CASES)
def test_what_protects_against_a_kind_is_there(number: int) -> None:
    words, ids = CASES[number]
    for test in ids:
        file, name = test.split("::")
        assert name in _tests_in(file), f"{words}: {test} is gone"


def test_a_test_that_is_gone_is_noticed() -> None:
    assert "test_no_such_thing" not in _tests_in("tests/test_cases.py") and not _tests_in("tests/no_such_file.py")
