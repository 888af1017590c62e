"""What names a person or a machine, taken out of what is shared: home folders, user names, host names."""

from __future__ import annotations

import getpass
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ocrlab import paths

Scrub = Callable[[str], str]
# They name a role and not a person, and are words of page texts and messages.
_ANYBODY = {
    "root", "user", "users", "admin", "administrator", "ubuntu", "debian", "runner", "jovyan", "work", "home", "guest",
    "localhost", "localdomain",
}  # fmt: skip
_HOMES = re.compile(
    r"""(?:/(?:home|Users|export/home|var/home)/|[A-Za-z]:(?:\\{1,2}|/)Users(?:\\{1,2}|/))[^\s/\\"'<>|:;,]+"""
    r"|(?<![\w/])/root(?![\w-])"
)
# A model's server: in a model_id, and where messages name its API's address. This computer's own names nobody.
_SERVERS = re.compile(
    r"""(endpoint:https?://|https?://(?=[^/\s#"'<>]+/v1\b))(?!127\.|localhost\b|\[::1\])[^/\s#"'<>]+"""
)
PAGE_TEXTS = frozenset({"text", "truth"})
"""Fields of a reading that hold what a page says: the evidence itself, which only loses home folders."""


def scrubber(user: str | None = None, hosts: tuple[str, ...] | None = None, home: Path | None = None) -> Scrub:
    """Return what replaces home folders by `~`, this checkout's path by `CHECKOUT`, user by `USER`, hosts by `HOST`.

    Hosts are this machine, and servers that a model_id names. Names count as whole words in any case; names of under
    three letters and those that anybody has (`root`, `ubuntu`) stay where they are no home folder. The defaults are of
    whoever runs this.
    """
    try:
        user = getpass.getuser() if user is None else user
    except (OSError, KeyError):
        user = ""  # a container's number without a name
    hosts = (socket.gethostname(), socket.gethostname().split(".")[0]) if hosts is None else hosts
    places = {str(home or Path.home()): "~", str(paths.ROOT): "CHECKOUT"}
    places |= {place.replace("\\", "\\\\"): word for place, word in places.items()}
    exact = sorted(((p, w) for p, w in places.items() if len(p) > 1), key=lambda pair: -len(pair[0]))
    names = [(host, "HOST") for host in sorted(set(hosts), key=len, reverse=True)] + [(user, "USER")]
    words = [(re.compile(rf"(?<![^\W_]){re.escape(name)}(?![^\W_])", re.IGNORECASE), word)
             for name, word in names if len(name) > 2 and name.lower() not in _ANYBODY]  # fmt: skip

    def scrub(text: str) -> str:
        for place, word in exact:
            text = re.sub(re.escape(place) + r"(?![\w-])", word, text)
        text = _SERVERS.sub(r"\1HOST", _HOMES.sub("~", text))
        for pattern, word in words:
            text = pattern.sub(word, text)
        return text

    return scrub


def scrub_places(text: str) -> str:
    """Return a page's text without home folders; names in it are the page's own words."""
    return _HOMES.sub("~", text)


def scrub_all(value: Any, scrub: Scrub, spared: frozenset[str] = frozenset()) -> Any:
    """Return JSON with every text scrubbed, names of fields included; `spared` fields lose home folders only."""
    if isinstance(value, dict):
        return {
            scrub(str(name)): scrub_places(item) if name in spared and isinstance(item, str)
            else scrub_all(item, scrub, spared)
            for name, item in value.items()
        }  # fmt: skip
    if isinstance(value, list):
        return [scrub_all(item, scrub, spared) for item in value]
    return scrub(value) if isinstance(value, str) else value
