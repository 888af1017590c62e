"""Talks to one OpenAI-compatible server: what it is, and an image answered, with bounded patience and retries."""

from __future__ import annotations

import email.utils
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from ocrlab.machine.death import kind_of
from ocrlab.reading.loading import Unsupported
from ocrlab.reading.settings import Address
from ocrlab.scoring.failures import Status

if TYPE_CHECKING:
    from tenacity import RetryCallState


LONGEST_PAUSE_S = 60.0
"""Seconds beyond which a server's wish to be left alone is not waited for."""


class EndpointError(RuntimeError):
    """A server that gave no usable answer; `status` is the page's, the message names the address and the remedy."""

    status: Status = "error"


class Busy(EndpointError):
    """The server asks for patience or failed inside; `pause_s` is what it asks for, in seconds."""

    pause_s: float | None = None


class Lost(EndpointError):
    """No connection, or one that broke off."""

    status = "crashed"


class TooSlow(EndpointError):
    """No sign of life within the seconds that are allowed."""

    status = "timeout"


def complaint(error: Exception, address: Address) -> EndpointError | Unsupported:
    """Return what an exception of the client means."""
    import httpx2
    import openai

    at = address.base_url
    if isinstance(error, openai.APITimeoutError | httpx2.TimeoutException):
        return TooSlow(f"{at}: no sign of life in time; is the server overloaded or hanging? Lower batch_size")
    if isinstance(error, openai.APIConnectionError | httpx2.TransportError):
        cause = " ".join(str(error.__cause__ or error).split()) or type(error).__name__
        return Lost(f"{at}: no connection ({cause[:150]}); is the server running, and is this its address?")
    if isinstance(error, openai.APIStatusError):
        return _of_status(error, address)
    if isinstance(error, openai.APIError):  # said within the stream
        return _failed(f"{at}: the server broke off: {_words(error.body) or error.message}")
    if isinstance(error, ValueError):
        words = " ".join(str(error).split())[:150]
        return EndpointError(f"{at}: the answer is not the JSON of the API ({words}); look at the server's log")
    return EndpointError(f"{at}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")


def _of_status(error: Any, address: Address) -> EndpointError | Unsupported:
    code, at, told = error.status_code, address.base_url, _words(error.body) or _words(error.response.text)
    if code == 429 or code >= 500:
        busy = _failed(f"{at}: HTTP {code}: {told}; look at the server's log, lower batch_size")
        pause = _seconds(error.response.headers.get("retry-after"))
        if busy.status == "oom" or (pause or 0) > LONGEST_PAUSE_S:
            return EndpointError(f"{busy} (it asks to wait {pause:.0f} s)") if pause else busy
        again = Busy(str(busy))
        again.pause_s = pause
        return again
    if code in {401, 403}:
        return EndpointError(f"{at}: HTTP {code}: {told}; give a key that it takes in OPENAI_API_KEY")
    if 300 <= code < 400:
        return EndpointError(f"{at}: it points elsewhere (HTTP {code}), which is not followed; give the final address")
    if code == 413:
        return EndpointError(f"{at}: the page is too large for it (HTTP 413: {told}); lower max_pixels")
    if code == 404:
        words = f"no model {address.model!r} there, or no API under this path"
        return Unsupported(f"{at}: HTTP 404: {told or 'not found'}; {words}")
    return Unsupported(f"{at}: the server refuses the request (HTTP {code}): {told}")


def _failed(words: str) -> EndpointError:
    error = EndpointError(words)
    if kind_of(words) == "oom":
        error.status = "oom"
    return error


def _words(body: Any) -> str:
    """Return a server's message from an error's body, whatever its form, in one line."""
    while isinstance(body, dict):
        body = body.get("message") or body.get("detail") or body.get("error") or str(body)
    text = " ".join(str(body or "").split())
    if key := os.environ.get("OPENAI_API_KEY"):
        text = text.replace(key, "(key)")  # some servers say the key that they refuse
    return "a page of HTML" if text[:1] == "<" else text[:300]


def _seconds(header: str | None) -> float | None:
    """Return a Retry-After header's seconds from now: a number, or a date."""
    if not header:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return None


Kind = Literal["transformers", "vllm", "sglang", "unknown"]
TRIES, PAUSE_S = 4, 0.5
"""How often a request is sent while the server is busy, failing or out of reach, and the seconds before the second."""
CONNECT_S, SILENCE_S, PAGE_S = 5.0, 300.0, 1500.0
"""Seconds for a connection, between two signs of life, and for a page with all its tries: less than a batch may take
(`page_timeout_s`, 1800 by default), so that a slow server costs a page and not the process."""
HURRIED_S = 30.0
"""Seconds of silence for a page that gets one try only, after others before it failed."""
KEY = "OPENAI_API_KEY"


@dataclass(frozen=True)
class Answer:
    """What a server said of one image. Times in seconds since the request was sent; counts None where not told."""

    text: str
    finish_reason: str
    prompt_tokens: int | None
    new_tokens: int | None
    first_s: float | None
    last_s: float
    pieces: int


@dataclass(frozen=True)
class Survey:
    """What kind of server answers, and the models that it lists (`transformers serve` lists those of its cache)."""

    kind: Kind
    offers: tuple[str, ...] = ()


class Client:
    """One server. Nothing goes to any other address: redirects are refused, and this computer's own has no proxy.

    Raises:
        Unsupported: the package `openai` is not installed.
    """

    def __init__(self, address: Address) -> None:
        if find_spec("openai") is None:
            raise Unsupported("a server is read with the package openai: pip install 'ocrlab[serve]'")
        import openai

        self.address = address
        self._http = openai.DefaultHttpxClient(trust_env=not address.loopback, follow_redirects=False)
        self._openai = openai.OpenAI(
            base_url=address.base_url, api_key=os.environ.get(KEY) or "none", max_retries=0, http_client=self._http
        )

    def close(self) -> None:
        """Close the connections."""
        self._openai.close()

    def survey(self) -> Survey:
        """Return what answers at the address.

        Raises:
            EndpointError: nothing answers.
        """
        offers, owners = self._models()
        for kind in ("vllm", "sglang"):
            if kind in owners:
                return Survey(kind, offers)
        root = self.address.base_url.rsplit("/", 1)[0]
        told = self._look(f"{root}/openapi.json")
        paths = told.get("paths") if isinstance(told, dict) else None
        # No other server has transformers' own way to load a model.
        return Survey("transformers" if isinstance(paths, dict) and "/load_model" in paths else "unknown", offers)

    def _models(self) -> tuple[tuple[str, ...], set[str]]:
        told = self._look(f"{self.address.base_url}/models")
        listed = told.get("data") if isinstance(told, dict) else None
        models = [m for m in listed if isinstance(m, dict)] if isinstance(listed, list) else []
        return tuple(str(m.get("id")) for m in models), {str(m.get("owned_by")) for m in models}

    def _look(self, url: str) -> Any:
        """Return a JSON document, or None for any other answer; raise EndpointError where there is none."""
        import httpx2

        key = os.environ.get(KEY)
        # A server that fails inside closes the connection after its answer, which must not be used again.
        headers = {"Connection": "close"} | ({"Authorization": f"Bearer {key}"} if key else {})
        try:
            answer = self._http.get(url, headers=headers, timeout=CONNECT_S)
            return answer.json() if answer.status_code == 200 else None
        except httpx2.TransportError as error:
            raise complaint(error, self.address) from error
        except ValueError:
            return None

    def ask(
        self, image_url: str, prompt: str, body: dict[str, Any], *, hurried: bool = False,
        on_text: Callable[[str], None] | None = None, stop: Callable[[], bool] | None = None,
    ) -> Answer:  # fmt: skip
        """Return the answer to an image and a prompt; what a person could wait for is tried again, unless `hurried`.

        `on_text` gets the text in pieces; where `stop` says so, the request ends with the text that had come.

        Raises:
            EndpointError: no answer came after `tries`; the message names the address and the remedy.
            Unsupported: the server refuses the request.
        """
        from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, stop_after_delay

        began = time.monotonic()
        patient = Retrying(
            stop=stop_after_attempt(1 if hurried else TRIES) | stop_after_delay(PAGE_S / 2), wait=_pause, reraise=True,
            retry=retry_if_exception_type((Busy, Lost)),
        )  # fmt: skip
        content = [{"type": "image_url", "image_url": {"url": image_url}}, {"type": "text", "text": prompt}]
        silence_s = HURRIED_S if hurried else SILENCE_S
        heard = (on_text, stop)
        return patient(self._ask, {"role": "user", "content": content}, body, silence_s, began + PAGE_S, *heard)

    def _ask(
        self, message: Any, body: dict[str, Any], silence_s: float, until: float,
        on_text: Callable[[str], None] | None, stop: Callable[[], bool] | None,
    ) -> Answer:  # fmt: skip
        import httpx2

        started = time.perf_counter()
        try:
            stream = self._openai.chat.completions.create(
                model=self.address.model, messages=[message], stream=True, stream_options={"include_usage": True},
                extra_body=body, timeout=httpx2.Timeout(silence_s, connect=CONNECT_S),
            )  # fmt: skip
            with stream:
                return self._listen(stream, started, until, on_text, stop)
        except (EndpointError, Unsupported):
            raise
        except Exception as error:  # the boundary where whatever a server does wrong becomes words
            raise complaint(error, self.address) from error

    def _listen(
        self, stream: Any, started: float, until: float,
        on_text: Callable[[str], None] | None, stop: Callable[[], bool] | None,
    ) -> Answer:  # fmt: skip
        kind = stream.response.headers.get("content-type", "")
        if not kind.startswith("text/event-stream"):
            raise EndpointError(
                f"{self.address.base_url}: it answers with {kind or 'no content type'} and not with a stream of text; "
                f"is this the API's address? Most servers answer under /v1"
            )
        first, last, usage, ended = None, 0.0, None, ""
        pieces: list[str] = []
        for chunk in stream:
            usage = chunk.usage or usage
            for choice in chunk.choices or ():
                ended = choice.finish_reason or ended
                if piece := choice.delta.content:
                    last = time.perf_counter() - started
                    first = last if first is None else first
                    pieces.append(piece)
                    if on_text is not None:
                        on_text(piece)
            if stop is not None and stop():
                ended = "length"  # ended from outside, as a criterion ends a reading in this process
                break
            if time.monotonic() > until:
                raise TooSlow(f"{self.address.base_url}: a page took longer than {PAGE_S:.0f} s; lower max_new_tokens")
        if not ended:
            raise Lost(
                f"{self.address.base_url}: the answer broke off after {len(pieces)} pieces, without its end; "
                f"look at the server's log"
            )
        told = usage if usage is None else (usage.prompt_tokens, usage.completion_tokens)
        prompt, new = told or (None, None)
        return Answer("".join(pieces), ended, prompt, new, first, last, len(pieces))


def _pause(state: RetryCallState) -> float:
    """Seconds to wait before the next try: what the server asks for, else twice as long each time."""
    error = state.outcome.exception() if state.outcome else None
    asked = getattr(error, "pause_s", None)
    return float(asked) if asked is not None else min(PAUSE_S * 2 ** (state.attempt_number - 1), LONGEST_PAUSE_S)
