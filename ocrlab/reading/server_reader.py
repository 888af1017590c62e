"""A server's model with the reader's interface: the same experiments, with what only the server knows left open.

`batch_size` is the number of requests in flight; a batch ends with its slowest page.
"""

from __future__ import annotations

import base64
import io
import json
import re
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from typing import Any, NoReturn

from PIL import Image

from ocrlab.pages import Page
from ocrlab.reading.inputs import Inputs, Prepared
from ocrlab.reading.loading import Unsupported
from ocrlab.reading.nonfinite import Trace
from ocrlab.reading.reader import FORCED, LOAD_SETTINGS, Reader, SettingNotApplied, same_load
from ocrlab.reading.result import Reading, failed
from ocrlab.reading.server_client import Answer, Busy, Client, EndpointError, Kind, Lost, Survey, TooSlow
from ocrlab.reading.settings import GENERATION, Settings, parse_address
from ocrlab.scoring.failures import Status, StopReason, judge

_COMMON = {"max_new_tokens": "max_tokens", "temperature": "temperature", "top_p": "top_p"}
_ENGINES = _COMMON | {
    "top_k": "top_k", "repetition_penalty": "repetition_penalty", "min_new_tokens": "min_tokens",
}  # fmt: skip
# vLLM's and SGLang's names are from their documentation and have not been tried here.
NAMES: dict[Kind, dict[str, str]] = {"vllm": _ENGINES, "sglang": _ENGINES, "unknown": _COMMON}
"""A setting's name in the body of a request, by kind of server; `transformers serve` takes all of them as one JSON."""
BY_THE_SERVER = (
    "revision", "trust_remote_code", "weights", "device", "dtype", "quantization", "attn_implementation",
    "sdpa_kernel", "compile",
)  # fmt: skip
"""Settings that are decided when the server is started."""
_ACTUAL = ("device", "dtype", "quantization", "attn_implementation", "vision_attn_implementation", "sdpa_kernels",
           "compile", "weights", "min_pixels", "max_pixels", *GENERATION)  # fmt: skip
_DEFAULTS = {f.name: f.default for f in fields(Settings)}


@dataclass(frozen=True)
class Request:
    """A request's fields beside model and messages, and the settings that it carries."""

    body: dict[str, Any]
    carried: dict[str, Any] = field(default_factory=dict)


def refusal(settings: Settings) -> str:
    """Return why no server can be asked for the settings, and the remedy; empty where one may."""
    for name in BY_THE_SERVER:
        if (value := getattr(settings, name)) != _DEFAULTS[name]:
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
    asked = {name: value for name in GENERATION if (value := getattr(settings, name)) is not None}
    body = _whole(asked) if kind == "transformers" else _named(asked, kind)
    if kind == "transformers":
        carried = asked
    else:
        carried = {name: value for name, value in asked.items() if name in NAMES[kind] or name == "do_sample"}
    if settings.do_sample is not False:
        body["seed"] = settings.seed
    return Request(body, carried)


def known(settings: Settings, request: Request) -> dict[str, Any]:
    """Return every setting as `actual_*`: what pages and requests carry, and None for what only the server knows.

    Nothing can be read back from a server: `actual_sent` names what it was told and did not refuse,
    `actual_not_read_back` what it alone decides.
    """
    here = {name: value for name in ("min_pixels", "max_pixels") if (value := getattr(settings, name)) is not None}
    told = request.carried | here
    return {f"actual_{name}": told.get(name) for name in _ACTUAL} | {
        "actual_sent": ", ".join(told), "actual_not_read_back": ", ".join(n for n in _ACTUAL if n not in told),
    }  # fmt: skip


def _whole(asked: dict[str, Any]) -> dict[str, Any]:
    """`transformers serve` lays a generation config over the checkpoint's, as the reader in this process does."""
    config = dict(asked)
    return {"max_tokens": config.pop("max_new_tokens"), "generation_config": json.dumps(config)}


def _named(asked: dict[str, Any], kind: Kind) -> dict[str, Any]:
    names, body = NAMES[kind], {}
    for name, value in asked.items():
        if name in names:
            body[names[name]] = value
        elif name != "do_sample" and value != _DEFAULTS[name]:
            known = {"vllm": "vLLM", "sglang": "SGLang"}.get(kind, "a server of a kind that is not known here")
            raise Unsupported(
                f"{name}={value!r}: {known} does not take it with a request; leave it at {_DEFAULTS[name]!r}, "
                f"or read in this process or with `transformers serve`"
            )
    if asked.get("do_sample") is False:
        body["temperature"] = 0  # greedy
    return body


FACTORS = (16, 28, 32)
"""Sides in pixels of what one image token shows: the embedded reader's, Qwen2(.5)-VL's, Qwen3-VL's."""
TRIALS = ((320, 320), (640, 320))
"""Sizes in pixels of the blank images whose token counts tell the side."""
_ANY = 2**40  # pixels: no limit


class EndpointBuilder:
    """Turns pages into what is sent; `factor` is the side of an image token's area in pixels, None where not known."""

    def __init__(self, factor: int | None, min_pixels: int | None, max_pixels: int | None) -> None:
        self.factor, self.min_pixels, self.max_pixels = factor, min_pixels, max_pixels

    @property
    def cell_pixels(self) -> int:
        """Pixels of the resized image behind one image token; Qwen2-VL's where the server's is not known."""
        return (self.factor or 28) ** 2

    def limits(self) -> tuple[int, int]:
        """Return the pixel limits that are kept here; the server's own come on top."""
        return self.min_pixels or 1, self.max_pixels or _ANY

    def count(self, width: int, height: int) -> int:
        """Return about how many image tokens a page of this size will take; the server may have limits of its own."""
        low, high = self.limits()
        return max(1, min(max(width * height, low), high) // self.cell_pixels)

    def build(self, images: list[Image.Image], prompt: str) -> Inputs:
        """Return the pages as data URLs under `urls`, with the image tokens that they should take there.

        These are 0 where no limit was asked for: how many there are is then the server's to tell, as for the prompt.
        """
        fitted = [self.fit(image) for image in images]
        urls: Any = [data_url(image) for image in fitted]
        return Inputs({"urls": urls}, tuple(self._tokens(image) for image in fitted), (0,) * len(images))

    def _tokens(self, image: Image.Image) -> int:
        if self.factor is None or (self.min_pixels, self.max_pixels) == (None, None):
            return 0
        width, height = _resized(image.size, self.factor)
        return width * height // self.cell_pixels

    def fit(self, image: Image.Image) -> Image.Image:
        """Return the image within the limits that were asked for, resized once by Qwen2-VL's rule where it is not."""
        low, high = self.limits()
        if self.factor is None or (self.min_pixels, self.max_pixels) == (None, None):
            return image
        own, wanted = _resized(image.size, self.factor), _resized(image.size, self.factor, low, high)
        return image if own == wanted else image.resize(wanted, Image.Resampling.BICUBIC)


def data_url(image: Image.Image) -> str:
    """Return an image as a PNG in a data URL."""
    held = io.BytesIO()
    image.save(held, "PNG", compress_level=1)  # the way is short; time matters more than size
    return f"data:image/png;base64,{base64.b64encode(held.getvalue()).decode()}"


def _resized(size: tuple[int, int], factor: int, low: int = 1, high: int = _ANY) -> tuple[int, int]:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    height, width = smart_resize(size[1], size[0], factor, low, high)
    return width, height


def measured(told: Sequence[int | None]) -> tuple[int | None, int | None]:
    """Return the side of an image token's area and the text's tokens, or None for both, from the trials' counts."""
    if None in told:
        return None, None
    first, second = (int(n) for n in told if n is not None)
    for factor in FACTORS:
        one, two = (w * h // factor**2 for w, h in (_resized(size, factor) for size in TRIALS))
        if second - first == two - one and first > one:
            return factor, first - one
    return None, None


def reading_of(
    page: Page, answer: Answer, settings: Settings, text_tokens: int | None, due: tuple[int, int], at: str
) -> Reading:
    """Return the reading that an answer stands for; `at` is the server's address, `text_tokens` the prompt's.

    `due` are the image tokens that the page should take, 0 for the server's own, and the pixels behind one.

    Raises:
        EndpointError: the answer ended in a way that no reading does.
        SettingNotApplied: the server's counts show that it read otherwise than asked.
    """
    if answer.finish_reason not in {"stop", "length"}:
        raise EndpointError(
            f"{at}: the answer ended for {answer.finish_reason!r}, which is no end of a reading; look at the server's "
            f"filters and templates"
        )
    stop_reason: StopReason = "eos" if answer.finish_reason == "stop" else "length"
    # Servers count the end token, which a reading in this process does not.
    tokens = answer.pieces if answer.new_tokens is None else answer.new_tokens - (stop_reason == "eos")
    image_tokens = 0
    if answer.prompt_tokens is not None and text_tokens is not None:
        image_tokens = answer.prompt_tokens - text_tokens
    _confirm(tokens, image_tokens, due, settings, at)
    text = answer.text.strip()
    status, reason = FORCED if settings.min_new_tokens is not None else judged(text, tokens, stop_reason)
    decode_s = None if answer.first_s is None else answer.last_s - answer.first_s
    return Reading(
        page=page.id, text=text, status=status, reason=reason, stop_reason=stop_reason, tokens=tokens,
        image_tokens=image_tokens, prompt_tokens=answer.prompt_tokens or 0, ttft_s=answer.first_s,
        decode_s=decode_s, tpot_s=decode_s / (tokens - 1) if decode_s and tokens > 1 else None,
        tokens_per_second=(tokens - 1) / decode_s if decode_s and tokens > 1 else None,
    )  # fmt: skip


def _confirm(tokens: int, image_tokens: int, due: tuple[int, int], settings: Settings, at: str) -> None:
    expected, cell = due
    pixels = image_tokens * cell
    # A page far from square may take more pixels than asked by the rule itself, which `expected` knows.
    if tokens > settings.max_new_tokens:
        wrong = f"max_new_tokens: asked for {settings.max_new_tokens}, but {tokens} tokens came"
    elif expected and image_tokens > expected and pixels > (settings.max_pixels or pixels):
        wrong = f"max_pixels: asked for {settings.max_pixels}, but the server took {pixels} pixels"
    elif image_tokens and image_tokens < expected and pixels < (settings.min_pixels or pixels):
        wrong = f"min_pixels: asked for {settings.min_pixels}, but the server took {pixels} pixels"
    else:
        return
    raise SettingNotApplied(f"{at}: {wrong}; set it where the server is started")


def judged(text: str, tokens: int, stop_reason: StopReason) -> tuple[Status, str]:
    """Return the status of a text whose token ids are not known, and the reason in words."""
    words = re.findall(r"\w+|\s+|[^\w\s]", text)
    order = {word: number for number, word in enumerate(dict.fromkeys(words))}
    status, reason = judge(text, [order[word] for word in words], stop_reason, finite=True)
    if status == "loop":
        return status, f"counted in words and signs, for the server tells no tokens: {reason}"
    return judge(text, range(tokens), stop_reason, finite=True)


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
