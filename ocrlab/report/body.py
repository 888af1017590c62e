"""An executed notebook as a piece of HTML, its images as files of their own."""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error as Base64Error
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
from jinja2 import pass_context
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from ocrlab.report.mathml import to_mathml
from ocrlab.report.sanitise import sanitise

# Richest first; of each output one form is shown, and scripts and raw JSON are none of them. A widget is left out: its
# text is its state at birth, such as a progress bar at 0 %.
WIDGET = "application/vnd.jupyter.widget-view+json"
LINK = "ocrlab_figure"
"""The key in an output's metadata under which `lift_figures` notes the image's file."""
_SHOWN = ("image/png", "image/jpeg", "text/html", "text/markdown", "text/latex", "text/plain")
_SUFFIX = {"image/png": ".png", "image/jpeg": ".jpg"}
_PLACE = "\ue000{}\ue001"


@dataclass(frozen=True)
class Figure:
    """An image of a notebook: its file in `figures/`, what it shows in words, the cell's id in the page, and its
    place: which cell from the top and which of its outputs, both from 1.
    """

    file: str
    alt: str
    cell: str
    place: tuple[int, int] = (0, 0)


@dataclass
class Body:
    """A notebook's page, less the frame: title (its question), headline, HTML, figures, parameters of the run."""

    title: str
    headline: str
    html: str = ""
    figures: list[Figure] = field(default_factory=list)
    parameters: dict[str, Any] = field(default_factory=dict)


def render_body(notebook: Path, figures: Path) -> Body:
    """Return a notebook's sanitised HTML and write its images as `figures/<notebook>-<cell>-<n>.png`.

    A cell's place in the page is `#cell-id=c7`, the failed one's `#cell-id=failed`.

    Raises:
        ValueError: the file is no notebook.
    """
    try:
        node = nbformat.read(notebook, as_version=4)
    except (AttributeError, KeyError, nbformat.ValidationError) as error:
        raise ValueError(f"{notebook}: no notebook ({str(error)[:100]})") from error
    given = node.metadata.get("papermill", {}).get("parameters", {})
    body = Body(_title(node) or notebook.stem, _headline(node), parameters=given if isinstance(given, dict) else {})
    images = _Images(figures, slug(notebook.stem), body.figures)
    sentence = body.title
    for index, cell in enumerate(node.cells, start=1):
        failed = cell.metadata.get("papermill", {}).get("status") == "failed"
        cell["id"] = "failed" if failed else f"c{index}"
        if cell.cell_type == "code":
            images.keep(cell, index, str(cell.metadata.get("alt") or cell.metadata.get("title") or sentence))
        elif cell.cell_type == "markdown":
            sentence = _last_sentence(cell.source) or sentence
            cell.pop("attachments", None)
        tags = [str(tag) for tag in cell.metadata.get("tags", []) if re.fullmatch(r"[\w-]+", str(tag))]
        cell.metadata = nbformat.NotebookNode(tags=[*tags, *["failed"] * failed])
    node.cells = [cell for cell in node.cells if cell.cell_type != "raw"]
    node.nbformat_minor = 5  # from which on cells have ids
    node.metadata = nbformat.NotebookNode(language_info={"name": "python", "pygments_lexer": "ipython3"})
    body.html = _Exporter().body_of(node)
    return body


def slug(name: str) -> str:
    """Return a notebook's name as the beginning of its figures' file names."""
    return re.sub(r"[^\w.-]", "_", name)


def plain(markdown: str) -> str:
    """Return Markdown as one line of plain text: no marks, links as their words."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", markdown)
    text = re.sub(r"[*`$]+|(?<!\w)_+|_+(?!\w)|^[#>\s]+", "", text, flags=re.MULTILINE)
    return " ".join(text.split())


class _Exporter(HTMLExporter):
    """nbconvert's exporter; its Markdown with our maths, everything it makes sanitised."""

    def __init__(self) -> None:
        super().__init__(template_name="basic", exclude_anchor_links=True)
        self.formulas: list[str] = []

    def body_of(self, node: nbformat.NotebookNode) -> str:
        self.formulas = []
        html, _ = self.from_notebook_node(node)
        html = sanitise(html)
        return re.sub("\ue000(\\d+)\ue001", self._formula, html)

    @pass_context
    def markdown2html(self, context: Any, source: str) -> str:
        return MarkdownWithMath(renderer=_Renderer(self.formulas)).render(source)

    def _formula(self, match: re.Match[str]) -> str:
        number = int(match[1])
        return self.formulas[number] if number < len(self.formulas) else ""


class _Renderer(IPythonRenderer):
    """Markdown to HTML with a numbered place for each formula, to be filled in once the rest is sanitised."""

    def __init__(self, formulas: list[str]) -> None:
        super().__init__(escape=False, exclude_anchor_links=True)
        self.formulas = formulas

    def inline_math(self, body: str) -> str:
        return self._keep(body, "inline")

    def block_math(self, body: str) -> str:
        return self._keep(body, "block")

    def latex_environment(self, name: str, body: str) -> str:
        return self._keep(f"\\begin{{{name}}}{body}\\end{{{name}}}", "block")

    def _keep(self, latex: str, display: str) -> str:
        self.formulas.append(to_mathml(latex.strip(), display))
        return _PLACE.format(len(self.formulas) - 1)


class _Images:
    """A notebook's images on their way into files, each picture once."""

    def __init__(self, folder: Path, slug: str, figures: list[Figure]) -> None:
        self.folder, self.slug, self.figures = folder, slug, figures
        self.files: dict[bytes, str] = {}

    def keep(self, cell: Any, index: int, alt: str) -> None:
        """Leave one form of each output of a cell, and no metadata but ours."""
        kept = []
        for number, output in enumerate(cell.outputs, start=1):
            if output.output_type in ("stream", "error"):
                kept.append(output)
                continue
            link = output.metadata.get(LINK)
            stored = link if isinstance(link, str) and self._stored(link) else None
            mime = next((kind for kind in _SHOWN if isinstance(output.data.get(kind), str)), None)
            if stored is not None:
                mime = next(kind for kind, suffix in _SUFFIX.items() if stored.endswith(suffix))
                output.data = {mime: ""}
            if mime is None or WIDGET in output.data:
                continue
            own = output.metadata if stored else output.metadata.get(mime)
            output.metadata = nbformat.NotebookNode()
            output.data = {"text/markdown" if mime == "text/latex" else mime: output.data[mime]}
            if mime in _SUFFIX:
                words = str((own.get("alt") if isinstance(own, dict) else None) or alt)
                name = f"{self.slug}-{index}-{number}{_SUFFIX[mime]}"
                file = stored or self._file(output.data[mime], name)
                if file is None:
                    continue
                self.figures.append(Figure(file, words, cell["id"], (index, number)))
                output.metadata.update({"filenames": {mime: f"figures/{file}"}, mime: {"alt": words}})
            kept.append(output)
        cell.outputs = kept

    def _stored(self, name: str) -> bool:
        """Whether an earlier build moved this image out of the notebook into the folder."""
        return bool(re.fullmatch(r"[\w.-]+\.(?:png|jpg)", name)) and (self.folder / name).is_file()

    def _file(self, base64: str, name: str) -> str | None:
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


def _headline(node: nbformat.NotebookNode) -> str:
    """Return what the cells with the tag `headline` printed or showed, as one line of at most 600 letters."""
    said = []
    for cell in node.cells:
        if cell.cell_type == "code" and "headline" in cell.metadata.get("tags", []):
            for output in cell.outputs:
                if output.output_type == "stream" and output.name == "stdout":
                    said.append(output.text)
                elif "data" in output:
                    markdown = output.data.get("text/markdown")
                    said.append(plain(markdown) if markdown else output.data.get("text/plain", ""))
    return " ".join(" ".join(said).split())[:600]


def _last_sentence(markdown: str) -> str:
    """Return the last sentence of a Markdown cell in plain words, at most 200 letters."""
    paragraphs = [p for p in re.split(r"\n\s*\n", markdown.strip()) if p.strip() and not p.lstrip().startswith("|")]
    text = plain(re.sub(r"^#.*$", "", paragraphs[-1], flags=re.MULTILINE)) if paragraphs else ""
    sentences = re.split(r"(?<=[.!?])\s+", text)
    return sentences[-1].rstrip(":")[:200]
