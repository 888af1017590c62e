"""Where a model can run: in this process, on a server that is started here, on one that is given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace

from ocrlab.reading.loading import Unsupported
from ocrlab.reading.serve import running_server
from ocrlab.reading.server_reader import BY_THE_SERVER
from ocrlab.reading.settings import Settings

HERE = "in this process"
SERVED = "transformers serve"
GIVEN = "the given server"


@dataclass(frozen=True)
class Engine:
    """Where a model runs; `settings` is None where it cannot be had here, and `reason` says why."""

    name: str
    settings: Settings | None
    reason: str = ""


@contextmanager
def engines(base: Settings, endpoint: str = "") -> Iterator[list[Engine]]:
    """Yield the engines for a model: this process, `transformers serve` started here and ended after, a given server.

    `endpoint` is a model_id of the form `endpoint:http://host:port/v1#model`, empty for none. What is decided when a
    server starts is taken from `base` for the one that is started here, and is the given server's own.
    """
    given = [Engine(GIVEN, _asked_of(base, endpoint))] if endpoint else []
    with ExitStack() as stack:
        try:
            served = Engine(SERVED, _asked_of(base, stack.enter_context(_server(base))))
        except Unsupported as error:
            served = Engine(SERVED, None, str(error))
        yield [Engine(HERE, base), served, *given]


def _server(base: Settings) -> AbstractContextManager[str]:
    given = {"device", "dtype", "attn_implementation"}
    if others := [n for n in BY_THE_SERVER if n not in given and getattr(base, n) != getattr(Settings(), n)]:
        raise Unsupported(f"{', '.join(others)}: the server that is started here has no option for it")
    return running_server(base.model_id, device=base.device, dtype=base.dtype, attention=base.attn_implementation)


def _asked_of(base: Settings, model_id: str) -> Settings:
    """Return what a server is asked: all but what it was started with."""
    unset = {name: getattr(Settings(), name) for name in BY_THE_SERVER}
    return replace(base, model_id=model_id, **unset)
