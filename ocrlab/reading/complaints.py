"""What a server's failure means: which status a page gets, whether another try can help, and what to do, in words."""

from __future__ import annotations

import email.utils
import os
import time
from typing import Any

from ocrlab.machine.worker import kind_of
from ocrlab.reading.address import Address
from ocrlab.reading.loading import Unsupported
from ocrlab.scoring.failures import Status

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
