"""The playground put together: page, settings, a second column on demand, the sitting's history."""

from __future__ import annotations

import atexit
import threading
from pathlib import Path
from typing import Any

import ipywidgets as w
from IPython.display import Javascript, display

from ocrlab.machine.probes import all_probes
from ocrlab.playground.capabilities import CACHE, CASES, Here, measured_here, remembered, resolved
from ocrlab.playground.column import Column
from ocrlab.playground.comparison import compared
from ocrlab.playground.forecast import forecast
from ocrlab.playground.form import MARKED
from ocrlab.playground.helper import Helper, HelperError, introduce
from ocrlab.playground.history import history_html, history_table
from ocrlab.playground.html import STYLE, block, busy, note, ruled_out
from ocrlab.playground.picker import UPLOAD_LIMIT_BYTES, Picker
from ocrlab.playground.session import Sitting
from ocrlab.playground.widgets import side_by_side, wide
from ocrlab.reading.live import Seen
from ocrlab.reading.settings import Settings

_TITLE = "<h1>ocrlab playground</h1>"
_GUARD = (Path(__file__).parent / "guard.js").read_text(encoding="utf-8")


class Playground:
    """A page, one or two settings, their readings. Show it as a cell's last value; `read` does by code what Read does.

    Raises:
        SettingError: no such preset.
        PageError: no such set.
    """

    def __init__(self, preset: str = "tiny", page_set: str = "lines", page: int = 0) -> None:
        self.helper, self.here = Helper(), Here()
        self.sitting = Sitting(self.helper)
        self._asked = threading.Event()
        self._ready = False
        self.picker = Picker(page_set, page, self._ask)
        self.columns = [Column(n, preset, self.sitting, self.picker, self._ask, self._done) for n in ("A", "B")]
        self.compare = w.ToggleButton(description="Compare two settings", icon="columns", layout=wide())
        self.compare.add_class("ocr-compare")
        self.compare.observe(self._arrange, "value")
        self.head, self.spare = w.HTML(), w.HTML()
        self.comparison, self.history = w.HTML(), w.HTML(history_html([], self.sitting.folder))
        self.comparison.add_class("ocr-comparison")
        self.history.add_class("ocr-history")
        self.cards = side_by_side([], 340, "14px")
        past = w.VBox([w.HTML("<h2>This sitting</h2>"), self.history], layout=wide())
        past.add_class("ocr-card")
        top = w.HBox([self.head, self.compare], layout=wide(flex_flow="row wrap", justify_content="space-between"))
        self.box = w.VBox(
            [w.HTML(STYLE, layout={"display": "none"}), top, self.spare, self.cards, self.comparison, past],
            layout=wide(grid_gap="12px"),
        )  # fmt: skip
        self.box.add_class("ocr-app")
        self.head.add_class("ocr-head")
        self.head.value = _TITLE + block("", "ocr-quiet")
        self._arrange()
        self._ready = True
        atexit.register(self.close)  # before multiprocessing waits for its processes
        threading.Thread(target=self._background, daemon=True).start()

    def _ipython_display_(self) -> None:
        display(Javascript(_GUARD.replace("LIMIT", str(UPLOAD_LIMIT_BYTES), 1)), self.box)

    def read(self, column: int = 0) -> Seen | None:
        """Read the chosen page with column A (0) or B (1), show it, and return what came once it is there."""
        return self.columns[column].read()

    def table(self) -> Any:
        """Return the sitting's readings as a pandas table, the newest last."""
        return history_table(self.sitting.rows)

    def close(self) -> None:
        """End the process that holds the model, and the helper's; what was read stays shown."""
        self.helper.close()
        self.sitting.close()
        self._asked.set()

    def _arrange(self, _: Any = None) -> None:
        shown = self.columns if self.compare.value else self.columns[:1]
        self.cards.children = [self.picker.box, *(column.box for column in shown)]
        self.comparison.layout.display = "" if self.compare.value else "none"

    def _ask(self) -> None:
        """Have the forecasts made again; called at every change of page or settings."""
        if self._ready:
            for column in self.columns:
                column.show_settings()
        self._asked.set()

    def _done(self, column: Column) -> None:
        seen, settings = column.seen, column.show_settings()
        if seen is not None and settings is not None and seen.reading.status == "unsupported":
            self.here.learn(settings, seen.reading.reason)
        self.history.value = history_html(self.sitting.rows, self.sitting.folder)
        one, other = self.columns
        self.comparison.value = compared(one.seen, other.seen, one.page, other.page)
        self._asked.set()

    def _background(self) -> None:
        """Load the embedded reader, then forecast at each change; find out what runs here in spare moments."""
        first = self.columns[0].show_settings()
        if first is not None and first.model_id == "tiny":  # others may be a download, which nobody asked for yet
            self.spare.value = busy("loading the embedded reader")
            self.sitting.prepare(first)
            self.spare.value = ""
        try:
            words, stack = self.helper.call(introduce)
        except HelperError as error:
            self.spare.value = note(f"the helper process does not start, so there are no forecasts: {error}", "bad")
            return
        self.head.value = _TITLE + block(words, "ocr-quiet")
        self.here = remembered(CACHE, stack)
        threading.Thread(target=self._explore, daemon=True).start()
        while not self.helper.closed:
            self._asked.clear()
            for column in self.columns:
                self._forecast(column)
            self._asked.wait()

    def _explore(self) -> None:
        settings = self.columns[0].show_settings() or Settings()
        say = lambda words: setattr(self.spare, "value", busy(words))  # noqa: E731
        try:
            device, _ = self.helper.call(resolved, settings)
            if not self.here.probed:
                probes = all_probes(device.split(":")[0], cases=CASES)
                self.here.try_kernels(probes, self._spare_moment, say)
                self._asked.set()
            if self.helper.call(self.here.machine, settings) is None:
                say("measuring this machine's bandwidth and matmul rate")
                self._spare_moment()
                if (found := self.helper.call(measured_here, settings)) is not None:
                    self.here.machines[found[0]] = found[1]
            self.here.save(CACHE)
            self.spare.value = ""
        except HelperError as error:
            self.spare.value = "" if self.helper.closed else note(f"not found out what runs here: {error}", "warn")
        self._asked.set()

    def _spare_moment(self) -> None:
        self.sitting.wait()
        if self.helper.closed:
            raise HelperError("it was closed")

    def _forecast(self, column: Column) -> None:
        settings = column.show_settings()
        if settings is None:
            return
        page_size = self.picker.size if self.picker.page is not None else None
        options = {name: column.form.choices(name) for name in MARKED}
        try:
            found = self.helper.call(forecast, settings, page_size, self.here, options, self.sitting.rows)
        except HelperError as error:
            if not self.helper.closed:
                column.show_forecast(note(f"no forecast: {error}", "warn"), "", "")
            return
        column.form.mark(found.reasons)
        column.show_forecast(found.shown, found.against, ruled_out(found.reasons))
