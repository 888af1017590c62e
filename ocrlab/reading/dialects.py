"""Which settings a kind of server takes with a request, under which names; what it does not take is never dropped."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from ocrlab.reading.loading import Unsupported
from ocrlab.reading.settings import GENERATION, Settings

Kind = Literal["transformers", "vllm", "sglang", "unknown"]
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
