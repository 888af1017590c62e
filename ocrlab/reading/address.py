"""A model that a server holds, as a model_id names it: `endpoint:http://127.0.0.1:8000/v1#model`."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

PREFIX = "endpoint:"


@dataclass(frozen=True)
class Address:
    """Where a server answers, and the name that it has for the model."""

    base_url: str
    model: str

    @property
    def loopback(self) -> bool:
        """Whether the server is on this computer."""
        host = urlsplit(self.base_url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"


def is_endpoint(model_id: str) -> bool:
    """Return whether a model_id names a server's model."""
    return model_id.startswith(PREFIX)


def parse_address(model_id: str) -> Address:
    """Return where a model_id's server answers and what the model is called there.

    Raises:
        ValueError: no such form; a user name or password is refused, for a model_id stands in every row.
    """
    url, _, model = model_id.removeprefix(PREFIX).partition("#")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if "@" in parts.netloc:
        raise ValueError(
            "model_id: the address holds a user name or password, which would stand in every row; leave it out: "
            "a key is taken from the environment variable OPENAI_API_KEY"
        )
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or port == 0:
        raise ValueError(
            f"model_id={model_id!r}: not an address of the form {PREFIX}http://127.0.0.1:8000/v1#model "
            f"(http or https, no query)"
        )
    if not model.strip():
        raise ValueError(f"model_id={model_id!r}: name the model after a #; {url.rstrip('/')}/models lists them")
    return Address(url.rstrip("/"), model)
