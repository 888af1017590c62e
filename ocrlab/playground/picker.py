"""Which page to read: one of a set, an upload, or a path; PDF and TIFF by page number; seen before it is read."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

import ipywidgets as w

from ocrlab.pages import Page, PageError, load_pages, page_size, set_names
from ocrlab.pages.files import MANIFEST, hash_of
from ocrlab.pages.images import SUFFIXES
from ocrlab.pages.load import is_url
from ocrlab.pages.truth import keep_truth, truth_beside
from ocrlab.paths import write_whole
from ocrlab.playground.form import card, folded, labelled, wide
from ocrlab.playground.html import file_name, note

#: What an upload may hold; `make app` and `make lab` let messages of this size through (Jupyter's own: 10 MiB).
UPLOAD_LIMIT_BYTES = 50 * 2**20
_ACCEPTED = ",".join(("image/*", *SUFFIXES, ".pdf"))  # browsers do not know every suffix as an image's
_SET, _UPLOAD, _PATH = "a page of a set", "upload", "path"


class Picker:
    """The page's card; `page` is the chosen one, or None with the reason shown; `changed` is called at every choice."""

    def __init__(self, page_set: str, number: int, changed: Callable[[], None]) -> None:
        self.page: Page | None = None
        self.size = (0, 0)
        self._folder = tempfile.TemporaryDirectory(prefix="ocrlab-pages-", ignore_cleanup_errors=True)
        self._listed: dict[str, Page] = {}
        self._changed = changed
        self._make_widgets()
        self.sets.options = list(dict.fromkeys([*set_names(), page_set]))
        self.sets.value = page_set
        for act, widgets in (
            (self._turn, (self.source, self.sets, self.path)),
            (self._from_upload, (self.upload,)),
            (self._open, (self.pages,)),
            (self._take_truth, (self.truth,)),
        ):
            for widget in widgets:
                widget.observe(lambda _, act=act: act(), "value")
        self._list(page_set)
        if self._listed:
            self.pages.index = min(number, len(self._listed) - 1)

    def _make_widgets(self) -> None:
        self.source = w.ToggleButtons(options=(_SET, _UPLOAD, _PATH), style={"button_width": "auto"}, layout=wide())
        self.sets, self.pages = w.Dropdown(layout=wide()), w.Dropdown(layout=wide())
        self.upload = w.FileUpload(accept=_ACCEPTED, description="choose a file", layout=wide())
        self.path = w.Text(placeholder="/path/to/page.png, .pdf, .tif", continuous_update=False, layout=wide())
        self.image, self.status = w.Image(layout={"display": "none"}), w.HTML()
        self.truth = w.Textarea(rows=4, placeholder="what is printed there", continuous_update=False, layout=wide())
        for name in ("source", "sets", "pages", "upload", "path", "status", "truth"):
            getattr(self, name).add_class(f"ocr-pick-{name}")
        limit = f"images, PDF, TIFF; at most {UPLOAD_LIMIT_BYTES >> 20} MiB"
        refused = w.HTML('<div class="ocr-refused"></div>')  # where page.js says what it held back
        self._panes = {
            _SET: labelled("set", self.sets),
            _UPLOAD: w.VBox([labelled(limit, self.upload), refused], layout=wide()),
            _PATH: labelled("a file or folder on this computer", self.path),
        }
        self._pane = w.VBox([self._panes[_SET]], layout=wide())
        shown = w.Box([self.image], layout=wide(justify_content="center")).add_class("ocr-page")
        parts = [self.source, self._pane, labelled("page", self.pages), shown, self.status, folded("truth", self.truth)]
        self.box = card("Page", *parts)

    def _turn(self) -> None:
        self._pane.children = (self._panes[self.source.value],)
        path = self.path.value.strip()
        if self.source.value == _SET:
            self._list(self.sets.value)
        elif self.source.value == _PATH and path:
            self._list(Path(path).expanduser())

    def _from_upload(self) -> None:
        if not self.upload.value:
            return
        given: dict[str, Any] = dict(self.upload.value[0])
        self.upload.value = ()  # else its bytes stay in memory and in the page
        length = max(given["size"], len(given["content"]))
        if length > UPLOAD_LIMIT_BYTES:
            self.pages.options = ()
            limit = f"the upload limit of {UPLOAD_LIMIT_BYTES >> 20} MiB; give its path instead, or make it smaller"
            self._refuse(PageError(f"{given['name']}: {length / 2**20:,.1f} MiB are above {limit}"))
            return
        file = Path(self._folder.name) / file_name(str(given["name"]))
        file.write_bytes(bytes(given["content"]))
        self._list(file)

    def _list(self, place: str | Path) -> None:
        """Offer the pages of a set or a file, and open the first."""
        try:
            if isinstance(place, Path) and not place.exists():
                raise PageError(f"{place}: no such file or folder, seen from {Path.cwd()}; check the path")
            self._listed = {page.id: page for page in load_pages(place)}
        except (PageError, OSError, ValueError) as error:
            self._listed = {}
            self._refuse(error)
        self.pages.options = list(self._listed)
        self.pages.index = 0 if self._listed else None
        self._open()

    def _open(self) -> None:
        page = self._listed.get(self.pages.value)
        if page is None or page is self.page:
            return
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
        truth = "its truth is known" if page.truth is not None else "no truth, so no error rate"
        size = f"{self.size[0]:,} × {self.size[1]:,} pixels"
        self.status.value = note(f"{page.id}: {size}; {truth}") + note(page.problem, "warn")
        self._changed()

    def size_within(self, max_pixels: int | None) -> tuple[int, int] | None:
        """Return the chosen page's width and height in pixels where a reader has this budget; None without a page.

        Raises:
            PageError: its file is gone.
        """
        if self.page is None:
            return None
        return self.size if self.page.page_number is None else page_size(self.page, max_pixels)

    def _take_truth(self) -> None:
        if self.page is not None and self.truth.value != (self.page.truth or ""):
            self.page = replace(self.page, truth=self.truth.value or None)
            self._changed()

    def has_folder(self, page: Page) -> bool:
        """Return whether a truth may lie beside a page: not in an upload, a store, the Hub or a set with a manifest."""
        own = type(page) is Page and not is_url(page.set) and not page.file.is_relative_to(self._folder.name)
        return own and not any((folder / MANIFEST).is_file() for folder in page.file.parents)

    def keep(self, page: Page, text: str, labelled: Path | None = None, replace_it: bool = False) -> tuple[Page, Path]:
        """Write a page's truth beside its file, or beside a copy in `labelled`; return the page with it, and where.

        Raises:
            TruthExists: one is there, and not `replace_it`.
            PageError: it cannot be written.
        """
        try:
            with page.local() as file:
                name = f"{hash_of(file)[0][:8]}-{file_name(PurePath(page.where).name)}"
                beside = file if labelled is None else labelled / name
                if not beside.exists():
                    beside.parent.mkdir(parents=True, exist_ok=True)
                    write_whole(beside, file.read_bytes())
            kept = keep_truth(text, beside, page.page_number, replace=replace_it)
        except OSError as error:
            raise PageError(f"{error.filename}: cannot be written ({error.strerror})") from error
        known = replace(page, truth=truth_beside(beside, page.page_number)[0], truth_source="file")
        self._listed = {name: known if one.sha256 == page.sha256 else one for name, one in self._listed.items()}
        if self.page is not None and self.page.sha256 == page.sha256:
            self.truth.value = known.truth or ""
        return known, kept

    def _refuse(self, error: Exception) -> None:
        self.page, self.image.layout.display = None, "none"
        self.status.value = note(error, "bad")
        self._changed()
