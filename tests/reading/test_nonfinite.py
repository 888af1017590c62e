"""The tracer names where the first NaN arose: in a weight, in the vision tower, inside an attention function."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from ocrlab.pages import Page, load_pages
from ocrlab.reading.reader import Reader, open_reader
from ocrlab.reading.settings import Settings
from tests.experiments.cells import names_of

MODULES = (
    "model.language_model.layers.1.mlp.down_proj",
    "model.language_model.layers.0.input_layernorm",
    "model.visual.blocks.2.attn.qkv",
    "model.visual.merger.mlp.0",
    "lm_head",
)


@pytest.fixture(scope="module")
def page() -> Page:
    return load_pages("lines")[0]


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    with open_reader(Settings(dtype="float32", max_new_tokens=16)) as opened:
        yield opened


@pytest.mark.parametrize("module", MODULES)
def test_a_planted_nan_is_found_where_it_was_planted(reader: Reader, page: Page, module: str) -> None:
    healthy = reader.read(page)
    assert reader.trace_nonfinite(page) is None
    with names_of("06-assert")["planted_nan"](reader, module):
        found = reader.trace_nonfinite(page)
        assert reader.read(page).status == "invalid"
    assert found is not None and found.module == module and not found.made_inside
    assert found.nan > 0 and found.forward == 0 and found.dtype == "float32"
    assert f"at the output of {module}" in str(found)
    assert reader.read(page).text == healthy.text, "the weight is put back, and no hook stays"


def test_a_fault_inside_an_attention_function_names_the_module_around_it(
    reader: Reader, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch.nn.functional

    real = torch.nn.functional.scaled_dot_product_attention

    def late(query: torch.Tensor, key: torch.Tensor, *rest: object, **named: object) -> torch.Tensor:
        output = real(query, key, *rest, **named)  # type: ignore[arg-type]
        return output * float("inf") if query.shape[-2] == 1 and key.shape[-2] > query.shape[-2] else output

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", late)
    found = reader.trace_nonfinite(page)
    assert found is not None and found.module == "model.language_model.layers.0.self_attn"
    assert found.made_inside and found.forward == 1, "it arises at the first token after the prompt's"
    assert "inside model.language_model.layers.0.self_attn" in str(found) and "new token 1" in str(found)


def test_float16_overflow_is_traced_with_the_size_of_what_went_in(page: Page) -> None:
    half = Settings(dtype="float16", attn_implementation="eager", max_new_tokens=4)
    with open_reader(half) as reader:
        weight = reader.model.model.visual.blocks[0].attn.qkv.weight
        with torch.no_grad():
            weight *= 300
        found = reader.trace_nonfinite(page)
    assert found is not None and found.module.startswith("model.visual.blocks.0") and found.dtype == "float16"
