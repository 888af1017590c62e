"""Which page to read: one of a set, an upload, or a path; PDF and TIFF by page number; seen before it is read."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ipywidgets as w

from ocrlab.pages import Page, PageError, load_pages, set_names
from ocrlab.playground.html import file_name, note
from ocrlab.playground.widgets import labelled, wide

UPLOAD_LIMIT_BYTES = 50 * 2**20
"""What an upload may hold; `make app` and `make lab` let messages of this size through (Jupyter's own: 10 MiB)."""
_WAYS = ("a page of a set", "upload", "path")


class Picker:
    """The page's card; `page` is the chosen one, or None with the reason shown; `changed` is called at every choice."""

    def __init__(self, page_set: str, number: int, changed: Callable[[], None]) -> None:
        self.page: Page | None = None
        self.size = (0, 0)
        self._folder = tempfile.TemporaryDirectory(prefix="ocrlab-pages-", ignore_cleanup_errors=True)
        self._leaves: list[Page] = []
        self._changed = changed
        self._pages: dict[str, Page] = {}
        self._make_widgets()
        sets = set_names()
        self.sets.options = sets if page_set in sets else [*sets, page_set]
        self.sets.value = page_set
        self._list_set()
        if self._pages:
            self.pages.value = list(self._pages)[min(number, len(self._pages) - 1)]
        self._watch()
        self._from_set()

    def _make_widgets(self) -> None:
        self.way = w.ToggleButtons(options=_WAYS, style={"button_width": "auto"}, layout=wide())
        self.sets, self.pages = w.Dropdown(layout=wide()), w.Dropdown(layout=wide())
        self.upload = w.FileUpload(
            accept="image/*,.pdf,.tif,.tiff", multiple=False, description="choose a file", layout=wide()
        )
        self.path = w.Text(placeholder="/path/to/page.png, .pdf, .tif", continuous_update=False, layout=wide())
        self.leaf = w.BoundedIntText(value=1, min=1, max=1, layout=wide())
        self.image = w.Image(layout={"display": "none"})
        self.said = w.HTML()
        self.truth = w.Textarea(
            rows=4, placeholder="the text that is printed, for an error rate", continuous_update=False, layout=wide()
        )
        for name in ("way", "sets", "pages", "upload", "path", "leaf", "said", "truth"):
            getattr(self, name).add_class(f"ocr-pick-{name}")
        limit = f"images, PDF, TIFF; at most {UPLOAD_LIMIT_BYTES >> 20} MiB"
        refused = w.HTML('<div class="ocr-refused"></div>')  # where guard.js says what it held back
        self._panes = {
            _WAYS[0]: w.VBox([labelled("set", self.sets), labelled("page", self.pages)], layout=wide()),
            _WAYS[1]: w.VBox([labelled(limit, self.upload), refused], layout=wide()),
            _WAYS[2]: w.VBox([labelled("a file on this computer", self.path)], layout=wide()),
        }
        self._pane = w.VBox([self._panes[_WAYS[0]]], layout=wide())
        self._leaf = labelled("page of the file", self.leaf)
        shown = w.Box([self.image], layout=wide(justify_content="center"))
        shown.add_class("ocr-page")
        folded = w.Accordion([self.truth], titles=("truth",), selected_index=None, layout=wide())
        self.box = w.VBox([w.HTML("<h2>Page</h2>"), self.way, self._pane, self._leaf, shown, self.said, folded])
        self.box.add_class("ocr-card")

    def _watch(self) -> None:
        for widget, act in (
            (self.way, self._turn), (self.sets, self._new_set), (self.pages, self._from_set),
            (self.path, self._from_path), (self.leaf, self._open), (self.truth, self._new_truth),
            (self.upload, self._from_upload),
        ):  # fmt: skip
            widget.observe(lambda _, act=act: act(), "value")

    def _turn(self) -> None:
        self._pane.children = (self._panes[self.way.value],)
        if self.way.value == _WAYS[0]:
            self._from_set()
        elif self.way.value == _WAYS[2]:
            self._from_path()

    def _new_set(self) -> None:
        self._list_set()
        self._from_set()

    def _list_set(self) -> None:
        try:
            self._pages = {page.id: page for page in load_pages(self.sets.value)}
        except PageError as error:
            self._pages = {}
            self._refuse(error)
        self.pages.options = list(self._pages)

    def _from_set(self) -> None:
        if self.pages.value is not None:
            self._show(self._pages[self.pages.value], leaves=1)

    def _from_path(self) -> None:
        if self.path.value.strip():
            self._take(Path(self.path.value.strip()).expanduser())

    def _from_upload(self) -> None:
        if not self.upload.value:
            return
        given: dict[str, Any] = dict(self.upload.value[0])
        self.upload.value = ()  # else its bytes stay in memory and in the page
        if given["size"] > UPLOAD_LIMIT_BYTES or len(given["content"]) > UPLOAD_LIMIT_BYTES:
            self._refuse(PageError(
                f"{given['name']}: {given['size'] / 2**20:,.1f} MiB are above the upload limit of "
                f"{UPLOAD_LIMIT_BYTES >> 20} MiB; give its path instead, or make it smaller"
            ))  # fmt: skip
            return
        file = Path(self._folder.name) / file_name(str(given["name"]))
        file.write_bytes(bytes(given["content"]))
        self._take(file)

    def _take(self, file: Path) -> None:
        try:
            if not file.is_file():
                raise PageError(f"{file}: no such file, seen from {Path.cwd()}; check the path")
            self._leaves = load_pages(file)
        except (PageError, OSError, ValueError) as error:
            self._refuse(error)
            return
        self.leaf.max, self.leaf.value = len(self._leaves), 1
        self._open()

    def _open(self) -> None:
        if self._leaves:
            self._show(self._leaves[self.leaf.value - 1], leaves=len(self._leaves))

    def _show(self, page: Page, leaves: int) -> None:
        self._leaf.layout.display = "" if leaves > 1 else "none"
        try:
            image = page.open()
        except (PageError, OSError) as error:
            self._refuse(error)
            return
        self.page, self.size = page, image.size
        image.thumbnail((1100, 1400))
        stored = io.BytesIO()
        image.save(stored, "PNG")
        self.image.value, self.image.layout.display = stored.getvalue(), ""
        with self.truth.hold_trait_notifications():
            self.truth.value = page.truth or ""
        of = f" of {leaves}" if leaves > 1 else ""
        told = f"{page.id}{of}: {self.size[0]:,} × {self.size[1]:,} pixels; " + (
            "its truth is known" if page.truth is not None else "no truth, so no error rate"
        )
        self.said.value = note(told) + note(page.problem, "warn")
        self._changed()

    def _new_truth(self) -> None:
        if self.page is not None and self.truth.value != (self.page.truth or ""):
            self.page = replace(self.page, truth=self.truth.value or None)
            self._changed()

    def _refuse(self, error: Exception) -> None:
        self.page, self.image.layout.display = None, "none"
        self.said.value = note(error, "bad")
        self._changed()
