"""One column: settings, a forecast, Read and Cancel, the text as it comes, what it cost, how far from the truth."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import ipywidgets as w

from ocrlab.pages import Page
from ocrlab.playground.export import cell_source, preset_text
from ocrlab.playground.form import SettingsForm
from ocrlab.playground.helper import HelperError
from ocrlab.playground.html import STATUS_KIND, block, busy, costs, note, savable
from ocrlab.playground.picker import Picker
from ocrlab.playground.session import Sitting
from ocrlab.playground.widgets import wide
from ocrlab.reading.live import Seen
from ocrlab.reading.settings import SettingError, Settings
from ocrlab.report import tables
from ocrlab.scoring import WITH_TEXT, character_edits

_SHOW_EVERY_S = 0.05


class Column:
    """A setting and what it read. `done` is called after each reading, `changed` at each change of the settings."""

    def __init__(
        self, name: str, preset: str, sitting: Sitting, picker: Picker, changed: Callable[[], None],
        done: Callable[[Column], None],
    ) -> None:  # fmt: skip
        self.name, self._sitting, self._picker, self._done = name, sitting, picker, done
        self.seen: Seen | None = None
        self.page: Page | None = None
        self.against = ""
        self.form = SettingsForm(preset, changed)
        self.read_button = w.Button(description="Read", button_style="primary", icon="play", layout=wide(flex="1"))
        self.cancel_button = w.Button(description="Cancel", icon="stop", disabled=True, layout=wide(flex="1"))
        self.read_button.on_click(lambda _: self.start())
        self.cancel_button.on_click(lambda _: self.cancel())
        self.forecast, self.state, self.text, self.result = w.HTML(), w.HTML(), w.HTML(), w.HTML()
        self.takeaway = w.HTML()
        for part in ("forecast", "state", "text", "result", "takeaway", "read_button", "cancel_button"):
            getattr(self, part).add_class(f"ocr-{name.lower()}-{part.removesuffix('_button')}")
        folded = w.Accordion([self.takeaway], titles=("take these settings along",), selected_index=None, layout=wide())
        buttons = w.HBox([self.read_button, self.cancel_button], layout=wide())
        self.box = w.VBox(
            [w.HTML(f"<h2>Settings {name}</h2>"), self.form.box, self.forecast, buttons, self.state, self.text,
             self.result, folded],
        )  # fmt: skip
        self.box.add_class("ocr-card")
        self.box.add_class(f"ocr-column-{name.lower()}")
        self.show_settings()

    def show_settings(self) -> Settings | None:
        """Show the settings to take along, or what is wrong with them; return them where nothing is."""
        try:
            settings = self.form.settings()
        except SettingError as error:
            self.forecast.value, self.takeaway.value, self.against = note(error, "bad"), "", str(error)
            self._allow()
            return None
        self.against = ""
        preset, cell = preset_text(settings), cell_source(settings)
        self.takeaway.value = (
            block(preset, "ocr-text") + savable(preset, "playground.yaml", "preset")
            + block(cell, "ocr-text") + savable(cell, "playground-cell.py", "cell")
        )  # fmt: skip
        self._allow()
        return settings

    def show_forecast(self, told: str, against: str, elsewhere: str) -> None:
        """Show what the reading will take (HTML), why it cannot be read (words), and what does not run here (HTML)."""
        self.against = against
        words = f"This cannot be read here: {against}" if against else ""
        self.forecast.value = told + note(words, "bad") + elsewhere
        self._allow()

    def start(self) -> None:
        """Read the chosen page in a thread of its own, so that the person can go on, and cancel."""
        threading.Thread(target=self.read, daemon=True).start()

    def cancel(self) -> None:
        """Ask the reading to end."""
        self.cancel_button.disabled = True
        self.state.value = busy("cancelling")
        self._sitting.cancel()

    def read(self) -> Seen | None:
        """Read the chosen page with the settings and show all of it; return what came, or None where nothing could."""
        settings, page = self.show_settings(), self._picker.page
        if settings is None or page is None:
            self.state.value = note("choose a page that can be opened, and settings that can be", "warn")
            return None
        self.page, self.seen, self.result.value, self.text.value = page, None, "", ""
        self._allow(reading=True)
        live = _Live(self.text, self.state)
        words = "reading" if self._sitting.reader.has(settings) else f"loading {settings.model_id}, then reading"
        self.state.value = busy(words)
        try:
            self.seen = self._sitting.read(settings, page, live.add)
            self._show(self.seen, page, live.text)
        finally:
            self._allow()
        try:
            self._sitting.keep(settings, page, self.seen)
        except HelperError as error:
            self.result.value += note(f"not kept: {error}", "bad")
        self._done(self)
        return self.seen

    def _allow(self, reading: bool = False) -> None:
        self.cancel_button.disabled = not reading
        self.read_button.disabled = reading or bool(self.against)
        self.read_button.tooltip = self.against or "read the page with these settings"

    def _show(self, seen: Seen, page: Page, streamed: str) -> None:
        reading = seen.reading
        text = reading.text or streamed
        self.text.value = block(text, "ocr-text") if text else ""
        told = f"{reading.status}: {reading.reason or 'read to its end'}"
        if seen.died:
            told += ". The process that held the model is gone; the next Read starts a fresh one"
        self.state.value = note(told, STATUS_KIND.get(reading.status, "bad"))
        parts = [costs(reading)]
        if page.truth is not None and reading.status in WITH_TEXT:
            found = character_edits(reading.text, page.truth)
            words = f"CER {found.rate:.2%}: {found.edits} edits in {found.length} letters, white space collapsed"
            parts += [note(words), str(tables.diff(reading.text, page.truth).data)]
        if text:
            parts.append(savable(text, f"{reading.page}.txt", "text"))
        self.result.value = "".join(parts)


class _Live:
    """The text so far, shown some twenty times a second."""

    def __init__(self, text: w.HTML, state: w.HTML) -> None:
        self.text, self._shown, self._at, self._state = "", text, 0.0, state

    def add(self, piece: str) -> None:
        if not self.text:
            self._state.value = busy("reading")
        self.text += piece
        if time.monotonic() - self._at > _SHOW_EVERY_S:
            self._shown.value, self._at = block(self.text, "ocr-text", "ocr-live"), time.monotonic()
