"""Talks to one OpenAI-compatible server: what it is, an image answered, and what a failure means for a page.

The package openai tries again by itself, but not as pages need it: it sends again after a time-out, and where the
server is out of memory, and it does not where a stream breaks off. So its own retries are off.
"""

from __future__ import annotations

import email.utils
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

from ocrlab.machine.worker import kind_of
from ocrlab.reading.loading import Unsupported
from ocrlab.reading.settings import Address, Settings
from ocrlab.scoring.outcomes import Status

Kind = Literal["transformers", "vllm", "sglang", "unknown"]
#: How often a request is sent while the server is busy, failing or out of reach, and the seconds before the second.
TRIES, PAUSE_S = 4, 0.5
#: A page fails at once where the server asks for a longer pause.
LONGEST_PAUSE_S = 60.0
#: Seconds for a connection, between two signs of life, and for a page with all its tries: less than a batch may take
#: (`page_timeout_s`, 1800 by default), so that a slow server costs a page and not the process.
CONNECT_S, SILENCE_S, PAGE_S = 5.0, 300.0, 1500.0
#: Seconds of silence for a page that gets one try only, after others before it failed.
HURRIED_S = 30.0
KEY = "OPENAI_API_KEY"
_TAKES_KEY = f"give a key that it takes in {KEY}"
_REMEDIES = {401: _TAKES_KEY, 403: _TAKES_KEY, 413: "the page is too large for it; lower max_pixels"}


class EndpointError(RuntimeError):
    """A server that gave no usable answer; `status` is the page's, the message names the address and the remedy.

    `passing` says that another try can help, `pause_s` how many seconds the server asks to wait before it.
    """

    def __init__(self, words: str, status: Status = "error", passing: bool = False, pause_s: float | None = None):
        super().__init__(words)
        self.status, self.passing, self.pause_s = status, passing, pause_s


@dataclass(frozen=True)
class Answer:
    """What a server said of one image. Times in seconds since the request was sent; counts None where not given."""

    text: str
    finish_reason: str
    prompt_tokens: int | None
    new_tokens: int | None
    first_s: float | None
    last_s: float
    pieces: int


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

    def survey(self) -> tuple[Kind, tuple[str, ...]]:
        """Return the kind of server and the models that it lists (`transformers serve` lists those of its cache).

        Raises:
            EndpointError: nothing answers.
        """
        listed = self._look(f"{self.address.base_url}/models").get("data")
        models = [m for m in listed if isinstance(m, dict)] if isinstance(listed, list) else []
        names = tuple(str(m.get("id")) for m in models)
        owners = {m.get("owned_by") for m in models}
        if "vllm" in owners or "sglang" in owners:
            return ("vllm" if "vllm" in owners else "sglang"), names
        paths = self._look(f"{self.address.base_url.rsplit('/', 1)[0]}/openapi.json").get("paths")
        # No other server has transformers' own way to load a model.
        return ("transformers" if isinstance(paths, dict) and "/load_model" in paths else "unknown"), names

    def _look(self, url: str) -> dict[str, Any]:
        """Return a JSON object, empty for any other answer; raise EndpointError where there is none."""
        import httpx2

        key = os.environ.get(KEY)
        # A server that fails inside closes the connection after its answer, which must not be used again.
        headers = {"Connection": "close"} | ({"Authorization": f"Bearer {key}"} if key else {})
        try:
            answer = self._http.get(url, headers=headers, timeout=CONNECT_S)
            found = answer.json() if answer.status_code == 200 else {}
        except httpx2.TransportError as error:
            raise _meaning(error, self.address) from error
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def ask(
        self, image_url: str, settings: Settings, body: dict[str, Any], *, hurried: bool = False, **followers: Any
    ) -> Answer:
        """Return the answer to an image and the settings' prompts; what can pass is tried again, unless `hurried`.

        `followers` may be `on_text`, which gets the text in pieces, and `stop`, which says when to end early.

        Raises:
            EndpointError: no answer came after `TRIES`; the message names the address and the remedy.
            Unsupported: the server refuses the request.
        """
        began, pause_s, left = time.monotonic(), PAUSE_S, 1 if hurried else TRIES
        content = [{"type": "image_url", "image_url": {"url": image_url}}, {"type": "text", "text": settings.prompt}]
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if settings.system_prompt is not None:
            messages.insert(0, {"role": "system", "content": settings.system_prompt})
        while True:
            left -= 1
            try:
                return self._ask(messages, body, HURRIED_S if hurried else SILENCE_S, began + PAGE_S, **followers)
            except EndpointError as error:
                if not (left and error.passing) or time.monotonic() > began + PAGE_S / 2:
                    raise
                time.sleep(min(pause_s, LONGEST_PAUSE_S) if error.pause_s is None else error.pause_s)
                pause_s *= 2

    def _ask(self, messages: Any, body: dict[str, Any], silence_s: float, until: float, **followers: Any) -> Answer:
        import httpx2

        started = time.perf_counter()
        try:
            with self._openai.chat.completions.create(
                model=self.address.model,
                messages=messages,
                stream=True,
                stream_options={"include_usage": True},
                extra_body=body,
                timeout=httpx2.Timeout(silence_s, connect=CONNECT_S),
            ) as stream:
                return self._listen(stream, started, until, **followers)
        except (EndpointError, Unsupported):
            raise
        except Exception as error:  # the boundary where whatever a server does wrong becomes words
            raise _meaning(error, self.address) from error

    def _listen(
        self,
        stream: Any,
        started: float,
        until: float,
        on_text: Callable[[str], object] = lambda _: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Answer:
        at, kind = self.address.base_url, stream.response.headers.get("content-type", "")
        if not kind.startswith("text/event-stream"):
            raise EndpointError(
                f"{at}: it answers with {kind or 'no content type'} and not with a stream of text; "
                f"is this the API's address? Most servers answer under /v1"
            )
        usage, ended = None, ""
        texts: list[str] = []
        times: list[float] = []
        for chunk in stream:
            usage = chunk.usage or usage
            for choice in chunk.choices or ():
                ended = choice.finish_reason or ended
                if piece := choice.delta.content:
                    texts.append(piece)
                    times.append(time.perf_counter() - started)
                    on_text(piece)
            if stop():
                ended = "length"  # ended from outside, as a criterion ends a reading in this process
                break
            if time.monotonic() > until:
                raise EndpointError(f"{at}: a page took longer than {PAGE_S:.0f} s; lower max_new_tokens", "timeout")
        if not ended:
            words = f"{at}: the answer broke off after {len(texts)} pieces, without its end; look at the server's log"
            raise EndpointError(words, "crashed", passing=True)
        counts = (usage and usage.prompt_tokens, usage and usage.completion_tokens)
        first_s, last_s = (times[0], times[-1]) if times else (None, 0.0)
        return Answer("".join(texts), ended, *counts, first_s, last_s, len(texts))


def _meaning(error: Exception, address: Address) -> EndpointError | Unsupported:
    """Return what an exception of the client means for a page."""
    import httpx2
    import openai

    at, words = address.base_url, " ".join(str(error).split())
    if isinstance(error, openai.APITimeoutError | httpx2.TimeoutException):
        words = f"{at}: no sign of life in time; is the server overloaded or hanging? Lower batch_size"
        return EndpointError(words, "timeout")
    if isinstance(error, openai.APIConnectionError | httpx2.TransportError):
        cause = " ".join(str(error.__cause__ or error).split()) or type(error).__name__
        words = f"{at}: no connection ({cause[:150]}); is the server running, and is this its address?"
        return EndpointError(words, "crashed", passing=True)
    if isinstance(error, openai.APIStatusError):
        return _of_status(error, address)
    if isinstance(error, openai.APIError):  # said within the stream
        words = f"{at}: the server broke off: {_words(error.body) or error.message}"
        return EndpointError(words, _status_of(words))
    if isinstance(error, ValueError):
        return EndpointError(f"{at}: the answer is not the JSON of the API ({words[:150]}); look at the server's log")
    return EndpointError(f"{at}: {type(error).__name__}: {words[:300]}")


def _of_status(error: Any, address: Address) -> EndpointError | Unsupported:
    code, said = error.status_code, _words(error.body) or _words(error.response.text) or "no message"
    words = f"{address.base_url}: HTTP {code}: {said}"
    if code == 429 or code >= 500:
        words += "; look at the server's log, lower batch_size"
        status, pause_s = _status_of(words), _seconds(error.response.headers.get("retry-after"))
        passing = status != "oom" and (pause_s or 0) <= LONGEST_PAUSE_S
        words += f" (it asks to wait {pause_s:.0f} s)" if pause_s and not passing else ""
        return EndpointError(words, status, passing, pause_s)
    if 300 <= code < 400:
        return EndpointError(f"{words}; it points elsewhere, which is not followed; give the final address")
    if code in _REMEDIES:
        return EndpointError(f"{words}; {_REMEDIES[code]}")
    if code == 404:
        return Unsupported(f"{words}; no model {address.model!r} there, or no API under this path")
    return Unsupported(f"{words}; the server refuses the request")


def _status_of(words: str) -> Status:
    return "oom" if kind_of(words) == "oom" else "error"


def _words(body: Any) -> str:
    """Return a server's message from an error's body, whatever its form, in one line."""
    while isinstance(body, dict):
        body = body.get("message") or body.get("detail") or body.get("error") or str(body)
    text = " ".join(str(body or "").split())
    if key := os.environ.get(KEY):
        text = text.replace(key, "(key)")  # some servers say the key that they refuse
    return "a page of HTML" if text[:1] == "<" else text[:300]


def _seconds(header: str) -> float | None:
    """Return a Retry-After header's seconds from now: a number, or a date; None for anything else."""
    with suppress(TypeError, ValueError):
        return max(0.0, float(header))
    with suppress(TypeError, ValueError):
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    return None
