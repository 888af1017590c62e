"""Where truths come from: files beside pages, text layers of PDFs; and pages that are degraded when opened."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ocrlab import paths
from ocrlab.commands.cli import main
from ocrlab.pages import Page, PageError, degrade, load_pages, page_size, text_layer as layers
from ocrlab.study.records import row_of
from ocrlab.study.rereading import absent_pages, pages_by_hash
from tests.pages.pdfs import lines, one_page

TEXTS = ["A page that a program wrote", "carries its text with it"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A born-digital PDF, one with a truth beside it, a scan in a PDF, and an image without a truth."""
    for name, texts in (("born", TEXTS), ("known", TEXTS[::-1])):
        (tmp_path / f"{name}.pdf").write_bytes(one_page(lines(*texts, size=24), box="0 0 400 400"))
    (tmp_path / "known.p0001.gt.txt").write_text("what a person wrote", encoding="utf-8")
    Image.new("RGB", (80, 60), "white").save(tmp_path / "scan.pdf")
    shutil.copy(paths.PAGES / "lines" / "001.png", tmp_path / "z.png")
    return tmp_path


def test_a_truth_beside_goes_first_and_a_layer_that_is_none_says_why(folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    born, known, scan, image = load_pages(folder, truth="pdf")
    assert (born.truth, born.truth_source, born.problem) == ("\n".join(TEXTS), "pdf", "")
    assert (known.truth, known.truth_source) == ("what a person wrote", "file")
    assert (scan.truth, scan.truth_source, scan.refused) == (None, "", False)
    assert scan.problem == f"{folder / 'scan.pdf'}: page 1: no text layer" and scan.open().size
    assert (image.truth, image.truth_source, image.problem) == (None, "", "")
    assert [page.truth_source for page in load_pages(folder)] == ["", "file", "", ""]
    assert {page.truth_source for page in load_pages("lines", limit=2)} == {"file"}
    assert sorted(folder.rglob("*")) == before
    for wrong in ({"truth": "layer"}, {"degrade": "fax"}):
        with pytest.raises(PageError, match=r"is not known; there is"):
            load_pages(folder, **wrong)


def test_only_the_pages_that_are_taken_are_looked_into(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Path] = []
    real = layers.text_layer
    monkeypatch.setattr(layers, "text_layer", lambda file, number: looked.append(file) or real(file, number))
    load_pages(folder, truth="pdf", limit=1)
    assert looked == [folder / "born.pdf"]


def test_pages_of_a_store_have_their_layers_too(folder: Path) -> None:
    born, *_ = load_pages(f"file://{folder}", truth="pdf")
    assert born.truth == "\n".join(TEXTS) and born.truth_source == "pdf"


def test_what_a_folder_offers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["truth", str(folder)]) == 0
    assert [line.strip() for line in capsys.readouterr().out.splitlines()] == [
        "1 page: truth in the PDF's text layer (born.pdf#1)",
        "1 page: truth in a file (known.pdf#1)",
        "1 page: no truth: none beside it, and no PDF (z.png)",
        "1 page: no truth: no text layer (scan.pdf#1)",
    ]


def test_a_reading_says_which_truth_it_is_held_against(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["read", "--json", "--truth", "pdf", "--degrade", "scan", "--max_new_tokens", "8"]
    main([*asked, str(folder / "born.pdf"), str(folder / "scan.pdf")])
    born, scan = map(json.loads, capsys.readouterr().out.splitlines())
    assert (born["truth_source"], born["degrade"]) == ("pdf", "scan") and born["cer"] is not None
    assert scan["truth_source"] == "" and scan["cer"] is None


def test_a_record_of_before_still_gives_a_row() -> None:
    asked = {"min_new_tokens": None, "weights": "pretrained"}
    record = {"status": "ok", "text": "a", "truth": "a", "asked": asked, "actual": {}, "measured": {}}
    assert row_of(record)["cer"] == 0 and "truth_source" not in row_of(record)


def _pixels(page: Page) -> bytes:
    return page.open().tobytes()


def test_a_degraded_page_is_another_of_the_same_size_and_repeats(folder: Path) -> None:
    plain, scanned = load_pages(folder), load_pages(folder, degrade="scan")
    for one, other in zip(plain, scanned, strict=True):
        assert one.sha256 != other.sha256 and other.degrade == "scan" and one.id == other.id
        image = other.open()
        assert image.mode == "RGB" and image.size == one.open().size == page_size(other)
        assert image.tobytes() != _pixels(one) and image.tobytes() == _pixels(other)
    assert _pixels(scanned[0]) != _pixels(load_pages(folder / "born.pdf", dpi=151, degrade="scan")[0])


def test_degraded_pages_are_found_again_by_their_hash(folder: Path) -> None:
    (page, *_) = load_pages(folder, degrade="scan")
    here = pages_by_hash([folder])
    assert here[page.sha256] == page
    reading = {"set": page.set, "page": page.id, "page_sha256": page.sha256, "dpi": page.dpi, "degrade": "scan"}
    assert absent_pages([reading], here, [folder]) == {}
    page.file.write_bytes(page.file.read_bytes() + b"\n")
    assert "changed since" in absent_pages([reading], pages_by_hash([folder]), [folder])[page.id]


def test_every_machine_leaves_the_print_legible() -> None:
    page = Image.new("RGB", (900, 1200), "white")
    page.paste((0, 0, 0), (300, 400, 600, 500))
    seen = [np.asarray(degrade.scanned(page, f"{seed}").convert("L"), float) for seed in range(24)]
    assert all(image[430:470, 350:550].mean() + 60 < image[600:700, 350:550].mean() for image in seen)
    faxes = sum((image > 250).mean() > 0.9 for image in seen)
    assert 0 < faxes < len(seen) / 2, "some are faxes, and most are not"
    assert len({image.tobytes() for image in seen}) == len(seen)
