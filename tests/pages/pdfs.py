"""PDFs with text layers, made here: written by hand, typeset by Chromium, drawn by matplotlib, and laid by PDFium."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random

WORDS = {
    "en": "office stuff affine flow of fine paper and ink that shuffles through the press with a steady efficient "
    "rhythm while some reader turns every leaf until evening falls over quiet libraries in distant northern towns",
    "ru": "договор между сторонами заключён на основании устава и действует до полного исполнения обязательств каждая "
    "страница которого подписана представителями ёлка щит объём съезд юбилей фонарь чашка цена эхо",
}
FONTS = ["10pt serif", "8pt sans-serif", "10pt 'EB Garamond'", "10pt 'CMU Serif'"]
RULED = "<style>body{margin:0}table{border-collapse:collapse}td,th{padding:2pt 9pt;text-align:left;"
RULED += "vertical-align:top}h1{font-size:16pt;margin:6pt 0}p{margin:4pt 0}</style>"
HEADER, FOOTER = ("Journal of Paper", "page 7"), "All rights reserved"
MARGINS = "<div style='font:8pt sans-serif;width:100%;display:flex;justify-content:space-between;padding:0 20mm'>"
MARGINS += "<span>{}</span><span>{}</span></div>"


def prose(seed: str, count: int, language: str = "en") -> str:
    """Return so many words as sentences."""
    rng, known = Random(seed), WORDS[language].split()
    words = [rng.choice(known) for _ in range(count)]
    for index in range(0, count, 11):
        words[index] = words[index].capitalize()
        words[index - 1] += "." if index else ""
    return " ".join(words) + "."


def columns(
    seed: str, count: int, css: str = "columns:2;column-gap:14pt", language: str = "en"
) -> tuple[str, list[str]]:
    """Return the HTML of text in columns, each paragraph marked by its number, and the text."""
    paragraphs = [f"{number} {prose(f'{seed}{number}', 60, language)}" for number in range(1, count + 1)]
    html = "".join(f"<p>{one}</p>" for one in paragraphs)
    return f"<div style='{css};text-align:justify'>{html}</div>", paragraphs


def typeset() -> dict[str, tuple[str, list[str]]]:
    """Return pages by name: HTML, and the texts on it in reading order."""
    rng = Random("typeset")
    pages: dict[str, tuple[str, list[str]]] = {}

    def add(name: str, *parts: tuple[str, list[str]]) -> None:
        printed = [line for _, lines in parts for line in lines]
        pages[name] = "".join(html for html, _ in parts), [" ".join(HEADER), *printed, FOOTER]

    def heading(text: str, css: str = "") -> tuple[str, list[str]]:
        return f"<h1 style='{css}'>{text}</h1>", [text]

    def table(rows: Sequence[Sequence[str]], css: str = "") -> tuple[str, list[str]]:
        cells = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
        return f"<table style='{css}'>{cells}</table>", [" ".join(row) for row in rows]

    prices = [
        (f"{n}", rng.choice(WORDS["en"].split()), f"{rng.randrange(9) + 1} pcs", f"{rng.random() * 900:.2f}")
        for n in range(1, 24)
    ]
    details = [(f"Item {n}", prose(f"cell{n}", 9 + n % 7), prose(f"note{n}", 3 + n % 5)) for n in range(1, 9)]
    for language in WORDS:
        for count in (1, 2, 3):
            css = f"columns:{count};column-gap:{10 + count}pt"
            add(
                f"{count}-columns-{language}",
                heading("Across it all", "text-align:center"),
                columns(str(count), 6, css, language),
            )
    add("ragged", columns("r", 6, "columns:2;column-gap:16pt;text-align:left"))
    broken, whole = columns("h", 6, "columns:3;column-gap:12pt;hyphens:manual")
    add("hyphenated", (re.sub(r"(?<=[a-z]{3})(?=[a-z]{3}[ .a-z])(?![^<]*>)", "&shy;", broken), whole))
    add(
        "article",
        heading("A heading over both"),
        ("<p>A short line below it.</p>", ["A short line below it."]),
        columns("a", 5),
        heading("A second heading", "font-size:12pt"),
        columns("b", 4),
    )
    add("table", heading("Price list"), table(prices))
    add("ruled", heading("Price list"), table(prices, "border:1px solid black"))
    add("wrapped", heading("Details"), table(details, "width:100%"))
    add("tight", ("<style>td{padding:0 9pt}</style>", []), table(details, "width:100%"))
    add("table between", columns("t1", 4), table(prices[:7]), columns("t2", 4))
    add(
        "labels",
        table([("Voltage:", "220 V"), ("Power, max:", "1500 W"), ("Masse:", "5,0 kg"), ("Артикул", "АБ-1234")] * 4),
    )
    add(
        "invoice",
        heading("Invoice 2026-117"),
        (
            "<div style='display:flex;justify-content:space-between'><div>Bill to<br>Anna Petrova<br>7 Long Street<br>"
            "Riga</div><div>Ship to<br>Warehouse 4<br>Dock Road<br>Ventspils</div></div>",
            ["Bill to Anna Petrova 7 Long Street Riga", "Ship to Warehouse 4 Dock Road Ventspils"],
        ),
        table(prices[:9]),
        ("<p style='text-align:right'>Total 1 234,50</p>", ["Total 1 234,50"]),
    )
    items = [prose(f"item{n}", 20) for n in range(9)]
    add("list", ("<ul>" + "".join(f"<li>{item}" for item in items) + "</ul>", items))
    add(
        "numbered",
        ("<ol>" + "".join(f"<li>{i}" for i in items) + "</ol>", [f"{n}. {i}" for n, i in enumerate(items, 1)]),
    )
    add(
        "scripts",
        (
            "<p>Water is H<sub>2</sub>O and E = mc<sup>2</sup>, said in a line.<p style='letter-spacing:2pt'>SPACED OUT"
            " WORDS<p><b>bold</b>, <i>italic</i> and <code>code_of(x)</code> together.",
            ["Water is H2O and E = mc2, said in a line.", "SPACED OUT WORDS", "bold, italic and code_of(x) together."],
        ),
    )
    add(
        "form",
        (
            "<p>Name: <input value='Ivan Petrov'></p><p>Town: <input value='Riga'></p>"
            "<p><input type=checkbox checked> yes</p>"
            "<textarea rows=3 cols=40>what was filled in here, over two lines of the field</textarea>",
            ["Name: Ivan Petrov", "Town: Riga", "yes", "what was filled in here, over two lines of the field"],
        ),
    )
    note = "<div style='border-top:1px solid;position:fixed;bottom:0;font-size:8pt'>1 A note at the foot.</div>"
    add("footnote", columns("f", 3), (note, ["1 A note at the foot."]))
    aside = prose("aside", 40)
    add(
        "sidebar",
        ("<div style='display:flex;gap:20pt'><div style='flex:2'>", []),
        columns("s", 4, "columns:1"),
        ("</div><div style='flex:1;font-size:9pt;background:#eee'>", []),
        (aside + "</div></div>", [aside]),
    )
    return pages


def written(*objects: bytes) -> bytes:
    """Return a PDF of these objects, numbered from 1; the first is the catalogue."""
    out, starts = b"%PDF-1.7\n", []
    for number, content in enumerate(objects, 1):
        starts.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % start for start in starts)
    end = b"xref\n0 %d\n0000000000 65535 f \n%strailer<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF"
    return out + end % (len(objects) + 1, table, len(objects) + 1, len(out))


def stream(content: bytes, entries: bytes = b"") -> bytes:
    """Return a stream object."""
    return b"<<%s/Length %d>>stream\n%s\nendstream" % (entries, len(content), content)


def one_page(
    content: str,
    *,
    page: str = "",
    box: str = "0 0 600 400",
    characters: Mapping[int, str] | None = None,
    font: str = "/Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding",
    catalogue: str = "",
    resources: str = "/XObject<</I 7 0 R>>",
    further: Sequence[bytes] = (),
) -> bytes:
    """Return a PDF of one page drawn by `content` with the font /F and the image /I, a grey pixel.

    `characters` say what a byte of a string means, as a ToUnicode map. `further` objects are numbered from 8.
    """
    codes = "".join(f"<{code:02x}> <{text.encode('utf-16-be').hex()}>\n" for code, text in (characters or {}).items())
    cmap = (
        "/CIDInit /ProcSet findresource begin 12 dict begin begincmap /CMapName /X def /CMapType 2 def\n"
        f"1 begincodespacerange <00> <ff> endcodespacerange\n{len(characters or {})} beginbfchar\n{codes}endbfchar\n"
        "endcmap end end"
    )
    known = "/ToUnicode 6 0 R" if characters else ""
    return written(
        f"<</Type/Catalog/Pages 2 0 R{catalogue}>>".encode(),
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        f"<</Type/Page/Parent 2 0 R/MediaBox[{box}]/Contents 4 0 R{page}/Resources<</Font<</F 5 0 R>>"
        f"{resources}>>>>".encode(),
        stream(content.encode("latin-1")),
        f"<<{font}{known}>>".encode(),
        stream(cmap.encode()),
        stream(b"\x80", b"/Type/XObject/Subtype/Image/Width 1/Height 1/ColorSpace/DeviceGray/BitsPerComponent 8"),
        *further,
    )


def lines(*texts: str, x: float = 40, y: float = 350, size: float = 12, before: str = "") -> str:
    """Return page content that shows these lines below each other."""
    shown = " ".join(f"({text}) Tj 0 {-1.2 * size:.1f} Td" for text in texts)
    return f"q BT {before} /F {size} Tf {x} {y} Td {shown} ET Q\n"


def drawn_by_chromium(folder: Path, font: str) -> dict[str, Path]:
    """Return all pages of `typeset` as PDFs, by name; skips where there is no Chromium."""
    from tests.chromium import chromium

    files = {}
    with chromium() as browser:
        page = browser.new_page()
        for name, (html, _) in typeset().items():
            page.set_content(f'<!doctype html><html lang=en>{RULED}<body style="font:{font}">{html}</body></html>')
            files[name] = folder / f"{name}.pdf"
            margin = dict.fromkeys(("top", "bottom", "left", "right"), "20mm")
            edges = {"header_template": MARGINS.format(*HEADER), "footer_template": MARGINS.format(FOOTER, "")}
            page.pdf(path=files[name], format="A4", margin=margin, display_header_footer=True, **edges)
    return files


def endless() -> bytes:
    """Return a PDF of one page that is shaded by a program so long that PDFium is busy with it for hours."""
    program = "{ " + "dup mul sin " * 20_000 + "pop }"
    shading = b"<</ShadingType 1/ColorSpace/DeviceGray/Domain[0 600 0 400]/Function 9 0 R>>"
    function = stream(program.encode(), b"/FunctionType 4/Domain[0 600 0 400]/Range[0 1]")
    return one_page("/S sh", resources="/Shading<</S 8 0 R>>", further=[shading, function])


def ever_growing() -> bytes:
    """Return a PDF of one page whose form holds another one a thousand times, that one the next, and so on."""
    forms = [
        stream(
            b"/N Do " * 1000, b"/Type/XObject/Subtype/Form/BBox[0 0 9 9]/Resources<</XObject<</N %d 0 R>>>>" % number
        )
        for number in range(9, 14)
    ]
    return one_page("/N Do", resources="/XObject<</N 8 0 R>>", further=[*forms, stream(b"0 0 9 9 re f")])
