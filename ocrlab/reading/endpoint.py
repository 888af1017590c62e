"""A server's model with the reader's interface: the same experiments, with what only the server knows left open.

`batch_size` is the number of requests in flight; a batch ends with its slowest page.
"""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, NoReturn

from PIL import Image

from ocrlab.pages import Page
from ocrlab.reading.address import parse_address
from ocrlab.reading.answers import reading_of
from ocrlab.reading.client import Answer, Client, Survey
from ocrlab.reading.complaints import Busy, EndpointError, Lost, TooSlow
from ocrlab.reading.confirm import SettingNotApplied
from ocrlab.reading.dialects import compose, known
from ocrlab.reading.loading import Unsupported
from ocrlab.reading.outcome import Reading, failed
from ocrlab.reading.prepared import Prepared
from ocrlab.reading.reader import LOAD_SETTINGS, Reader, same_load
from ocrlab.reading.sending import TRIALS, EndpointBuilder, data_url, measured
from ocrlab.reading.settings import Settings
from ocrlab.reading.trace import Trace

LOST_IN_A_ROW = 3
"""How many pages in a row a server may fail before the next ones get one hurried try each."""


class EndpointReader(Reader):
    """A server's model as a reader: `actual` says what was sent and what only the server knows.

    `load_s` is the seconds of making its acquaintance, `weight_bytes` is None.

    Raises:
        Unsupported: a setting that the server does not take with a request, or a model that it does not have.
        EndpointError: it does not answer, or not as such a server does.
    """

    def __init__(self, settings: Settings) -> None:
        started = time.perf_counter()
        self.settings = settings
        self.followers: dict[str, Any] = {}
        self.device, self.dtype = "server", ""
        self.weight_bytes = None  # type: ignore[assignment]
        self.client = Client(parse_address(settings.model_id))
        try:
            self.survey = self.client.survey()
            self._trials: dict[str, tuple[int | None, int | None]] = {}
            self._lost, self._lock = 0, threading.Lock()
            self.apply(settings)
        except BaseException:
            self.client.close()
            raise
        self.load_s = time.perf_counter() - started

    def apply(self, settings: Settings) -> None:
        """Put other settings in force: two blank images are asked about with them, of one token each.

        Raises:
            ValueError: a setting that decides the load differs; open another reader.
            Unsupported, EndpointError: as when opening.
        """
        if not same_load(self.settings, settings):
            raise ValueError(f"{', '.join(LOAD_SETTINGS)} are fixed by the load: open another reader to change them")
        self.request = compose(settings, self.survey.kind)
        factor, self._text_tokens = self._try_out(settings)
        if factor is None and (settings.min_pixels, settings.max_pixels) != (None, None):
            raise Unsupported(
                f"{self.client.address.base_url}: it does not tell how large an image token is (no token counts, or "
                f"not as the Qwen-VL families count), so pages cannot be resized as it would; leave min_pixels and "
                f"max_pixels out, or set them where the server is started"
            )
        self.settings = settings
        self.builder = EndpointBuilder(factor, settings.min_pixels, settings.max_pixels)  # type: ignore[assignment]
        self.actual = known(settings, self.request) | {
            "actual_revision": served_revision(self.survey, self.client.address.model),
            "actual_server": self.survey.kind, "actual_address": self.client.address.base_url,
        }  # fmt: skip

    def _try_out(self, settings: Settings) -> tuple[int | None, int | None]:
        """Return the side of an image token's area and the tokens of the text, from what two blank images take."""
        short = replace(settings, max_new_tokens=1, min_new_tokens=None)
        body = compose(short, self.survey.kind).body
        key = json.dumps([settings.prompt, body], sort_keys=True)
        if key not in self._trials:
            told = []
            for size in TRIALS:
                url = data_url(Image.new("RGB", size, "white"))
                told.append(self._ask_first(url, settings.prompt, body).prompt_tokens)
            self._trials[key] = measured(told)
        return self._trials[key]

    def _ask_first(self, url: str, prompt: str, body: dict[str, Any]) -> Answer:
        try:
            return self.client.ask(url, prompt, body)
        except Unsupported as error:
            name = self.client.address.model
            if not self.survey.offers or name in self.survey.offers:
                raise
            raise Unsupported(f"{error}; it lists {', '.join(self.survey.offers[:20])}, not {name!r}") from error

    def close(self) -> None:
        """Close the connections; the server stays as it is."""
        self.client.close()

    def read_prepared(self, batch: Prepared) -> list[Reading]:
        """Return the readings of a batch, all of its pages asked for at once."""
        if batch.inputs is None:
            return list(batch.failures)
        urls: Any = batch.inputs.tensors["urls"]
        expected = batch.inputs.image_tokens
        started = time.perf_counter()
        if len(batch.pages) == 1:  # in this thread, which alone may tell a caller what comes
            readings = [self._page(batch.pages[0], urls[0], expected[0])]
        else:
            with ThreadPoolExecutor(len(batch.pages)) as pool:
                readings = list(pool.map(self._page, batch.pages, urls, expected))
        generate_s = time.perf_counter() - started
        costs: dict[str, Any] = {
            "prepare_s": batch.prepare_s, "wait_s": batch.wait_s, "generate_s": generate_s,
            "page_s": (batch.wait_s + generate_s) / len(readings), "batch_pages": len(readings),
        }  # fmt: skip
        return [*batch.failures, *(replace(r, **costs) if r.stop_reason else r for r in readings)]

    def _page(self, page: Page, url: str, expected: int) -> Reading:
        hurried = self._lost >= LOST_IN_A_ROW
        try:
            if hurried:
                self.client.survey()  # where nothing answers, this says so at once
            answer = self.client.ask(url, self.settings.prompt, self.request.body, hurried=hurried, **self.followers)
            due = (expected, self.builder.cell_pixels)
            reading = reading_of(page, answer, self.settings, self._text_tokens, due, self.client.address.base_url)
        except (EndpointError, Unsupported, SettingNotApplied) as error:
            with self._lock:
                self._lost += isinstance(error, Busy | Lost | TooSlow)
            reading = failed(page.id, error)
            words = f"; {self._lost - 1} pages before it failed, too, so that it was tried once only" * hurried
            return replace(reading, reason=reading.reason + words)
        with self._lock:
            self._lost = 0
        return reading

    def tensors(self, image: Image.Image) -> dict[str, Any]:
        """Raise Unsupported: nothing is computed in this process."""
        self._elsewhere("tensors")

    def trace_nonfinite(self, page: Page) -> Trace | None:
        """Raise Unsupported: nothing is computed in this process."""
        self._elsewhere("trace_nonfinite")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        self._elsewhere(name)

    def _elsewhere(self, name: str) -> NoReturn:
        raise Unsupported(
            f"{name}: the model is on a server, and this looks inside a model in this process; "
            f"give a model_id that is loaded here"
        )


def served_revision(survey: Survey, model: str) -> str:
    """Return what stands for the weights that a server holds: its kind and its name for them, for it tells no more."""
    return f"{survey.kind}: {model}"


def revision_at(settings: Settings) -> str:
    """Return the revision of a server's model now, without asking it to read.

    Raises:
        EndpointError: nothing answers.
        Unsupported: the client is not installed.
    """
    client = Client(parse_address(settings.model_id))
    try:
        return served_revision(client.survey(), client.address.model)
    finally:
        client.close()
