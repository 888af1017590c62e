"""One variant against another: the same text, the first letter that differs, CER in pairs; ratios and failures."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from ocrlab.pages import Page, load_pages
from ocrlab.reading.settings import Settings
from ocrlab.study.compare import contrast, failures, name_variants, ratio, ratio_words
from ocrlab.study.experiment import readings_of, run_experiment

SDPA = Settings(dtype="float32", max_new_tokens=40)
FLASH_2 = replace(SDPA, dtype="bfloat16", attn_implementation="flash_attention_2")


pytestmark = pytest.mark.usefixtures("own_quarantine")


@pytest.fixture(scope="module")
def pages() -> list[Page]:
    return load_pages("lines", limit=2)


def test_contrast_of_real_readings(pages: list[Page], tmp_path: Path) -> None:
    runs = [SDPA, replace(SDPA, attn_implementation="eager"), replace(FLASH_2, dtype="bfloat16")]
    rows = name_variants(run_experiment("c", runs, pages, folder=tmp_path))
    table = contrast(rows, readings_of("c", tmp_path), "sdpa").set_index("variant")
    assert table.loc["eager", "same_text"] == 1 and table.loc["eager", "kind"] == "not worse"
    assert table.loc["sdpa", "words"] == "the one compared with" and table.loc["sdpa", "pages"] == 2
    assert table.loc["flash_attention_2", "pages"] == 0 and table.loc["flash_attention_2", "status"] == "unsupported"
    assert pd.isna(table.loc["flash_attention_2", "cer"]) and pd.isna(table.loc["flash_attention_2", "same_text"])

    other = readings_of("c", tmp_path)
    eager = set(rows[rows["variant"] == "eager"]["key"])
    other.loc[other["key"].isin(eager), "text"] += "x"
    table = contrast(rows, other, "sdpa").set_index("variant")
    assert table.loc["eager", "same_text"] == 0 and table.loc["eager", "first_difference"] > 0


def test_random_weights_leave_quality_empty(pages: list[Page], tmp_path: Path) -> None:
    dummy = replace(SDPA, weights="dummy", max_new_tokens=4)
    rows = name_variants(
        run_experiment("d", [dummy, replace(dummy, attn_implementation="eager")], pages, folder=tmp_path)
    )
    table = contrast(rows, readings_of("d", tmp_path), "sdpa")
    assert table["cer"].isna().all() and (table["kind"] == "").all() and (table["pages"] == 2).all()


def lines(**variants: list[float]) -> pd.DataFrame:
    """Rows of pages p0, p1, … with `kl_mean` and `page_s` of the given values; NaN did not run."""
    return pd.DataFrame(
        [
            {
                "variant": variant.replace("__", ", "),
                "page": f"p{i}",
                "kl_mean": value,
                "page_s": value,
                "reference": "ok",
                "status": "ok" if value == value else "invalid",
                "reason": "" if value == value else "NaN in logits",
            }
            for variant, values in variants.items()
            for i, value in enumerate(values)
        ]
    )


def test_ratios_are_paired() -> None:
    base = [1.0, 2.0, 4.0, 8.0, 1.0, 2.0]
    rows = lines(a=[2 * value for value in base], b=base, c=[2.0, 1.0, 8.0, 4.0, 2.0, 1.0])
    assert ratio_words(rows, "kl_mean", "a", "b") == "2 times b's (2 to 2 over 6 pairs)"
    assert "no difference seen" in ratio_words(rows, "kl_mean", "c", "b")
    assert ratio_words(rows, "kl_mean", "a", "z") == "not compared with z"
    few = lines(a=[2.0, 4.0], b=[1.0, 2.0])
    assert ratio_words(few, "kl_mean", "a", "b") == "2 times b's (2 pairs, too few for an interval)"
    thrice = pd.concat([few.assign(repeat=i) for i in range(3)])
    assert ratio_words(thrice, "kl_mean", "a", "b") == "2 times b's (2 to 2 over 6 pairs)"
    found = ratio(rows, "kl_mean", "a", "b")
    assert found is not None and found == (pytest.approx(2), pytest.approx(2), pytest.approx(2), 6)
    assert ratio(few, "kl_mean", "a", "b") == (2, None, None, 2) and ratio(rows, "kl_mean", "a", "z") is None
    assert ratio_words(lines(a=[0.0], b=[0.0]), "kl_mean", "a", "b") == "the same as b's"


def test_failures_are_the_variants_own() -> None:
    broken = lines(a=[1.0, math.nan])
    assert failures(broken, "a") == (1, 2, "NaN in logits")
    assert failures(broken.assign(reference=["ok", "error"]), "a") == (0, 1, ""), (
        "a bad page is not the variant's fault"
    )
