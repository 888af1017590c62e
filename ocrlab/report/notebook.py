"""An executed notebook as a piece of sanitised HTML, its images as files of their own."""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
import nh3
from nbconvert import HTMLExporter

from ocrlab.paths import write_whole

# Richest first; one form of each output is shown, and scripts and raw JSON are none of them.
_SHOWN = ("image/png", "image/jpeg", "text/html", "text/markdown", "text/plain")
_SUFFIX = {"image/png": ".png", "image/jpeg": ".jpg"}
# A widget is left out: its text is its first state, such as a progress bar at 0 %.
# Names, punctuation and spaces of code, which no style colours: half of a page's bytes.
_UNSTYLED = re.compile(r'<span class="(?:n|p|w)">([^<]*)</span>')
_WIDGET = "application/vnd.jupyter.widget-view+json"
# The key in an output's metadata under which `link_figures` notes the image's file.
_LINK = "ocrlab_figure"

# What is inside these is no text for a reader.
_NOISE = """
    script style noscript template iframe object embed applet svg math textarea select title head link meta base form
    """
_ATTRIBUTES = {
    "*": {"class", "id", "title", "style"},
    "a": {"href"},
    "td": {"colspan", "rowspan"},
    "th": {"colspan", "rowspan", "scope"},
    "ol": {"start"},
    "details": {"open"},
    "img": {"src", "alt", "width", "height", "loading"},
}
_VALUES = {
    "href": re.compile(r"(?:https?://|mailto:|#|[\w.-]+\.html(?:$|#))[^\s]*", re.IGNORECASE),
    "src": re.compile(r"figures/[\w.%-]+|data:image/(?:png|jpeg|gif|svg\+xml);base64,[A-Za-z0-9+/=\s]+"),
    "style": re.compile(r"""(?:[\w\s:;#%.,'"-]|rgba?\([\d\s,.%]+\))*"""),
}
# Nothing that positions, layers or fetches.
_STYLES = """
    background background-color border border-bottom border-color border-top color font-family font-size font-style
    font-weight height letter-spacing line-height max-width min-width padding text-align text-decoration
    vertical-align white-space width
    """


@dataclass(frozen=True)
class FigureFile:
    """An image of a notebook: its file in `figures/`, what it shows in words, the cell's id in the page, and its
    place: which cell from the top and which of its outputs, both from 1.
    """

    file: str
    alt: str
    cell: str
    place: tuple[int, int] = (0, 0)


@dataclass
class NotebookPage:
    """A notebook's page without its frame: title (its question), headline, HTML, figures, parameters of the run."""

    title: str
    headline: str
    html: str = ""
    figures: list[FigureFile] = field(default_factory=list)
    parameters: dict[str, Any] = field(default_factory=dict)


def render_notebook(file: Path, figures: Path) -> NotebookPage:
    """Return a notebook's sanitised HTML and write its images as `figures/<notebook>-<cell>-<n>.png`.

    A cell's place in the page is `#cell-id=c7`, the failed one's `#cell-id=failed`.

    Raises:
        ValueError: the file is no notebook.
    """
    try:
        node = nbformat.read(file, as_version=4)
    except (AttributeError, KeyError, nbformat.ValidationError) as error:
        raise ValueError(f"{file}: no notebook ({str(error)[:100]})") from error
    given = node.metadata.get("papermill", {}).get("parameters", {})
    page = NotebookPage(
        _title(node) or file.stem,
        " ".join(headline_lines(node))[:600],
        parameters=given if isinstance(given, dict) else {},
    )
    images = _ImageWriter(figures, slug(file.stem), page.figures)
    sentence = page.title
    for index, cell in enumerate(node.cells, start=1):
        failed = cell.metadata.get("papermill", {}).get("status") == "failed"
        cell["id"] = "failed" if failed else f"c{index}"
        if cell.cell_type == "code":
            alt = str(cell.metadata.get("alt") or cell.metadata.get("title") or sentence)
            cell.outputs = list(images.outputs_of(cell, index, alt))
        elif cell.cell_type == "markdown":
            sentence = _last_sentence(cell.source) or sentence
            cell.pop("attachments", None)
        tags = [str(tag) for tag in cell.metadata.get("tags", []) if re.fullmatch(r"[\w-]+", str(tag))]
        cell.metadata = nbformat.NotebookNode(tags=[*tags, *["failed"] * failed])
    node.cells = [cell for cell in node.cells if cell.cell_type != "raw"]
    node.nbformat_minor = 5  # from which on cells have ids
    node.metadata = nbformat.NotebookNode(language_info={"name": "python", "pygments_lexer": "ipython3"})
    html, _ = HTMLExporter(template_name="basic", exclude_anchor_links=True).from_notebook_node(node)
    page.html = sanitise(_UNSTYLED.sub(r"\1", html))
    return page


def link_figures(file: Path, figures: list[FigureFile]) -> None:
    """Write an executed notebook again with its images as links into `../figures`, so that each is stored once.

    JupyterLab shows such a link as the image. Widgets' states (progress bars, in their first state), the plain twins
    of tables and the kernel's message times are dropped. A notebook without these is left as it is, byte by byte.
    """
    notebook = nbformat.read(file, as_version=4)
    before = nbformat.writes(notebook)
    notebook.metadata.pop("widgets", None)
    by_place = {figure.place: figure for figure in figures}
    for index, cell in enumerate(notebook.cells, start=1):
        cell.metadata.pop("execution", None)
        for number, output in enumerate(cell.get("outputs", []), start=1):
            figure = by_place.get((index, number))
            if figure is not None and _LINK not in output.metadata:
                alt = figure.alt.replace("[", "(").replace("]", ")").replace("\n", " ")
                output.data = nbformat.NotebookNode({"text/markdown": f"![{alt}](../figures/{figure.file})"})
                output.metadata = nbformat.NotebookNode({_LINK: figure.file, "alt": figure.alt})
            elif "text/html" in output.get("data", {}) and "headline" not in cell.metadata.get("tags", []):
                output.data.pop("text/plain", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if _WIDGET not in output.get("data", {})]
    after = nbformat.writes(notebook)
    if after != before:
        write_whole(file, f"{after}\n".encode())


def sanitise(markup: str) -> str:
    """Return HTML of known-good tags, attributes, links and styles; scripts vanish, other tags leave their text.

    Images come from `figures/` and from `data:` only; of another one the words stay. MathML and SVG never pass: they
    are how sanitisers are fooled (CVE-2020-6816, CVE-2021-23980).
    """
    clean = nh3.clean(
        markup,
        tags=nh3.ALLOWED_TAGS - {"area", "map"} | {"section", "tfoot"},
        clean_content_tags=set(_NOISE.split()),
        attributes=_ATTRIBUTES,
        attribute_filter=_allowed,
        url_schemes={"http", "https", "mailto", "data"},
        filter_style_properties=set(_STYLES.split()),
        link_rel=None,
    )
    # A screen reader would read out the file's name.
    return re.sub(r"<img (?![^>]*\balt=)", '<img alt="" ', clean)


def slug(name: str) -> str:
    """Return a notebook's name as the beginning of its figures' file names."""
    return re.sub(r"[^\w.-]", "_", name)


def plain(markdown: str) -> str:
    """Return Markdown as one line of plain text: no marks, links as their words."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", markdown)
    text = re.sub(r"[*`$]+|(?<!\w)_+|_+(?!\w)|^[#>\s]+", "", text, flags=re.MULTILINE)
    return " ".join(text.split())


def _allowed(tag: str, name: str, value: str) -> str | None:
    pattern = _VALUES.get(name)
    return value if pattern is None or pattern.fullmatch(value.strip()) else None


class _ImageWriter:
    """Writes a notebook's images into files, each picture once."""

    def __init__(self, folder: Path, slug: str, figures: list[FigureFile]) -> None:
        self.folder, self.slug, self.figures = folder, slug, figures
        self.files: dict[bytes, str] = {}

    def outputs_of(self, cell: Any, index: int, alt: str) -> Iterable[Any]:
        """Yield a cell's outputs, one form of each, without metadata but ours."""
        for number, output in enumerate(cell.outputs, start=1):
            if output.output_type in ("stream", "error"):
                yield output
                continue
            link = output.metadata.get(_LINK)
            stored = link if isinstance(link, str) and self._is_stored(link) else None
            mime = next((kind for kind in _SHOWN if isinstance(output.data.get(kind), str)), None)
            if stored is not None:
                mime = next(kind for kind, suffix in _SUFFIX.items() if stored.endswith(suffix))
                output.data = {mime: ""}
            if mime is None or _WIDGET in output.data:
                continue
            own = output.metadata if stored else output.metadata.get(mime)
            output.metadata = nbformat.NotebookNode()
            output.data = {mime: output.data[mime]}
            if mime in _SUFFIX:
                words = str((own.get("alt") if isinstance(own, dict) else None) or alt)
                name = f"{self.slug}-{index}-{number}{_SUFFIX[mime]}"
                file = stored or self._write(output.data[mime], name)
                if file is None:
                    continue
                self.figures.append(FigureFile(file, words, cell["id"], (index, number)))
                output.metadata.update({"filenames": {mime: f"figures/{file}"}, mime: {"alt": words}})
            yield output

    def _is_stored(self, name: str) -> bool:
        """Whether an earlier build moved this image out of the notebook into the folder."""
        return bool(re.fullmatch(r"[\w.-]+\.(?:png|jpg)", name)) and (self.folder / name).is_file()

    def _write(self, base64: str, name: str) -> str | None:
        try:
            content = b64decode(base64)
        except Base64Error:
            return None
        if not content.startswith((b"\x89PNG", b"\xff\xd8\xff")):
            return None
        if content not in self.files:
            self.folder.mkdir(exist_ok=True)
            (self.folder / name).write_bytes(content)
        return self.files.setdefault(content, name)


def _title(node: nbformat.NotebookNode) -> str:
    for cell in node.cells:
        heading = re.search(r"^#{1,2}\s+(.+)$", cell.source, re.MULTILINE) if cell.cell_type == "markdown" else None
        if heading:
            return plain(heading[1])
    return ""


def headline_lines(node: nbformat.NotebookNode) -> list[str]:
    """Return the lines that the cells with the tag `headline` printed or showed."""
    said = []
    for cell in node.cells:
        if cell.cell_type == "code" and "headline" in cell.metadata.get("tags", []):
            for output in cell.outputs:
                data = output.get("data", {})
                said.append(output.text if output.get("name") == "stdout" else plain(data.get("text/markdown", "")))
                said.append("" if "text/markdown" in data else data.get("text/plain", ""))
    return [line for text in said for raw in text.splitlines() if (line := " ".join(raw.split()))]


def _last_sentence(markdown: str) -> str:
    """Return the last sentence of a Markdown cell in plain words, at most 200 letters."""
    paragraphs = [p for p in re.split(r"\n\s*\n", markdown.strip()) if p.strip() and not p.lstrip().startswith("|")]
    text = plain(re.sub(r"^#.*$", "", paragraphs[-1], flags=re.MULTILINE)) if paragraphs else ""
    sentences = re.split(r"(?<=[.!?])\s+", text)
    return sentences[-1].rstrip(":")[:200]
