"""One column: settings, a forecast, Read and Cancel, the text as it comes, its costs and errors; and its correction."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import ipywidgets as w

from ocrlab.pages import Page, PageError
from ocrlab.pages.truth import TruthExists, names_beside
from ocrlab.playground.capabilities import HelperError
from ocrlab.playground.form import SettingsForm, card, folded, side_by_side, wide
from ocrlab.playground.html import STATUS_KIND, block, busy, chips, costs, note, savable
from ocrlab.playground.picker import Picker
from ocrlab.playground.session import Session
from ocrlab.reading.isolated import PageResult
from ocrlab.reading.settings import SettingError, Settings
from ocrlab.scoring.clean import clean
from ocrlab.scoring.metrics import METRICS
from ocrlab.scoring.outcomes import WITH_TEXT
from ocrlab.study import tables

_SHOW_EVERY_S = 0.05


class Column:
    """A setting and what it read. `done` is called after each reading."""

    def __init__(
        self, name: str, form: SettingsForm, session: Session, picker: Picker, done: Callable[[Column], None]
    ) -> None:
        self.form, self._session, self._picker, self._done = form, session, picker, done
        self.seen: PageResult | None = None
        self.page: Page | None = None
        self._against = ""
        self._streamed, self._shown_at, self._reading = "", 0.0, False
        self.read_button = w.Button(description="Read", button_style="primary", icon="play", layout=wide(flex="1"))
        self.cancel_button = w.Button(description="Cancel", icon="stop", disabled=True, layout=wide(flex="1"))
        self.read_button.on_click(lambda _: self.start())
        self.cancel_button.on_click(lambda _: self.cancel())
        self.forecast, self.state, self.text, self.result, self.export = (w.HTML() for _ in range(5))
        self.correct_button = w.Button(description="Correct and keep", icon="pencil", disabled=True, layout=wide())
        for part in ("forecast", "state", "text", "result", "export", "read_button", "cancel_button", "correct_button"):
            getattr(self, part).add_class(f"ocr-{name.lower()}-{part.removesuffix('_button')}")
        buttons = w.HBox([self.read_button, self.cancel_button], layout=wide())
        ends = [self.correct_button, folded("export these settings", self.export)]
        parts = [self.form.box, self.forecast, buttons, self.state, self.text, self.result, *ends]
        self.box = card(f"Settings {name}", *parts).add_class(f"ocr-column-{name.lower()}")
        self.show_settings()

    def show_settings(self) -> Settings | None:
        """Show the settings to export, or what is wrong with them; return them where nothing is."""
        try:
            settings = self.form.settings()
        except SettingError as error:
            self._against, self.export.value, self.forecast.value = str(error), "", note(error, "bad")
            self._allow()
            return None
        self._against = ""
        preset, cell = preset_text(settings), cell_source(settings)
        files = (preset, "playground.yaml", "preset"), (cell, "playground-cell.py", "cell")
        self.export.value = "".join(block(text, "ocr-text") + savable(text, *names) for text, *names in files)
        self._allow()
        return settings

    def show_forecast(self, costs: str, against: str, elsewhere: str) -> None:
        """Show what the reading will take (HTML), why it cannot be read (words), and what does not run here (HTML)."""
        self._against = against
        self.forecast.value = costs + note(against and f"This cannot be read here: {against}", "bad") + elsewhere
        self._allow()

    def start(self) -> None:
        """Read the chosen page in a thread of its own, so that the person can go on, and cancel."""
        threading.Thread(target=self.read, daemon=True).start()

    def cancel(self) -> None:
        """Ask the reading to end."""
        self.cancel_button.disabled = True
        self.state.value = busy("cancelling")
        self._session.cancel()

    def read(self) -> PageResult | None:
        """Read the chosen page with the settings and show all of it; return what came, or None where nothing could."""
        settings, page = self.show_settings(), self._picker.page
        if settings is None or page is None:
            self.state.value = note("choose a page that can be opened, and settings that can be", "warn")
            return None
        self._session.pages[page.sha256] = page, self._picker.image.value
        self.page, self.seen, self.result.value, self.text.value, self._streamed = page, None, "", "", ""
        self._allow(reading=True)
        loaded = self._session.reader.has(settings)
        self.state.value = busy("reading" if loaded else f"loading {settings.model_id}, then reading")
        try:
            self.seen = self._session.read(settings, page, self._stream)
            self._show(self.seen, page)
        finally:
            self._allow(reading=False)
        try:
            self._session.keep(settings, page, self.seen)
        except HelperError as error:
            self.result.value += note(f"not kept: {error}", "bad")
        self._done(self)
        return self.seen

    def _allow(self, reading: bool | None = None) -> None:
        self._reading = self._reading if reading is None else reading  # a forecast may come while a page is read
        self.cancel_button.disabled = not self._reading
        self.correct_button.disabled = self.seen is None or self.seen.reading.status not in WITH_TEXT
        self.read_button.disabled = self._reading or bool(self._against)
        self.read_button.tooltip = self._against or "read the page with these settings"

    def _stream(self, piece: str) -> None:
        if not self._streamed:
            self.state.value = busy("reading")
        self._streamed += piece
        if time.monotonic() - self._shown_at > _SHOW_EVERY_S:
            self.text.value, self._shown_at = block(self._streamed, "ocr-text", "ocr-live"), time.monotonic()

    def _show(self, seen: PageResult, page: Page) -> None:
        reading = seen.reading
        text = reading.text or self._streamed
        self.text.value = block(text, "ocr-text") if text else ""
        lost = ". The process that held the model is gone; the next Read starts a fresh one" if seen.died else ""
        words = f"{reading.status}: {reading.reason or 'read to its end'}{lost}"
        self.state.value = note(words, STATUS_KIND.get(reading.status, "bad"))
        parts = [chips(costs(reading))]
        if page.truth is not None and reading.status in WITH_TEXT:
            found = METRICS["cer"].edits(reading.text, page.truth)
            words = f"CER {found.rate:.2%}: {found.edits} edits in {found.length} letters, white space collapsed"
            if taken := clean(reading.text).removed_characters:
                words += f", without {taken} characters of remarks and markup"
            parts += [note(words), str(tables.diff(reading.text, page.truth).data)]
        if text:
            parts.append(savable(text, f"{reading.page}.txt", "text"))
        self.result.value = "".join(parts)


class Correction:
    """A reading beside its page, to be corrected, and kept as the page's truth; `kept` is called with the page then."""

    def __init__(self, session: Session, picker: Picker, kept: Callable[[Page], None]) -> None:
        self._session, self._picker, self._kept, self._folder = session, picker, kept, session.folder / "labelled"
        self.page, self._read, self._again = Page("", Path(), "", ""), "", (False, False)
        self.image, self.changes, self.state = w.Image(), w.HTML(), w.HTML().add_class("ocr-correct-state")
        self.text = w.Textarea(layout=wide()).add_class("ocr-correct-text")
        self.text.observe(lambda _: self._show_changes(), "value")
        self.keep_button = w.Button(description="Keep", button_style="primary", icon="save", layout=wide())
        self.keep_button.add_class("ocr-correct-keep").on_click(lambda _: self.keep())
        self.sure_button = w.Button(button_style="warning", layout=wide())
        self.sure_button.add_class("ocr-correct-sure").on_click(lambda _: self.keep(*self._again))
        close_button = w.Button(description="Close", layout=wide())
        close_button.on_click(lambda _: self.close())
        both = side_by_side([w.Box([self.image], layout=wide()).add_class("ocr-place"), self.text], 340)
        buttons = w.HBox([self.keep_button, self.sure_button, close_button], layout=wide(flex_flow="row wrap"))
        self.box = card("Correct and keep", both, self.changes, self.state, buttons).add_class("ocr-correct")
        self.close()

    def open(self, column: Column) -> None:
        """Show the page that a column read, and its text less what the model wrote around it."""
        if column.page is None or column.seen is None:
            return
        page = self.page = column.page
        self.image.value = self._session.pages[page.sha256][1]
        self._read = self.text.value = clean(column.seen.reading.text).text
        self._show_changes()
        beside = page.file.with_name(names_beside(page.file.stem, page.page_number)[0])
        where = f"as {beside}" if self._picker.has_folder(page) else f"in {self._folder}, beside a copy of the page"
        self._say(f"{page.id}: what you write here is kept as its truth, {where}", "quiet")
        self.box.layout.display = ""

    def keep(self, copy: bool = False, replace_it: bool = False) -> None:
        """Write the text as the page's truth, where asked beside a copy of the page; or offer what can be done."""
        copy = copy or not self._picker.has_folder(self.page)
        try:
            known, file = self._picker.keep(self.page, self.text.value, self._folder if copy else None, replace_it)
        except TruthExists as error:
            self._say(error, "warn", f"Yes, write {error.target.name}", copy, True)
        except PageError as error:
            place = f"Keep it in {self._folder}, beside a copy of the page"
            self._say(error, "bad", "" if copy else place, True)
        else:
            self._say(f"kept as {file}", "good")
            self._kept(known)

    def close(self) -> None:
        """Put the text away; what was not kept is gone."""
        self.box.layout.display = "none"

    def _say(self, words: object, kind: str, offer: str = "", copy: bool = False, replace_it: bool = False) -> None:
        self.state.value, self._again = note(words, kind), (copy, replace_it)
        self.sure_button.description, self.sure_button.layout.display = offer, "" if offer else "none"

    def _show_changes(self) -> None:
        self.changes.value = str(tables.diff(self.text.value, self._read, ("read", "yours")).data)


def preset_text(settings: Settings) -> str:
    """Return the text of a preset file that `load_preset` turns into the same settings."""
    return f"# Saved from the playground; read with it: python -m ocrlab read PATH --preset FILE\n{settings.to_yaml()}"


def cell_source(settings: Settings) -> str:
    """Return the source of a notebook cell that makes the same settings."""
    fields = "".join(f"    {name}={value!r},\n" for name, value in settings.changed().items())
    return f"from ocrlab import Settings\n\nsettings = Settings({f'{chr(10)}{fields}' if fields else ''})\n"
