"""The playground put together: page, settings, a second column on demand, blind votes, and what was read."""

from __future__ import annotations

import atexit
import random
import threading
import time
from pathlib import Path
from typing import Any

import ipywidgets as w
from IPython.display import Javascript, display

from ocrlab import paths
from ocrlab.pages import Page, PageError
from ocrlab.playground.capabilities import Capabilities, Helper, HelperError, find_capabilities, forecast
from ocrlab.playground.column import Column, Correction
from ocrlab.playground.form import MARKED, SettingsForm, card, side_by_side, wide
from ocrlab.playground.html import STYLE, block, busy, costs, escaped, note, ruled_out, table
from ocrlab.playground.picker import UPLOAD_LIMIT_BYTES, Picker
from ocrlab.playground.session import Session
from ocrlab.reading.isolated import PageResult
from ocrlab.scoring.metrics import METRICS, character_edits, first_divergence
from ocrlab.study import tables
from ocrlab.study.agreement import Choice, Place, places, vote_words
from ocrlab.study.records import RecordError

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
        self.blind = Blind(self.session, self.picker, self.columns)
        self.blind.button.observe(self._arrange, "value")
        self.correction = Correction(self.session, self.picker, self._know)
        for column in self.columns:
            column.correct_button.on_click(lambda _, column=column: self.correction.open(column))
        self.head, self.status = w.HTML(_TITLE).add_class("ocr-head"), w.HTML()
        self.comparison = w.HTML().add_class("ocr-comparison")
        self.history = w.HTML(self.session.html()).add_class("ocr-history")
        self.cards = side_by_side([], 340, "14px")
        switches = w.HBox([self.compare, self.blind.button], layout=wide(flex_flow="row wrap"))
        top = w.HBox([self.head, switches], layout=wide(flex_flow="row wrap", justify_content="space-between"))
        named = [self.cards, self.correction.box, self.comparison, card("This session", self.history)]
        self._named = w.VBox(named, layout=wide(grid_gap="12px"))
        parts = [w.HTML(STYLE, layout={"display": "none"}), top, self.status, self.blind.box, self._named]
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
        two = bool(self.compare.value)
        blind = two and self.blind.button.value  # whose texts they are is not to be seen then
        shown = {self.blind.button: two, self.comparison: two, self.blind.box: blind, self._named: not blind}
        for part, visible in shown.items():
            part.layout.display = "" if visible else "none"
        (self.blind.start if blind else self._compare)()

    def _know(self, page: Page) -> None:
        for row in self.session.rows:
            row["truth"] = page.truth if row["page_sha256"] == page.sha256 else row["truth"]
        self.history.value = self.session.html()

    def _compare(self) -> None:
        one, other = self.columns
        a, b = (column.show_settings() for column in self.columns)
        words = vote_words(self.session.votes.records, a, b) if a is not None and b is not None else ""
        votes = block(words, "ocr-card") if words else ""
        self.comparison.value = compared(one.seen, other.seen, one.page, other.page) + votes

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
        self._compare()
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
        choices = {name: column.form.choices(name) for name in MARKED}
        try:
            size = self.picker.size_within(settings.max_pixels)
            found = self.helper.call(forecast, settings, size, self.known, choices, self.session.rows)
        except (HelperError, PageError) as error:
            if not self.helper.closed:
                column.show_forecast(note(f"no forecast: {error}", "warn"), "", "")
            return
        column.form.mark(found.reasons)
        column.show_forecast(found.html, found.against, ruled_out(found.reasons))


_KEYS: dict[Choice, str] = {"left": "← left", "both": "↑ both fine", "neither": "↓ neither", "right": "right →"}


class Blind:
    """Texts of two settings where they part, beside the page, left and right at random: one vote for each place."""

    def __init__(self, session: Session, picker: Picker, columns: list[Column]) -> None:
        self._session, self._picker, self._columns = session, picker, columns
        self._todo: list[tuple[str, Place]] = []
        self._why, self._left, self._shown_at = "", 0, 0.0
        self.button = w.ToggleButton(description="Vote blind", icon="eye-slash", layout=wide()).add_class("ocr-blind")
        self.image, self.texts, self.state = w.Image(), w.HTML(), w.HTML().add_class("ocr-vote-state")
        self._keys = w.HBox(layout=wide())
        for choice, words in _KEYS.items():
            key = w.Button(description=words, layout=wide(flex="1 1 auto")).add_class(f"ocr-vote-{choice}")
            key.on_click(lambda _, choice=choice: self.vote(choice))
            self._keys.children += (key,)
        self._next = w.Button(description="Read the next page with both", layout=wide()).add_class("ocr-vote-next")
        self._next.on_click(lambda _: threading.Thread(target=self._read_next, daemon=True).start())
        self._place = w.Box([self.image], layout=wide()).add_class("ocr-place")
        self.box = card("Which is right?", self._place, self.texts, self._keys, self.state, self._next)
        self.box.add_class("ocr-vote")

    def start(self) -> None:
        """Show the first place without a vote of the pages that both settings read in this session."""
        a, b = (column.show_settings() for column in self._columns)
        self._todo, self._why = [], "A and B have to be two settings"
        if a is not None and b is not None and a != b:
            self._pair, known = (a, b), self._session.votes.by_key
            found = [(sha256, one) for sha256, *texts in self._session.read_by_both(a, b) for one in places(*texts)]
            self._todo = [(sha256, one) for sha256, one in found if self._record(sha256, one)["key"] not in known]
            self._why = f"no place without a vote: the two part in {len(found)}, on the pages that both read here"
        self._show()

    def vote(self, choice: Choice) -> None:
        """Keep a vote on the place that is shown, and show the next."""
        if not self._todo or time.monotonic() - self._shown_at < 0.3:  # nobody looked: a key was held down
            return
        try:
            self._session.votes.append(self._record(*self._todo[0], choice))
        except RecordError as error:
            self.state.value = note(error, "bad")
            return
        self._todo.pop(0)
        self._show()

    def _record(self, sha256: str, place: Place, choice: Choice = "both") -> dict[str, Any]:
        return place.record(self._session.pages[sha256][0], self._pair, self._left, choice)

    def _show(self) -> None:
        self.state.value, self._left, todo = note(self._why), random.randrange(2), self._todo
        for part, shown in ((self._place, todo), (self.texts, todo), (self._keys, todo), (self._next, not todo)):
            part.layout.display = "" if shown else "none"
        if todo:
            page, self.image.value = self._session.pages[todo[0][0]]
            self.state.value = note(f"{page.id}; places to go: {len(todo)}")
            self.texts.value = both_texts(todo[0][1], self._left)
        self._shown_at = time.monotonic()

    def _read_next(self) -> None:
        pages = self._picker.pages
        if (pages.index or 0) + 1 >= len(pages.options):
            self.state.value = note("that was the last page here; choose others in the card Page", "warn")
            return
        pages.index = (pages.index or 0) + 1
        self.state.value, self._next.layout.display = busy(f"reading {pages.value} with both"), "none"
        for column in self._columns:
            column.read()
        self.start()


def both_texts(place: Place, left: int) -> str:
    """Return HTML of a place's two texts side by side, text number `left` on the left, what differs marked."""
    before, after = escaped(place.before), escaped(place.after)
    texts = (
        f'<div><div class="ocr-label">{side}</div><div class="ocr-text">{before} '
        f'<span class="ocr-differs">{escaped(place.texts[number]) or "▁"}</span> {after}</div></div>'
        for side, number in (("left", left), ("right", 1 - left))
    )
    return f'<div class="ocr-two" data-share="{place.share:.4f}">{"".join(texts)}</div>'


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
    lines += [(name, value, costs(b)[name]) for name, value in costs(a).items()]
    once = note("One reading each: small differences in time are noise; notebooks 02 to 05 give intervals.")
    return f'<div class="ocr-card"><h2>A and B</h2>{words}{table(("", "A", "B"), lines)}{different}{once}</div>'
