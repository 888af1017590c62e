"""The same reading on many machines: Ray Data deals batches out to a pool of readers, each with its own worker."""

from __future__ import annotations

import logging
import os
import pickle
import socket
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from typing import Any, Self

from ocrlab.pages import Page
from ocrlab.reading.fleet import Fleet, FleetDown
from ocrlab.reading.lane import Told
from ocrlab.reading.loading import image_tokens_of
from ocrlab.reading.served import Refused
from ocrlab.reading.settings import Settings

MOST_BATCHES = 4
"""How many batches a reader is handed at once: few, so that little is read again when its machine is lost."""
PASSES = 3
"""How often what came to nothing is given out again before it is given up."""


def connect(address: str | None, cores: int | None = None) -> None:
    """Join the cluster at `address` (default: RAY_ADDRESS, else one is started here with `cores` cores).

    Raises:
        Refused: Ray is not installed, or there is no cluster at the address.
    """
    if find_spec("ray") is None:
        raise Refused("unsupported", "the engine ray needs Ray: pip install 'ocrlab[cluster]', or leave --engine out")
    import ray

    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # as Ray will do by default
    address = address or os.environ.get("RAY_ADDRESS")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if address:
            _knock(address)
            ray.init(address=address, **quiet)
        else:
            ray.init(num_cpus=cores, include_dashboard=False, **quiet)
    except (OSError, ValueError, RuntimeError) as error:
        words = " ".join(str(error).split())[:300]
        raise Refused(
            "unsupported", f"{address}: no Ray cluster answers there ({words}); start one with `ray start --head`"
        ) from error


def task_resources() -> dict[str, int]:
    """Return what one reader takes of the cluster that was joined: a GPU where it has any, else a core."""
    import ray

    return {"num_gpus": 1} if ray.cluster_resources().get("GPU") else {"num_cpus": 1}


def _knock(address: str) -> None:
    """Raise OSError where nothing listens: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=5).close()


class Cluster:
    """A fleet over the machines of a Ray cluster, with a fleet's interface: `stream`, `stop`, `close`.

    Every machine needs this package, and the pages under the same paths. A reader takes one GPU where the cluster has
    any, else one core. Ray starts readers and hands out what a lost machine had in hand again.
    """

    def __init__(
        self, settings: Settings, address: str | None = None, workers: int | None = None, *, processes: int = 1,
        page_timeout_s: float | None = None, fewer_pixels: bool = False,
    ) -> None:  # fmt: skip
        connect(address, workers)
        import ray

        self._takes = task_resources()
        self.resource = "GPU" if "num_gpus" in self._takes else "CPU"
        self.workers = workers or max(1, int(ray.cluster_resources().get(self.resource, 1)))
        self.troubles: list[str] = []
        self._arguments: dict[str, Any] = {
            "settings": settings, "processes": processes, "page_timeout_s": page_timeout_s, "fewer_pixels": fewer_pixels
        }  # fmt: skip
        self._stopped = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def stream(self, batches: Iterable[Sequence[Page]]) -> Iterator[Told]:
        """Yield readings, with what was in force and the seconds of loading, as the machines end their batches.

        Raises:
            Refused: the settings cannot be put in force.
            FleetDown: pages came to nothing again and again.
        """
        left = [list(batch) for batch in batches]
        for _ in range(PASSES):
            done: set[str] = set()
            for told in self._pass(left):
                fresh = [reading for reading in told[0] if reading.page not in done]
                done.update(reading.page for reading in fresh)
                if fresh:
                    yield fresh, told[1], told[2]
                if self._stopped:
                    return
            left = [rest for batch in left if (rest := [page for page in batch if page.id not in done])]
            if not left:
                return
        count = sum(map(len, left))
        raise FleetDown(f"{count} pages came to nothing {PASSES} times ({'; '.join(self.troubles[-3:])})")

    def stop(self) -> None:
        """End `stream` with the next readings that arrive; what the machines have in hand is read again next time."""
        self._stopped = True

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        import ray

        ray.shutdown()

    def _pass(self, batches: list[list[Page]]) -> Iterator[Told]:
        import ray

        # A batch's pages are of like size: the first one's image tokens tell what it costs.
        tokens = image_tokens_of(self._arguments["settings"], [batch[0] for batch in batches])
        costs = [len(batch) * (1 + count) for batch, count in zip(batches, tokens, strict=True)]
        tasks = deal(batches, costs, self.workers)
        size = min(self.workers, len(tasks))
        data: Any = ray.data
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        data.DataContext.get_current().enable_progress_bars = False
        pages = data.from_items([{"task": pickle.dumps(task)} for task in tasks], override_num_blocks=len(tasks))
        pool = data.ActorPoolStrategy(min_size=1, max_size=size, initial_size=size, max_tasks_in_flight_per_actor=2)
        told = pages.map_batches(
            _Reader, fn_constructor_kwargs=self._arguments, batch_size=1, compute=pool, **self._takes
        )  # fmt: skip
        for row in told.iter_rows():
            refused, readings, troubles = pickle.loads(row["told"])
            self.troubles += troubles
            if refused:
                raise Refused(*refused)
            yield from readings


def deal(batches: Sequence[list[Page]], costs: Sequence[float], workers: int) -> list[Sequence[list[Page]]]:
    """Return the batches in tasks, so that all readers end together.

    A task costs about half of what a reader's even share of the rest would, so tasks grow small towards the end.
    """
    tasks, start, left = [], 0, sum(costs)
    while start < len(batches):
        end, cost = start + 1, costs[start]
        while end < min(start + MOST_BATCHES, len(batches)) and cost + costs[end] <= left / (2 * workers):
            cost += costs[end]
            end += 1
        tasks.append(batches[start:end])
        start, left = end, left - cost
    return tasks


class _Reader:
    """What runs on a machine of the cluster: a fleet of one, so that a page that kills costs itself only."""

    def __init__(self, settings: Settings, **arguments: Any) -> None:
        self.fleet = Fleet(settings, [settings.device], **arguments)
        self.fleet.warm()  # the model loads while Ray still deals out

    def __call__(self, rows: dict[str, Any]) -> dict[str, list[bytes]]:
        self.fleet.troubles.clear()
        refused, told = None, []
        try:
            told = list(self.fleet.stream(pickle.loads(rows["task"][0])))
        except Refused as error:
            refused = (error.status, str(error))
        except FleetDown:
            pass  # what was read is told; the rest is given out again
        return {"told": [pickle.dumps((refused, told, list(self.fleet.troubles)))]}
