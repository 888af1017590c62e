"""Text layers as truths: text and order against what was typeset, and each reason for which a layer is none."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from random import Random

import pytest
from PIL import Image, ImageDraw, ImageFont

from ocrlab.pages import PageError, load_pages
from ocrlab.pages.text_layer import Layer, text_layer
from ocrlab.scoring.metrics import character_edits
from tests.pages import pdfs
from tests.pages.pdfs import lines, one_page, prose, stream

FILLER = lines(*["A line of plain text, so that there are letters enough here."] * 3, y=60)


def layer_of(folder: Path, content: bytes, number: int = 1) -> Layer:
    (folder / "p.pdf").write_bytes(content)
    return text_layer(folder / "p.pdf", number)


def read(folder: Path, content: bytes) -> list[str]:
    """Return the lines of a page's layer, without the filler."""
    layer = layer_of(folder, content)
    assert layer.text is not None, layer.problem
    return [line for line in layer.text.split("\n") if not line.startswith("A line of plain")]


@pytest.fixture(scope="module", params=pdfs.FONTS)
def typeset(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> dict[str, Path]:
    return pdfs.drawn_by_chromium(tmp_path_factory.mktemp("typeset"), request.param)


@pytest.mark.parametrize("name", pdfs.typeset())
def test_typeset_pages_give_their_text_in_reading_order(typeset: dict[str, Path], name: str) -> None:
    layer = text_layer(typeset[name], 1)
    assert layer.text is not None, layer.problem
    assert character_edits(layer.text, "\n".join(pdfs.typeset()[name][1])).rate <= 0.005


PRODUCERS = Path(__file__).parent / "producers"
MADE: dict[str, list[str] | None] = json.loads((PRODUCERS / "typeset.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", MADE)
def test_pages_of_real_producers_give_what_was_typeset_or_are_refused(name: str) -> None:
    text, problem = text_layer(PRODUCERS / f"{name}.pdf", 1)
    printed = MADE[name]
    if printed is None:
        assert text is None and problem.startswith("the text layer is junk")
    else:
        assert text is not None, problem
        assert character_edits(text, "\n".join(printed)).rate <= 0.005


def test_words_are_broken_on_the_hyphenated_page(typeset: dict[str, Path]) -> None:
    text = text_layer(typeset["hyphenated"], 1).text or ""
    assert text.count("-\n") > 5 and "\u00ad" not in text and "\u2010" not in text


COLUMN = [[prose(f"{side}{n}", 7).replace(".", "") for n in range(8)] for side in "lr"]


def _cells(order: list[tuple[int, int]], cells: list[list[str]], step: int = 270) -> str:
    """Return page content with the cell of each (column, row) in this order."""
    return "".join(lines(cells[c][r], x=30 + step * c, y=360 - 13 * r, size=9) for c, r in order)


@pytest.mark.parametrize(
    "order",
    [
        [(c, r) for c in (0, 1) for r in range(8)],
        [(c, r) for r in range(8) for c in (0, 1)],
        [(c, r) for c in (1, 0) for r in range(8)],
    ],
    ids=["column by column", "sorted by height", "right one first"],
)
def test_columns_are_never_interleaved(tmp_path: Path, order: list[tuple[int, int]]) -> None:
    long = [[text[:40].ljust(40, "x") for text in side] for side in COLUMN]
    assert read(tmp_path, one_page(_cells(order, long))) == [*long[0], *long[1]]


@pytest.mark.parametrize("by_row", [True, False])
def test_a_table_is_read_row_by_row(tmp_path: Path, by_row: bool) -> None:
    cells = [[f"Part {n}" for n in range(8)], [f"{n * 7} pcs" for n in range(8)], [f"{n}99.00" for n in range(8)]]
    order = [(c, r) for r in range(8) for c in (2, 0, 1)]
    expected = [" ".join(row) for row in zip(*cells, strict=True)]
    assert read(tmp_path, one_page(_cells(order if by_row else order[::-1], cells, 150))) == expected


def test_a_dense_table_keeps_its_cells_apart(tmp_path: Path) -> None:
    cells = [[f"{column}.{row}" for row in range(40)] for column in range(12)]
    content = "".join(lines(cells[c][r], x=20 + 48 * c, y=390 - 8 * r, size=5) for r in range(40) for c in range(12))
    assert read(tmp_path, one_page(content)) == [" ".join(row) for row in zip(*cells, strict=True)]


def test_lines_are_put_in_order_whatever_the_file_has(tmp_path: Path) -> None:
    texts = [prose(f"line{n}", 9) for n in range(20)]
    shuffled = Random(1).sample(range(20), 20)
    content = "".join(lines(texts[n], y=370 - 16 * n) for n in shuffled)
    assert read(tmp_path, one_page(content)) == texts


@pytest.mark.parametrize("seed", range(8))
def test_no_letter_is_lost_or_doubled_wherever_words_lie(tmp_path: Path, seed: int) -> None:
    rng = Random(seed)
    texts = [prose(f"{seed}{n}", rng.randrange(1, 6)) for n in range(120)]
    content = "".join(
        lines(text, x=rng.uniform(5, 250), y=rng.uniform(5, 390), size=rng.choice([5, 8, 14])) for text in texts
    )
    found = layer_of(tmp_path, one_page(content)).text or ""
    assert sorted("".join(found.split())) == sorted("".join("".join(texts).split()))


def test_words_and_letters_that_are_placed_one_by_one_make_lines(tmp_path: Path) -> None:
    text, kerned = "Placed letter by letter", "[(T) 70 (e) -260 (X made) -333 (spaces) -333 (of) -280 (gaps alone)] TJ"
    content, x = "", 40.0
    widths = {
        " ": 278,
        "P": 667,
        "l": 222,
        "a": 556,
        "c": 500,
        "e": 556,
        "d": 556,
        "t": 278,
        "r": 333,
        "b": 556,
        "y": 500,
    }
    for char in text:
        content += lines(char, x=x, y=300) if char != " " else ""
        x += widths[char] * 12 / 1000
    content += f"BT /F 12 Tf 40 250 Td {kerned} ET\n"
    spread = "BT /F 12 Tf 5 Tc 40 200 Td (SPREAD OUT WORDS) Tj ET\n"
    found = read(tmp_path, one_page(content + spread + FILLER))
    assert found == [text, "Te X made spaces of gaps alone", "SPREAD OUT WORDS"]


KEPT = {code: chr(code) for code in range(32, 127)}
CODES = {
    1: "ﬁ",
    2: "ﬄ",
    4: "\uf0b7",
    5: "ё",
    6: "e\u0301",
    7: "\u2011",
    8: "\u00a0",
    9: "𝑥",
    14: "\uf123",
}


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        ("o\\001ce and ba\\002e", "ofice and baffle"),
        ("\\004 item", "• item"),
        ("\\005 caf\\006", "ё café"),
        ("well\\007known a\\010b", "well-known a b"),
        ("\\011 = 2", "x = 2"),
        ("a sign\\016 of its own", "a sign of its own"),
    ],
)
def test_characters_are_those_that_a_reader_compares(tmp_path: Path, shown: str, expected: str) -> None:
    assert read(tmp_path, one_page(lines(shown) + FILLER, characters=CODES | KEPT)) == [expected]


def test_a_soft_hyphen_counts_where_it_has_ink(tmp_path: Path) -> None:
    content = lines("docu\\003", "ment") + FILLER
    assert read(tmp_path, one_page(content, characters={3: "\u00ad"} | KEPT)) == ["docu", "ment"]
    content = lines("docu-", "ment") + FILLER
    assert read(tmp_path, one_page(content, characters=KEPT | {45: "\u00ad"})) == ["docu-", "ment"]


def test_a_broken_word_keeps_its_hyphen_and_costs_nothing_when_read_whole(tmp_path: Path) -> None:
    found = read(tmp_path, one_page(lines("a charac-", "teristic docu-", "ment") + FILLER))
    assert found == ["a charac-", "teristic docu-", "ment"]
    for reading in ("a characteristic document", "a charac-\nteristic docu-\nment", "a charac- teristic docu- ment"):
        assert character_edits(reading, "\n".join(found)).edits == 0
    assert character_edits("a characteristic documents", "\n".join(found)).edits == 1


def test_what_is_not_seen_is_not_in_the_text(tmp_path: Path) -> None:
    content = (
        lines("Seen and here to stay, with many letters around it, as most of the page is.", "And a second line.")
        + lines("off", x=700)
        + lines("under", y=-30)
        + lines("gone", y=200, before="3 Tr")
        + lines("blacked out", y=150)
        + "0 g 30 140 200 25 re f\n"
        + "0.9 g 30 90 300 25 re f 0 g\n"
        + lines("on a coloured ground", y=100)
    )
    assert read(tmp_path, one_page(content)) == [
        "Seen and here to stay, with many letters around it, as most of the page is.",
        "And a second line.",
        "on a coloured ground",
    ]


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_a_turned_page_reads_as_it_is_shown(tmp_path: Path, turn: int) -> None:
    matrix = {0: "1 0 0 1 0 0", 90: "0 1 -1 0 600 0", 180: "-1 0 0 -1 600 600", 270: "0 -1 1 0 0 600"}[turn]
    content = f"q {matrix} cm {lines('First line of the page', 'Second line of the page', y=500)} Q"
    texts = ["First line of the page", "Second line of the page"]
    assert read(tmp_path, one_page(content, page=f"/Rotate {turn}", box="0 0 600 600")) == texts
    text, problem = layer_of(tmp_path, one_page(content, page=f"/Rotate {(turn + 90) % 360}", box="0 0 600 600"))
    assert text is None and problem == "most of its text runs sideways"


def test_text_at_an_angle_comes_last(tmp_path: Path) -> None:
    label = "BT /F 10 Tf 0 1 -1 0 20 100 Tm (Voltage in volts) Tj ET\n"
    blank = label.replace("Voltage in volts", " ").replace("0 1 -1 0", "0 -1 1 0")
    assert read(tmp_path, one_page(label + blank + lines("Upright text is read first here", y=60))) == [
        "Upright text is read first here",
        "Voltage in volts",
    ]


def test_fields_that_were_filled_in_are_drawn_and_read_beside_their_labels(tmp_path: Path) -> None:
    shown = stream(
        b"/Tx BMC q BT /F 12 Tf 2 5 Td (Ivan Petrov) Tj ET Q EMC",
        b"/Type/XObject/Subtype/Form/BBox[0 0 200 20]/Resources<</Font<</F 5 0 R>>>>",
    )
    widget = b"<</Type/Annot/Subtype/Widget/FT/Tx/T(%s)/V(%s)/Rect[100 %d 280 %d]/F 4%s>>"
    content = one_page(
        lines("Name of the owner:", y=150) + lines("Town or village:", y=110),
        box="0 0 300 200",
        page="/Annots[8 0 R 9 0 R]",
        catalogue="/AcroForm<</Fields[8 0 R 9 0 R]/DA(/F 12 Tf 0 g)/DR<</Font<</F 5 0 R>>>>>>",
        further=[
            widget.replace(b"[100", b"[160") % (b"a", b"Ivan Petrov", 145, 165, b"/AP<</N 10 0 R>>"),
            widget.replace(b"[100", b"[160") % (b"b", b"Moscow", 105, 125, b"/DA(/F 12 Tf 0 g)"),
            shown,
        ],
    )
    assert read(tmp_path, content) == ["Name of the owner: Ivan Petrov", "Town or village: Moscow"]
    page = load_pages(tmp_path / "p.pdf", dpi=72)[0].open().convert("L")
    assert min(page.crop((165, 30, 290, 60)).getextrema()) < 128


def _scan(text: str) -> Image.Image:
    image = Image.new("L", (1200, 800), 255)
    font = ImageFont.load_default(60)
    ImageDraw.Draw(image).multiline_text((60, 60), text, 0, font, spacing=30)
    return image


def test_a_scan_that_tesseract_read_is_told_apart(tmp_path: Path) -> None:
    if not shutil.which("tesseract"):
        pytest.skip("no Tesseract here")
    _scan("What was scanned here is\nread into a layer below\nthe picture of the page").save(tmp_path / "s.png")
    subprocess.run(["tesseract", "s.png", "s", "pdf"], cwd=tmp_path, check=True, capture_output=True)
    text, problem = text_layer(tmp_path / "s.pdf", 1)
    assert text is None and problem.startswith("a scan with an OCR layer")


PICTURE = "q 600 0 0 400 0 0 cm /I Do Q\n"
TEXT = lines("Text that lies over or under a picture of itself", "and goes on for a second line of words")
HEBREW = {ord(char): chr(0x5D0 + index) for index, char in enumerate("abcdefghijklmnopqrstuvwxyz")}
ARABIC = {ord(char): chr(0x628 + index) for index, char in enumerate("abcdefghijklmnopqrstuvwxyz")}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (one_page("0 0 10 10 re f"), "no text layer"),
        (one_page(PICTURE), "no text layer"),
        (
            one_page(PICTURE + lines("An OCR layer under the page that was scanned", before="3 Tr")),
            "a scan with an OCR layer",
        ),
        (one_page(TEXT + PICTURE), "a scan with an OCR layer"),
        (one_page(PICTURE + lines("Downloaded from an archive by a reader")), "an image covers most"),
        (one_page(TEXT, characters={ord(c): chr(0xE000 + ord(c)) for c in "aeiost"}), "the text layer is junk"),
        (one_page(TEXT, characters={ord(c): "\ufffd" for c in "aeiost"}), "the text layer is junk"),
        (one_page(TEXT, characters={ord(c): "\0" for c in "aeiost"}), "the text layer is junk"),
        (one_page(lines("plain words that are of another script"), characters=HEBREW), "right-to-left"),
        (one_page(lines("plain words that are of another script"), characters=ARABIC), "right-to-left"),
        (one_page(lines("Figure 7")), "too few letters"),
        (one_page(lines("1.2 - 3.4 * ...... 5 ! ! !")), "too few letters"),
    ],
)
def test_each_reason_why_a_layer_is_no_truth(tmp_path: Path, content: bytes, reason: str) -> None:
    text, problem = layer_of(tmp_path, content)
    assert text is None and problem.startswith(reason)


def test_text_over_a_background_picture_is_a_truth(tmp_path: Path) -> None:
    texts = [prose(f"slide{n}", 10) for n in range(8)]
    assert read(tmp_path, one_page(PICTURE + lines(*texts))) == texts


def test_matplotlib_and_pillow(tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4))
    figure.text(0.1, 0.8, "A first line drawn by matplotlib, щётка")
    figure.text(0.1, 0.7, "A second one, fine affine ruffles 220 V")
    figure.text(0.02, 0.2, "turned by a quarter", rotation=90)
    figure.savefig(tmp_path / "m.pdf")
    assert (text_layer(tmp_path / "m.pdf", 1).text or "").split("\n") == [
        "A first line drawn by matplotlib, щётка",
        "A second one, fine affine ruffles 220 V",
        "turned by a quarter",
    ]
    _scan("What was scanned").save(tmp_path / "i.pdf")
    assert text_layer(tmp_path / "i.pdf", 1).problem == "no text layer"


def test_text_laid_by_pdfium_itself(tmp_path: Path) -> None:
    import pypdfium2
    from pypdfium2 import raw

    document = pypdfium2.PdfDocument.new()
    page = document.new_page(400, 300)
    texts = [prose(f"pdfium{n}", 8) for n in range(6)]
    for number, text in enumerate(texts):
        laid = raw.FPDFPageObj_NewTextObj(document, b"Times-Roman", 12)
        raw.FPDFText_SetText(laid, (raw.FPDF_WCHAR * (len(text) + 1))(*map(ord, text), 0))
        raw.FPDFPageObj_Transform(laid, 1, 0, 0, 1, 30, 260 - 18 * number)
        raw.FPDFPage_InsertObject(page, laid)
    page.gen_content()
    document.save(tmp_path / "p.pdf")
    document.close()
    assert text_layer(tmp_path / "p.pdf", 1).text == "\n".join(texts)


def test_a_page_that_is_not_there(tmp_path: Path) -> None:
    for number in (0, 2):
        with pytest.raises(PageError, match=r"p\.pdf: page .* cannot be opened"):
            layer_of(tmp_path, one_page(FILLER), number)
    with pytest.raises(PageError, match="not a PDF"):
        layer_of(tmp_path, b"hello")
