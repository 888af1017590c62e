"""The playground put together: page, settings, a second column on demand, and what the session has read."""

from __future__ import annotations

import atexit
import threading
from pathlib import Path
from typing import Any

import ipywidgets as w
from IPython.display import Javascript, display

from ocrlab import paths
from ocrlab.pages import Page
from ocrlab.playground.capabilities import Capabilities, Helper, HelperError, find_capabilities, forecast
from ocrlab.playground.column import Column
from ocrlab.playground.form import MARKED, SettingsForm, card, side_by_side, wide
from ocrlab.playground.html import STYLE, block, busy, costs, note, ruled_out, table
from ocrlab.playground.picker import UPLOAD_LIMIT_BYTES, Picker
from ocrlab.playground.session import Session
from ocrlab.reading.isolated import PageResult
from ocrlab.scoring.metrics import METRICS, character_edits, first_divergence
from ocrlab.study import tables

_TITLE = "<h1>ocrlab playground</h1>"
_SCRIPT = (Path(__file__).parent / "page.js").read_text(encoding="utf-8")
_HINT = (
    "01-machine has not run here with this stack, so kernels are known by rules alone and there is no least time. "
    "To find out: make reproduce ONLY=01-machine, then open this again"
)


class Playground:
    """A page, one or two settings, their readings. Show it as a cell's last value; `read` does by code what Read does.

    Raises:
        SettingError: no such preset.
        PageError: no such set.
    """

    def __init__(self, preset: str = "tiny", page_set: str = "lines", page: int = 0) -> None:
        self.helper, self.known = Helper(), Capabilities()
        self.session = Session(self.helper)
        self._asked = threading.Event()
        self.columns: list[Column] = []  # none while the picker opens its first page
        self.picker = Picker(page_set, page, self._ask)
        forms = [SettingsForm(preset, self._ask) for _ in "AB"]
        self.columns = [Column(*pair, self.session, self.picker, self._done) for pair in zip("AB", forms, strict=True)]
        self.compare = w.ToggleButton(description="Compare two settings", icon="columns", layout=wide())
        self.compare.add_class("ocr-compare").observe(self._arrange, "value")
        self.head, self.status = w.HTML(_TITLE).add_class("ocr-head"), w.HTML()
        self.comparison = w.HTML().add_class("ocr-comparison")
        self.history = w.HTML(self.session.html()).add_class("ocr-history")
        self.cards = side_by_side([], 340, "14px")
        top = w.HBox([self.head, self.compare], layout=wide(flex_flow="row wrap", justify_content="space-between"))
        style = w.HTML(STYLE, layout={"display": "none"})
        parts = [style, top, self.status, self.cards, self.comparison, card("This session", self.history)]
        self.box = w.VBox(parts, layout=wide(grid_gap="12px")).add_class("ocr-app")
        self._arrange()
        atexit.register(self.close)  # before multiprocessing waits for its processes
        threading.Thread(target=self._background, daemon=True).start()

    def _ipython_display_(self) -> None:
        display(Javascript(_SCRIPT.replace("LIMIT", str(UPLOAD_LIMIT_BYTES), 1)), self.box)

    def read(self, column: int = 0) -> PageResult | None:
        """Read the chosen page with column A (0) or B (1), show it, and return what came once it is there."""
        return self.columns[column].read()

    def table(self) -> Any:
        """Return the session's readings as a pandas table, the newest last."""
        return self.session.table()

    def close(self) -> None:
        """End the process that holds the model, and the helper's; what was read stays shown."""
        self.helper.close()
        self.session.close()
        self._asked.set()

    def _arrange(self, _: Any = None) -> None:
        columns = self.columns if self.compare.value else self.columns[:1]
        self.cards.children = [self.picker.box, *(column.box for column in columns)]
        self.comparison.layout.display = "" if self.compare.value else "none"

    def _ask(self) -> None:
        """Have the forecasts made again; called at every change of page or settings."""
        for column in self.columns:
            column.show_settings()
        self._asked.set()

    def _done(self, column: Column) -> None:
        seen, settings = column.seen, column.show_settings()
        if seen is not None and settings is not None and seen.reading.status == "unsupported":
            self.known.refuse(settings, seen.reading.reason)
        self.history.value = self.session.html()
        one, other = self.columns
        self.comparison.value = compared(one.seen, other.seen, one.page, other.page)
        self._asked.set()

    def _background(self) -> None:
        """Load the embedded reader, find out what is known of this machine, then forecast at each change."""
        first = self.columns[0].show_settings()
        if first is not None and first.model_id == "tiny":  # others may be a download, which nobody asked for yet
            self.status.value = busy("loading the embedded reader")
            self.session.prepare(first)
        try:
            own = paths.BUILD / "scratch", self.session.folder
            self.known = self.helper.call(find_capabilities, paths.RESULTS, *own)
            self.head.value = _TITLE + block(self.known.stack, "ocr-quiet")
            self.status.value = "" if self.known.source else note(_HINT)
        except HelperError as error:
            self.status.value = "" if self.helper.closed else note(f"not found out what runs here: {error}", "warn")
        while not self.helper.closed:
            self._asked.clear()
            for column in self.columns:
                self._forecast(column)
            self._asked.wait()

    def _forecast(self, column: Column) -> None:
        settings = column.show_settings()
        if settings is None:
            return
        page_size = self.picker.size if self.picker.page is not None else None
        choices = {name: column.form.choices(name) for name in MARKED}
        try:
            found = self.helper.call(forecast, settings, page_size, self.known, choices, self.session.rows)
        except HelperError as error:
            if not self.helper.closed:
                column.show_forecast(note(f"no forecast: {error}", "warn"), "", "")
            return
        column.form.mark(found.reasons)
        column.show_forecast(found.html, found.against, ruled_out(found.reasons))


def compared(one: PageResult | None, other: PageResult | None, page: Page | None, same: Page | None) -> str:
    """Return HTML that compares the readings A and B, or what is missing for it."""
    if one is None or other is None or page is None or same is None:
        return note("Read the page with A and with B: then they are compared here.")
    if (page.id, page.sha256) != (same.id, same.sha256):
        return note("A and B read different pages; read the same one with both to compare them.", "warn")
    a, b = one.reading, other.reading
    words, different = note(f"A and B read the same {len(a.text)} letters.", "good"), ""
    if (at := first_divergence(a.text, b.text)) is not None:
        edits = character_edits(b.text, a.text).edits
        said = f"A and B first differ at letter {at + 1}, by {edits} edits in all (white space collapsed)."
        words, different = note(said, "warn"), str(tables.diff(b.text, a.text, ("A", "B")).data)
    lines: list[tuple[str, ...]] = [("status", a.status, b.status)]
    if page.truth is not None:
        lines.append(("CER", *(f"{METRICS['cer'].edits(r.text, page.truth).rate:.2%}" for r in (a, b))))
    other_costs = costs(b)
    lines += [(name, value, other_costs[name]) for name, value in costs(a).items()]
    once = note("One reading each: small differences in time are noise; notebooks 02 to 05 give intervals.")
    return f'<div class="ocr-card"><h2>A and B</h2>{words}{table(("", "A", "B"), lines)}{different}{once}</div>'
