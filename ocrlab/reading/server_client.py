"""Talks to one OpenAI-compatible server: what it is, an image answered, and what a failure means for a page.

The package openai tries again by itself, but not as pages need it: it sends again after a time-out, and where the
server is out of memory, and it does not where a stream breaks off. So its own retries are off.
"""

from __future__ import annotations

import email.utils
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from ocrlab.machine.worker import kind_of
from ocrlab.reading.loading import Unsupported
from ocrlab.reading.settings import Address, Settings
from ocrlab.scoring.outcomes import Status

T = TypeVar("T")
Kind = Literal["transformers", "vllm", "sglang", "ollama", "llama.cpp", "lmstudio", "mlx", "unknown"]
#: Where a server that does not list the length of its context tells it, and what servers call it.
_CONTEXT_AT = {"ollama": "/api/ps", "llama.cpp": "/props", "lmstudio": "/api/v0/models"}
_CONTEXT = ("max_model_len", "n_ctx", "loaded_context_length", "context_length")
_COUNTS = (("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens"))
#: Fields beside `content` in which servers send what a model thinks.
THINKING = ("reasoning_content", "reasoning", "thinking")
#: How often a request is sent while the server is busy, failing or out of reach, and the seconds before the second.
TRIES, PAUSE_S = 4, 0.5
#: A page fails at once where the server asks for a longer pause.
LONGEST_PAUSE_S = 60.0
#: Seconds for a connection, between two signs of life, and for a page with all its tries: less than a batch may take
#: (`page_timeout_s`, 1800 by default), so that a slow server costs a page and not the process.
CONNECT_S, SILENCE_S, PAGE_S = 5.0, 300.0, 1500.0
#: Seconds for a server that says that it is loading its model.
READY_S = float(os.environ.get("OCRLAB_SERVER_READY_S", 300))
#: Seconds of silence for a page that gets one try only, after others before it failed.
HURRIED_S = 30.0
KEY = "OPENAI_API_KEY"
_TAKES_KEY = f"give a key that it takes in {KEY}"
_REMEDIES = {401: _TAKES_KEY, 403: _TAKES_KEY}


@cache
def faults() -> dict[str, Any]:
    """Return what `server_faults.yaml` knows of servers."""
    return dict(yaml.safe_load(Path(__file__).with_name("server_faults.yaml").read_text(encoding="utf-8")))


def remedy(fault: str, kind: Kind) -> str:
    """Return what helps against a fault of `server_faults.yaml` with a kind of server."""
    known = faults()[fault]
    return str(known.get(kind, known["unknown"]))


class EndpointError(RuntimeError):
    """A server that gave no usable answer; `status` is the page's, the message names the address and the remedy.

    `passing` says that another try can help, `pause_s` how many seconds the server asks to wait before it, `loading`
    that it will be ready later; `partial` is an answer without any sign of its end.
    """

    pause_s: float | None = None
    loading = False
    partial: Answer | None = None

    def __init__(self, words: str, status: Status = "error", passing: bool = False, **more: Any) -> None:
        super().__init__(words)
        self.status, self.passing = status, passing
        vars(self).update(more)


@dataclass(frozen=True)
class Answer:
    """What a server said of one image. Times in seconds since the request was sent; counts None where not given.

    `thought` says in words what came beside the text, `note` how the end is known where the server did not say.
    """

    text: str
    finish_reason: str
    prompt_tokens: int | None
    new_tokens: int | None
    first_s: float | None
    last_s: float
    pieces: int
    thought: str = ""
    note: str = ""


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

    def survey(self, patient: bool = True) -> tuple[Kind, tuple[str, ...]]:
        """Return the kind of server and the models that it lists (`transformers serve` lists those of its cache).

        Where it is `patient`, a server that is loading its model is waited for.

        Raises:
            EndpointError: nothing answers, or it is not ready after `READY_S`.
        """
        listed = self._when_ready(lambda: self._look(f"{self.address.base_url}/models"), patient).get("data")
        models = [m for m in listed if isinstance(m, dict)] if isinstance(listed, list) else []
        names = tuple(str(m.get("id")) for m in models)
        self._listed = models
        if kinds := [kind for m in models if (kind := faults()["owners"].get(m.get("owned_by")))]:
            return kinds[0], names
        paths = self._look(f"{self.address.base_url.rsplit('/', 1)[0]}/openapi.json").get("paths")
        # No other server has transformers' own way to load a model.
        return ("transformers" if isinstance(paths, dict) and "/load_model" in paths else "unknown"), names

    def context(self, kind: Kind) -> int | None:
        """Return how many tokens a server's context holds; None where it does not tell."""
        at, name = self.address.base_url.rsplit("/", 1)[0] + _CONTEXT_AT.get(kind, ""), self.address.model
        more = self._look(at) if kind in _CONTEXT_AT else {}
        listed = [*self._listed, *(more.get("data") or more.get("models") or [more])]
        return _length_in([m for m in listed if isinstance(m, dict) and name in {m.get("id", name), m.get("name")}])

    def _when_ready(self, ask: Callable[[], T], patient: bool = True) -> T:
        """Return what `ask` gives, waiting up to `READY_S` for a server that says that it is loading."""
        until = time.monotonic() + READY_S
        while True:
            try:
                return ask()
            except EndpointError as error:
                if not (patient and error.loading):
                    raise
                if time.monotonic() > until:
                    words = f"{error}; it was not ready after {READY_S:g} s (OCRLAB_SERVER_READY_S waits longer)"
                    raise EndpointError(words, "timeout") from error
            time.sleep(PAUSE_S)

    def _look(self, url: str) -> dict[str, Any]:
        """Return a JSON object, empty for any other answer; raise EndpointError where there is none."""
        import httpx2

        key = os.environ.get(KEY)
        # A server that fails inside closes the connection after its answer, which must not be used again.
        headers = {"Connection": "close"} | ({"Authorization": f"Bearer {key}"} if key else {})
        try:
            answer = self._http.get(url, headers=headers, timeout=CONNECT_S)
            found = answer.json() if answer.status_code in {200, 503} else {}
        except httpx2.TransportError as error:
            raise _meaning(error, self.address) from error
        except ValueError:
            found = answer.text
        if answer.status_code == 503:
            words = f"{self.address.base_url}: HTTP 503: {_words(found) or 'not ready'}"
            raise EndpointError(words, "timeout", passing=True, loading=True)
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
        began, pause_s, left, before = time.monotonic(), PAUSE_S, 1 if hurried else TRIES, None
        silence_s, until = HURRIED_S if hurried else SILENCE_S, began + PAGE_S
        content = [{"type": "image_url", "image_url": {"url": image_url}}, {"type": "text", "text": settings.prompt}]
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if settings.system_prompt is not None:
            messages.insert(0, {"role": "system", "content": settings.system_prompt})
        while True:
            left -= 1
            try:
                return self._when_ready(lambda: self._ask(messages, body, silence_s, until, **followers), not hurried)
            except EndpointError as error:
                if error.partial and before and error.partial.text == before.text:
                    return replace(error.partial, note="no finish_reason and no usage; two tries gave the same text")
                before = error.partial
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
                # Signs of life without text (": keepalive") would otherwise go on without end.
                end = threading.Timer(until - time.monotonic(), stream.close)
                end.daemon = True
                end.start()
                try:
                    return self._listen(stream, started, until, body["max_tokens"], **followers)
                finally:
                    end.cancel()
        except (EndpointError, Unsupported):
            raise
        except Exception as error:  # the boundary where whatever a server does wrong becomes words
            raise (self._late() if time.monotonic() > until else _meaning(error, self.address)) from error

    def _late(self) -> EndpointError:
        words = f"{self.address.base_url}: a page took longer than {PAGE_S:g} s; lower max_new_tokens"
        return EndpointError(words, "timeout")

    def _listen(
        self,
        stream: Any,
        started: float,
        until: float,
        cap: int,
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
        thoughts: Counter[str] = Counter()
        for chunk in stream:
            usage = chunk.usage or usage
            for choice in chunk.choices or ():
                ended = choice.finish_reason or ended
                if piece := choice.delta.content:
                    texts.append(piece)
                    times.append(time.perf_counter() - started)
                    on_text(piece)
                for name in THINKING:
                    thoughts[name] += len(getattr(choice.delta, name, None) or "")
            if stop():
                ended = "length"  # ended from outside, as a criterion ends a reading in this process
                break
            if time.monotonic() > until:
                break
        if not ended and time.monotonic() > until:
            raise self._late()
        prompt_tokens, new_tokens = (_count(usage, *names) for names in _COUNTS)
        said = ended or ("length" if (new_tokens or len(texts)) >= cap else "stop")
        thought = "; ".join(f"{count} characters as {name!r}" for name, count in thoughts.items() if count)
        first_s, last_s = (times[0], times[-1]) if times else (None, 0.0)
        answer = Answer("".join(texts), said, prompt_tokens, new_tokens, first_s, last_s, len(texts), thought)
        if ended:
            return answer
        if new_tokens is not None:
            return replace(answer, note=f"no finish_reason: by its usage it ended after {new_tokens} of {cap} tokens")
        words = f"{at}: the answer broke off after {len(texts)} pieces, without its end; look at the server's log"
        raise EndpointError(words, "crashed", passing=True, partial=answer if answer.text else None)


def _count(usage: Any, *names: str) -> int | None:
    """Return a count of tokens by the first of its names that a server uses; None where it gives none."""
    return next((n for name in names if isinstance(n := getattr(usage, name, None), int)), None)


def _length_in(value: Any) -> int | None:
    """Return the first length of a context that is anywhere in a server's answer."""
    if isinstance(value, dict):
        own = next((value[name] for name in _CONTEXT if isinstance(value.get(name), int)), None)
        return own or _length_in(list(value.values()))
    return next(filter(None, map(_length_in, value)), None) if isinstance(value, list) else None


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
        words, status = _told(f"{at}: the server broke off: {_words(error.body) or error.message}")
        return EndpointError(words, status)
    if isinstance(error, ValueError):
        return EndpointError(f"{at}: the answer is not the JSON of the API ({words[:150]}); look at the server's log")
    return EndpointError(f"{at}: {type(error).__name__}: {words[:300]}")


def _of_status(error: Any, address: Address) -> EndpointError | Unsupported:
    code, said = error.status_code, _words(error.body) or _words(error.response.text) or "no message"
    words, status = _told(f"{address.base_url}: HTTP {code}: {said}")
    if code == 429 or code >= 500:
        words += "; look at the server's log, lower batch_size"
        pause_s = _seconds(error.response.headers.get("retry-after"))
        passing = status != "oom" and (pause_s or 0) <= LONGEST_PAUSE_S
        words += f" (it asks to wait {pause_s:.0f} s)" if pause_s and not passing else ""
        loading = code == 503 and re.search(faults()["loading"], said, re.IGNORECASE) is not None
        return EndpointError(words, status, passing, pause_s=pause_s, loading=loading)
    if status == "oom":
        return EndpointError(words, status)
    if 300 <= code < 400:
        return EndpointError(f"{words}; it points elsewhere, which is not followed; give the final address")
    if code in _REMEDIES:
        return EndpointError(f"{words}; {_REMEDIES[code]}")
    if code == 404:
        return Unsupported(f"{words}; no model {address.model!r} there, or no API under this path")
    return Unsupported(f"{words}; the server refuses the request")


def _told(words: str) -> tuple[str, Status]:
    """Return a server's words, with the remedy where they are known, and the status that they mean."""
    fits = (fault for fault in faults()["does_not_fit"] if re.search(fault["says"], words, re.IGNORECASE))
    if fault := next(fits, None):
        return f"{words}; {fault['remedy']}", "oom"
    return words, "oom" if kind_of(words) == "oom" else "error"


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
