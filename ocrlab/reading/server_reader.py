"""A server's model as a reader: the same experiments, with what only the server knows left open.

`batch_size` is the number of requests in flight; a batch ends with its slowest page. Pixel limits are kept here by
Qwen-VL's own rule before a page is sent: that works with every server, whose own resize then finds nothing to do. The
rule needs the side of what an image token shows, which is found from the server's token counts.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from ocrlab.pages import Page
from ocrlab.reading.families import CELL_SIDES, USUAL_SIDE
from ocrlab.reading.family import UNLIMITED, Inputs, resized, tokens_of
from ocrlab.reading.inputs import Prepared
from ocrlab.reading.loading import Unsupported
from ocrlab.reading.page_reader import PageReader
from ocrlab.reading.result import FIXED_LENGTH, Reading, failed
from ocrlab.reading.server_client import Answer, Client, EndpointError, Kind, remedy
from ocrlab.reading.settings import GENERATION, SettingNotApplied, Settings, parse_address, refuse_another_load
from ocrlab.scoring.clean import clean
from ocrlab.scoring.outcomes import Status, StopReason, judge

#: How many pages in a row a server may fail before the next ones get one hurried try each.
LOST_IN_A_ROW = 3
#: Sizes in pixels of the blank images whose token counts tell the side of what an image token shows.
TRIALS = ((320, 320), (640, 320))
#: What is asked when a server is opened; the variable in the environment keeps it from being asked.
CHECK_WORDS, CHECK_SIZE, CHECK_TOKENS, UNCHECKED = ("APRIL 1827", "zebra"), (336, 112), 48, "OCRLAB_NO_TWO_PAGE_CHECK"
_NEARLY_FULL = 0.97  # of a context
_COMMON = {"max_new_tokens": "max_tokens", "temperature": "temperature", "top_p": "top_p"}
_ENGINES = _COMMON | {"top_k": "top_k", "repetition_penalty": "repetition_penalty", "min_new_tokens": "min_tokens"}
#: A setting's name in the body of a request, by kind of server (of vLLM and SGLang by their documentation, not tried).
NAMES: dict[Kind, dict[str, str]] = {"vllm": _ENGINES, "sglang": _ENGINES}
_AT_LOAD = ("device", "dtype", "quantization", "attn_implementation")
#: Settings that are decided when the server is started.
BY_THE_SERVER = ("revision", "trust_remote_code", "weights", *_AT_LOAD, "sdpa_kernel", "compile")
_OTHERS = ("vision_attn_implementation", "sdpa_kernels", "compile", "weights", "min_pixels", "max_pixels")
_ACTUAL = (*_AT_LOAD, *_OTHERS, *GENERATION)
_DEFAULTS = {f.name: f.default for f in fields(Settings)}


@dataclass(frozen=True)
class Request:
    """A request's fields beside model and messages, and the settings that it carries."""

    body: dict[str, Any]
    carried: dict[str, Any]


def refusal(settings: Settings) -> str:
    """Return why no server can be asked for the settings, and the remedy; empty where one may."""
    for name, value in settings.changed().items():
        if name in BY_THE_SERVER:
            return (
                f"{name}={value!r}: a server decides this when it is started, and a request cannot change it; "
                f"start the server with it and leave {name} at {_DEFAULTS[name]!r}"
            )
    return ""


def compose(settings: Settings, kind: Kind) -> Request:
    """Return what is sent to a kind of server for the settings.

    A setting at its default counts as not asked for: where the server does not take it, the server's own is in force,
    and the row says so.

    Raises:
        Unsupported: a setting was changed from its default and the server takes it only at its start, or not at all.
    """
    if reason := refusal(settings):
        raise Unsupported(reason)
    asked = settings.generate_kwargs()
    if kind == "transformers":  # it lays a generation config over the checkpoint's, as the reader in this process does
        config = {name: value for name, value in asked.items() if name != "max_new_tokens"}
        body, carried = {"max_tokens": asked["max_new_tokens"], "generation_config": json.dumps(config)}, asked
    else:
        names = NAMES.get(kind, _COMMON)
        for name, value in settings.changed().items():
            if name in GENERATION and value is not None and name not in {*names, "do_sample"}:
                raise Unsupported(
                    f"{name}={value!r}: a server of kind {kind!r} does not take it with a request; leave it at "
                    f"{_DEFAULTS[name]!r}, or read in this process or with `transformers serve`"
                )
        carried = {name: value for name, value in asked.items() if name in names or name == "do_sample"}
        body = {names[name]: value for name, value in carried.items() if name in names}
        if settings.do_sample is False:
            body["temperature"] = 0  # greedy
    if settings.do_sample is not False:
        body["seed"] = settings.seed
    return Request(body, carried)


@dataclass(frozen=True)
class ServerInputs:
    """The builder for a server; `side` is that of what an image token shows in pixels, None where it is not known."""

    side: int | None
    min_pixels: int | None
    max_pixels: int | None
    system_prompt: str | None = None

    @property
    def cell_pixels(self) -> int:
        """Pixels of the resized image behind one image token; Qwen2-VL's where the server's is not known."""
        return (self.side or USUAL_SIDE) ** 2

    @property
    def kept(self) -> bool:
        """Whether pixel limits were asked for, which are then kept here."""
        return (self.min_pixels, self.max_pixels) != (None, None)

    def limits(self) -> tuple[int, int]:
        """Return the pixel limits that are kept here; the server's own come on top."""
        return self.min_pixels or 1, self.max_pixels or UNLIMITED

    def count(self, width: int, height: int) -> int:
        """Return about how many image tokens a page of this size will take; the server may have limits of its own."""
        side = self.side or USUAL_SIDE
        return tokens_of(resized(width, height, side, *self.limits()), side)

    def build(self, images: list[Image.Image], prompt: str) -> Inputs:
        """Return the pages as data URLs under `urls`, with the image tokens that they should take there.

        These are 0 where no limit was asked for: how many there are is then the server's to tell, as for the prompt.
        """
        fitted = [self._fit(image) for image in images]
        urls = [_data_url(image) for image, _ in fitted]
        return Inputs({"urls": urls}, tuple(tokens for _, tokens in fitted), (0,) * len(images))

    def _fit(self, image: Image.Image) -> tuple[Image.Image, int]:
        """Return the image within the limits that were asked for, resized once if at all, and its image tokens."""
        if self.side is None or not self.kept:
            return image, 0
        wanted = resized(*image.size, self.side, *self.limits())
        if wanted != resized(*image.size, self.side):
            image = image.resize(wanted, Image.Resampling.BICUBIC)
        return image, tokens_of(resized(*image.size, self.side), self.side)


def _data_url(image: Image.Image) -> str:
    """Return an image as a PNG in a data URL, which loses nothing."""
    held = io.BytesIO()
    image.save(held, "PNG", compress_level=1)  # time matters more than size
    return f"data:image/png;base64,{base64.b64encode(held.getvalue()).decode()}"


def _with_words(words: str) -> Image.Image:
    image = Image.new("RGB", CHECK_SIZE, "white")
    ImageDraw.Draw(image).text((16, 30), words, "black", ImageFont.load_default(size=48))
    return image


def _measured(counts: Sequence[int | None]) -> tuple[int | None, int | None]:
    """Return the side of what an image token shows and the text's tokens from the trials' counts; None: not known."""
    first, second = (count or 0 for count in counts)
    for side in CELL_SIDES:
        one, two = (tokens_of(resized(*size, side), side) for size in TRIALS)
        if second - first == two - one and first > one:
            return side, first - one
    return None, None


class ServerReader(PageReader):
    """A server's model as a reader: `actual` says what was sent and what only the server knows.

    `load_s` is the seconds of making its acquaintance, `weight_bytes` is None.

    Raises:
        Unsupported: a setting that the server does not take with a request, or a model that it does not have.
        EndpointError: it does not answer, or not as such a server does.
    """

    builder: ServerInputs

    def __init__(self, settings: Settings) -> None:
        started = time.perf_counter()
        self.settings, self.followers, self.weight_bytes = settings, {}, None
        self.device = "server"
        self.client = Client(parse_address(settings.model_id))
        self.at = self.client.address.base_url
        self._trials: dict[str, tuple[int | None, int | None]] = {}
        self._lost, self._lock = 0, threading.Lock()
        try:
            self.kind, self.offers = self.client.survey()
            self.context: int | None = None
            self.apply(settings)
            self._refuse_copies()
            self.context = self.client.context(self.kind)
            self.actual = self._known()
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
        refuse_another_load(self.settings, settings)
        request = compose(settings, self.kind)
        side, text_tokens = self._cell_side(settings)
        builder = ServerInputs(side, settings.min_pixels, settings.max_pixels, settings.system_prompt)
        if side is None and builder.kept:
            raise Unsupported(
                f"{self.at}: it does not report how large an image token is (no token counts, or not as the Qwen-VL "
                f"families count), so pages cannot be resized as it would; leave min_pixels and max_pixels out, or set "
                f"them where the server is started"
            )
        self.settings, self.request, self.builder, self._text_tokens = settings, request, builder, text_tokens
        self.actual = self._known()

    def _known(self) -> dict[str, Any]:
        """Return every setting as `actual_*`: what pages and requests carry, and None for what only the server knows.

        Nothing can be read back from a server: `actual_sent` names what was sent and not refused,
        `actual_not_read_back` what it alone decides.
        """
        limits = {"min_pixels": self.settings.min_pixels, "max_pixels": self.settings.max_pixels}
        sent = self.request.carried | {name: value for name, value in limits.items() if value is not None}
        return {f"actual_{name}": sent.get(name) for name in _ACTUAL} | {
            "actual_sent": ", ".join(sent),
            "actual_not_read_back": ", ".join(name for name in _ACTUAL if name not in sent),
            "actual_revision": _served_revision(self.kind, self.client.address.model),
            "actual_server": self.kind,
            "actual_context_tokens": self.context,
            "actual_address": self.at,
        }

    def _cell_side(self, settings: Settings) -> tuple[int | None, int | None]:
        """Return the side of what an image token shows and the tokens of the text, from two blank images."""
        body = compose(replace(settings, max_new_tokens=1, min_new_tokens=None), self.kind).body
        key = json.dumps([settings.prompt, settings.system_prompt, body], sort_keys=True)
        if key not in self._trials:
            urls = [_data_url(Image.new("RGB", size, "white")) for size in TRIALS]
            try:
                answers = [self.client.ask(url, settings, body) for url in urls]
                self._trials[key] = _measured([answer.prompt_tokens for answer in answers])
            except Unsupported as error:
                name = self.client.address.model
                if not self.offers or name in self.offers:
                    raise
                raise Unsupported(f"{error}; it lists {', '.join(self.offers[:20])}, not {name!r}") from error
        return self._trials[key]

    def _refuse_copies(self) -> None:
        """Raise EndpointError where two images give one text, whatever prompt is in force: with the package's own."""
        asked = Settings(model_id=self.settings.model_id, max_new_tokens=CHECK_TOKENS)
        images = () if os.environ.get(UNCHECKED) else [_data_url(_with_words(words)) for words in CHECK_WORDS]
        texts = {self.client.ask(image, asked, compose(asked, self.kind).body).text.strip() for image in images}
        if len(texts) == 1 and (text := texts.pop()):
            words = f"two images with different words gave one text ({text[:60]!r}), as from a cache that looks at"
            words += f" the prompt alone; {remedy('same_text', self.kind)} ({UNCHECKED}=1 goes without this check)"
            raise EndpointError(f"{self.at}: {words}")

    def close(self) -> None:
        """Close the connections; the server stays as it is."""
        self.client.close()

    def read_prepared(self, batch: Prepared) -> list[Reading]:
        """Return the readings of a batch, all of its pages asked for at once."""
        if batch.inputs is None:
            return list(batch.failures)
        work = (batch.pages, batch.inputs.tensors["urls"], batch.inputs.image_tokens)
        started = time.perf_counter()
        with ThreadPoolExecutor(len(batch.pages)) as pool:
            # One page in this thread, which alone may tell a caller what comes.
            readings = list((pool.map if len(batch.pages) > 1 else map)(self._page, *work))
        costs = batch.costs(time.perf_counter() - started)
        known = zip(readings, batch.blank, strict=True)
        return [*batch.failures, *(replace(r, blank=b, **costs) if r.stop_reason else r for r, b in known)]

    def _page(self, page: Page, url: str, expected: int) -> Reading:
        hurried = self._lost >= LOST_IN_A_ROW
        try:
            if hurried:
                self.client.survey(patient=False)  # where nothing answers, this says so at once
            answer = self.client.ask(url, self.settings, self.request.body, hurried=hurried, **self.followers)
            reading = self._reading(page, answer, expected)
        except (EndpointError, Unsupported, SettingNotApplied) as error:
            gone = isinstance(error, EndpointError) and (error.passing or error.status == "timeout")
            with self._lock:
                self._lost += gone
            reading = failed(page.id, error)
            words = f"; {self._lost - 1} pages before it failed, too, so that it was tried once only" * hurried
            return replace(reading, reason=reading.reason + words)
        with self._lock:
            self._lost = 0
        return reading

    def _reading(self, page: Page, answer: Answer, expected: int) -> Reading:
        """Return an answer as a reading; `expected` are its image tokens, 0 for the server's own.

        Raises:
            EndpointError: the answer ended in a way that no reading does.
            SettingNotApplied: the server's counts show that it read otherwise than asked.
        """
        if answer.finish_reason not in {"stop", "length"}:
            raise EndpointError(
                f"{self.at}: the answer ended for {answer.finish_reason!r}, which is no end of a reading; look at the "
                f"server's filters and templates"
            )
        stop_reason: StopReason = "eos" if answer.finish_reason == "stop" else "length"
        # Servers count the end token, which a reading in this process does not.
        tokens = answer.pieces if answer.new_tokens is None else answer.new_tokens - (stop_reason == "eos")
        known = answer.prompt_tokens is not None and self._text_tokens is not None
        image_tokens = answer.prompt_tokens - self._text_tokens if known else 0  # type: ignore[operator]
        self._confirm(tokens, image_tokens, expected)
        text = answer.text.strip()
        if answer.thought and not text:
            words = f"no text, but {answer.thought}, which is thinking; {remedy('thinking', self.kind)}"
            raise EndpointError(f"{self.at}: {words}")
        speed_row = self.settings.min_new_tokens is not None
        status, reason = FIXED_LENGTH if speed_row else _judged(text, tokens, stop_reason)
        status, reason = self._in_context(answer, tokens, status, reason)
        thought = answer.thought and f"beside the text came {answer.thought}, thinking that the times hold"
        reason = "; ".join(filter(None, (reason, answer.note, thought)))
        decode_s = None if answer.first_s is None else answer.last_s - answer.first_s
        phases: dict[str, Any] = {"ttft_s": answer.first_s, "decode_s": decode_s}
        if decode_s and tokens > 1:
            phases |= {"tpot_s": decode_s / (tokens - 1), "tokens_per_second": (tokens - 1) / decode_s}
        prompt_tokens = answer.prompt_tokens or 0
        return Reading(page.id, text, status, reason, stop_reason, tokens, image_tokens, prompt_tokens, **phases)

    def _in_context(self, answer: Answer, tokens: int, status: Status, reason: str) -> tuple[Status, str]:
        """Return status and reason with what a context that is too short for the page did to it."""
        size, used = self.context, (answer.prompt_tokens or 0) + (answer.new_tokens or 0)
        words = f"{answer.prompt_tokens} tokens of prompt and {answer.new_tokens} of text" + f" of {size}" * bool(size)
        words = f"{words.replace('None', '?')}; {remedy('context', self.kind)}, or lower max_pixels"
        # Ended by a length that is not the one that was asked for.
        early = answer.finish_reason == "length" and 0 < (answer.new_tokens or 0) < self.settings.max_new_tokens
        full = early or (size is not None and used >= size - 1)
        if status in {"ok", "empty"} and self.settings.min_new_tokens is None and not clean(answer.text).text.strip():
            known = "the server's context was full" if full else "a context too short for the page leaves this, too"
            reason = "an empty code fence is all that came" if answer.text.strip() else reason
            return "empty", reason + f"; {known}: {words}" * (full or size is None)
        if full and status != "loop":
            return "truncated", f"the server's context was full: {words}"
        nearly = size is not None and used >= _NEARLY_FULL * size
        return status, reason + f"{'; ' * bool(reason)}the context was nearly full: {words}" * nearly

    def _confirm(self, tokens: int, image_tokens: int, expected: int) -> None:
        settings, pixels = self.settings, image_tokens * self.builder.cell_pixels
        # A page far from square may take more pixels than asked by the rule itself, which `expected` knows.
        if tokens > settings.max_new_tokens:
            wrong = f"max_new_tokens: asked for {settings.max_new_tokens}, but {tokens} tokens came"
        elif expected and image_tokens > expected and pixels > (settings.max_pixels or pixels):
            wrong = f"max_pixels: asked for {settings.max_pixels}, but the server took {pixels} pixels"
        elif image_tokens and image_tokens < expected and pixels < (settings.min_pixels or pixels):
            wrong = f"min_pixels: asked for {settings.min_pixels}, but the server took {pixels} pixels"
        else:
            return
        raise SettingNotApplied(f"{self.at}: {wrong}; set it where the server is started")


def _judged(text: str, tokens: int, stop_reason: StopReason) -> tuple[Status, str]:
    """Return the status of a text whose token ids are not known, and the reason: loops are looked for among words."""
    words = re.findall(r"\w+|\s+|[^\w\s]", text)
    if stop_reason == "length":
        words = words[:-1]  # the cap may have cut the last one in two
    order = {word: number for number, word in enumerate(dict.fromkeys(words))}
    status, reason = judge(text, [order[word] for word in words], stop_reason, finite=True)
    if status == "loop":
        return status, f"counted in words and signs, as the server reports no tokens: {reason}"
    return judge(text, range(tokens), stop_reason, finite=True)


def _served_revision(kind: Kind, model: str) -> str:
    """Return what identifies the weights that a server holds: its kind and its name for them; it reports no more."""
    return f"{kind}: {model}"


def revision_at(settings: Settings) -> str:
    """Return the revision of a server's model now, without asking it to read.

    Raises:
        EndpointError: nothing answers.
        Unsupported: the client is not installed.
    """
    client = Client(parse_address(settings.model_id))
    try:
        return _served_revision(client.survey()[0], client.address.model)
    finally:
        client.close()
