"""Our own sets: what they hold, and that every line is held out of training."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from functools import cache

import pytest
import yaml

from data.recipes.sampler import is_held_out
from ocrlab import paths
from ocrlab.pages import Page, load_pages
from ocrlab.pages.load import OWN_SETS

FOR_THE_EMBEDDED_READER = ("lines", "labels", "sizes")


@cache
def pages_of(name: str) -> tuple[Page, ...]:
    return tuple(load_pages(name))


def fonts_of(role: str) -> set[str]:
    listed = yaml.safe_load((paths.ROOT / "data" / "recipes" / "fonts.yaml").read_text(encoding="utf-8"))
    return {name for entry in listed if entry["role"] == role for name in entry["files"]}


@pytest.mark.parametrize("name", OWN_SETS)
def test_a_set_loads_whole(name: str) -> None:
    pages = pages_of(name)
    assert [page.problem for page in pages if page.problem] == []
    assert all(page.set == name and page.licence == "CC0-1.0" and page.font for page in pages)
    assert all(page.language in {"en", "ru", "mixed"} and page.kind and page.degradation for page in pages)
    assert all(page.truth for page in pages)
    assert len({page.id for page in pages}) == len({page.file for page in pages}) == len(pages)
    listed = (
        {page.file.name for page in pages} | {"manifest.jsonl"} | ({"boxes.jsonl"} if name == "documents" else set())
    )
    assert {file.name for file in (paths.PAGES / name).iterdir()} == listed
    assert min(page.open().size for page in pages) > (0, 0)


def test_counts() -> None:
    assert Counter(page.kind for page in pages_of("lines")) == {"training_font": 200, "held_out_font": 120}
    assert Counter(page.kind for page in pages_of("labels")) == {"label": 70, "long_label": 50}
    assert Counter(page.kind for page in pages_of("sizes")) == {f"{size}px": 20 for size in (12, 16, 24, 32, 44)}
    kinds = Counter(page.kind for page in pages_of("documents"))
    assert kinds.total() == 200 and len(kinds) == 16 and min(kinds.values()) >= 8


def test_every_language_clean_and_degraded() -> None:
    for name in ("lines", "labels"):
        pages = pages_of(name)
        languages = Counter(page.language for page in pages)
        assert min(languages[language] for language in ("en", "ru", "mixed")) >= len(pages) / 12
        clean = sum(page.degradation == "clean" for page in pages)
        assert 0.35 * len(pages) < clean < 0.65 * len(pages)
    documents = Counter(page.language for page in pages_of("documents"))
    assert min(documents["en"], documents["ru"]) >= 70 and documents["mixed"] >= 30
    done = Counter(word for page in pages_of("documents") for word in page.degradation.split("+"))
    assert 70 <= done["clean"] <= 100 and min(done[word] for word in ("skew", "camera", "fax", "light")) >= 15
    assert min(done["crumple"], done["coffee"]) >= 8


@pytest.mark.parametrize("name", FOR_THE_EMBEDDED_READER)
def test_every_line_is_held_out_of_training(name: str) -> None:
    lines = [line for page in pages_of(name) for line in (page.truth or "").split("\n")]
    assert [line for line in lines if not is_held_out(line)] == []
    assert [line for line in lines if line != " ".join(line.split())] == []


def test_lines_hardly_repeat() -> None:
    texts = [page.truth for name in ("lines", "sizes") for page in pages_of(name)]
    assert len(set(texts)) >= 0.98 * len(texts)


def test_line_counts_of_labels() -> None:
    for page in pages_of("labels"):
        low, high = {"label": (2, 4), "long_label": (5, 10)}[page.kind]
        assert low <= len((page.truth or "").split("\n")) <= high, page.id


def test_held_out_fonts_are_not_trained_on() -> None:
    trained, held_out = fonts_of("train"), fonts_of("held_out")
    assert trained and held_out and not trained & held_out
    for page in pages_of("lines"):
        assert page.font in {"training_font": trained, "held_out_font": held_out}[page.kind], page.id
    assert {page.font[:3] for page in pages_of("lines") if page.kind == "held_out_font"} == {"Rob", "PTF"}
    assert all(page.font in trained for page in pages_of("sizes"))
    assert any(page.font in held_out for page in pages_of("labels"))


def test_sizes_are_clean_and_narrow() -> None:
    for page in pages_of("sizes"):
        image = page.open()
        assert image.width <= 900 and set(page.degradation.split("+")) <= {"clean", "rotated"}
        assert image.getextrema() == ((0, 0),) * 3 or image.getextrema()[0][1] == 255, page.id


def test_the_sets_are_small_enough_for_git() -> None:
    files = [file for file in paths.PAGES.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 20_000_000
    assert [file for file in files if file.stat().st_size > (600_000 if file.suffix == ".jsonl" else 400_000)] == []


def test_manifest_hashes_are_of_the_files_in_git() -> None:
    for name in OWN_SETS:
        for line in (paths.PAGES / name / "manifest.jsonl").read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            assert hashlib.sha256((paths.PAGES / name / entry["file"]).read_bytes()).hexdigest() == entry["sha256"]
