"""What lies over a PDF's page is drawn with it: fields as they are filled in, marks, stamps and comments."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageChops

from ocrlab.pages import Page, PageError, load_pages, page_size
from ocrlab.reading.reader import open_reader
from ocrlab.reading.settings import Settings
from tests.pages import pdfs

FORMS = Path(__file__).with_name("forms")
#: Where the name, the check mark and the choice stand in points, but for the whole page of LibreOffice.
PLACES = {"name": (22, 28, 140, 48), "mark": (23, 73, 37, 87), "choice": (63, 73, 120, 87)}
_HIDDEN, _NOT_PRINTED, _PRINTED = 2, 0, 4


def cut(image: Image.Image, place: tuple[float, ...], dpi: int = 150) -> Image.Image:
    return image.crop(tuple(round(side * dpi / 72) for side in place))


def ink(image: Image.Image) -> float:
    return float((np.asarray(image.convert("L")) < 90).mean())


@pytest.mark.parametrize("producer", ["reportlab", "pypdf", "pikepdf", "pymupdf"])
def test_fields_are_drawn_as_they_are_filled_in(producer: str) -> None:
    """ReportLab and PyMuPDF wrote values and appearances, pypdf filled a form, pikepdf filled it with values alone."""
    (page,) = load_pages(FORMS / f"{producer}.pdf")
    shown = {name: cut(page.open(), place) for name, place in PLACES.items()}
    assert all(0.02 < ink(part) < 0.5 for part in shown.values()), {name: ink(part) for name, part in shown.items()}


def test_the_embedded_reader_reads_what_was_filled_in(tmp_path: Path) -> None:
    for file in FORMS.glob("*.pdf"):
        place = (20, 20, 170, 50) if file.stem != "libreoffice" else (60, 29, 150, 46)
        cut(load_pages(file)[0].open(), place).save(tmp_path / f"{file.stem}.png")
    pages = load_pages(tmp_path)
    with open_reader(Settings(dtype="float32", max_new_tokens=24, batch_size=5)) as reader:
        texts = {reading.page: reading.text for reading in reader.read(pages)}
    assert len(texts) == 5 and {text.replace("I", "l") for text in texts.values()} == {"lvan Petrov"}, (
        texts
    )  # one shape


def annotated(folder: Path, kind: str, further: bytes = b"null") -> Image.Image:
    annotation = f"<</Type/Annot/Subtype/{kind}>>".encode()
    data = pdfs.one_page(pdfs.lines("Some text"), page="/Annots[8 0 R]" * bool(kind), further=[annotation, further])
    (folder / "p.pdf").write_bytes(data)
    return load_pages(folder / "p.pdf")[0].open()


_MARKED = "/Rect[40 340 160 365]/QuadPoints[40 365 160 365 40 340 160 340]/C[1 1 0]/F 4"
_STAMP = "Stamp/Rect[40 200 260 240]/AP<</N 9 0 R>>"


@pytest.mark.parametrize(
    ("kind", "drawn"),
    [
        (f"{_STAMP}/F {_PRINTED}", True),
        (f"{_STAMP}/F {_NOT_PRINTED}", True),
        (f"{_STAMP}/F {_HIDDEN}", False),
        *((f"{kind}{_MARKED}", True) for kind in ("Highlight", "Underline", "StrikeOut", "Squiggly")),
        ("Ink/Rect[40 200 160 260]/InkList[[40 200 100 260 160 200]]/C[0 0 1]/F 4", True),
        ("Text/Rect[40 200 60 220]/Contents(what pops up)/F 4", True),
        ("Stamp/Rect[40 200 260 240]/Name/Approved/F 4", False),
        ("Line/Rect[40 200 160 260]/L[40 200 160 260]/C[0 0 1]/F 4", False),
        ("Popup/Rect[40 200 260 240]/Open false/F 4", False),
    ],
)
def test_annotations_are_drawn_where_they_have_an_appearance_or_pdfium_makes_one(
    tmp_path: Path, kind: str, drawn: bool
) -> None:
    without = annotated(tmp_path, "")
    stamp = pdfs.stream(b"1 0 0 rg 0 0 220 40 re f", b"/Type/XObject/Subtype/Form/BBox[0 0 220 40]")
    with_it = annotated(tmp_path, kind, stamp)
    assert (ImageChops.difference(without, with_it).getbbox() is not None) == drawn
    # What is marked stays legible: its dark pixels are as before, but where a line is drawn over it.
    assert ink(with_it) > 0.8 * ink(without) > 0


def test_an_xfa_form_that_only_its_reader_draws_is_refused_by_name(tmp_path: Path) -> None:
    for name, needs in (("dynamic", "/NeedsRendering true"), ("static", "")):
        form = f"{needs}/AcroForm<</Fields[]/XFA 8 0 R>>"
        data = pdfs.one_page(pdfs.lines("Please wait..."), catalogue=form, further=[pdfs.stream(b"<xdp/>")])
        (tmp_path / f"{name}.pdf").write_bytes(data)
    dynamic, static = load_pages(tmp_path)
    assert static.open().size == page_size(static)
    for use in (Page.open, page_size):
        with pytest.raises(PageError, match=r"dynamic\.pdf: an XFA form.*print it to PDF"):
            use(dynamic)
