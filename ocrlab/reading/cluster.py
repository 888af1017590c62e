"""The same reading on the machines of a Ray cluster: a library's batches, or a sweep's settings, dealt out as tasks."""

from __future__ import annotations

import os
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.util import find_spec
from typing import Any

from ocrlab.machine.worker import Closes
from ocrlab.pages import Page
from ocrlab.reading.isolated import PageResult, Refused
from ocrlab.reading.loading import image_tokens_of
from ocrlab.reading.pool import PoolDown, ReaderPool
from ocrlab.reading.settings import Settings

#: The environment variable by which `reproduce --engine ray` reaches the notebooks.
ENGINE = "OCRLAB_ENGINE"
#: How many batches a reader is handed at once: few, so that little is read again when its machine is lost.
MOST_BATCHES = 4
#: How often a task that fails or is lost with its machine is given out.
TRIES = 3

_pool: ReaderPool | None = None  # in a process on a machine of the cluster: it stays from one task to the next


def engine_is_ray() -> bool:
    """Return whether this run's experiments are to be spread over a Ray cluster (at RAY_ADDRESS)."""
    return os.environ.get(ENGINE) == "ray"


def engine_variables(engine: str) -> dict[str, str]:
    """Return the environment by which experiments in other processes know the engine and the cluster to join."""
    if engine != "ray":
        return {}
    import ray

    return {ENGINE: "ray", "RAY_ADDRESS": ray.get_runtime_context().gcs_address}


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
    quiet: Any = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if address:
            host, _, port = address.removeprefix("ray://").rpartition(":")
            if host and port.isdigit():  # Ray itself would try for minutes where nothing listens
                socket.create_connection((host, int(port)), timeout=5).close()
            ray.init(address=address, **quiet)
        else:
            ray.init(num_cpus=cores, include_dashboard=False, **quiet)
    except (OSError, ValueError, RuntimeError) as error:
        words = f"{address}: no Ray cluster answers there ({' '.join(str(error).split())[:300]})"
        raise Refused("unsupported", f"{words}; start one with `ray start --head`") from error


def _resource() -> str:
    """Return the resource that one reader takes in the cluster that was joined: a GPU where it has any, else a core."""
    import ray

    return "GPU" if ray.cluster_resources().get("GPU") else "CPU"


def spread(
    function: Callable[..., Iterable[Any]], tasks: Sequence[Any], *given: Any, workers: int | None = None
) -> Iterator[tuple[int, Any]]:
    """Yield (task's index, value) for all that `function(task, *given)` yields on the machines, as it comes.

    There are `workers` processes, by default one per task; each takes a GPU where the cluster has any, else a core, and
    one task after another. A task that raises or is lost with its machine is begun again in another process, so that a
    value may come twice; one that fails `TRIES` times yields the error as its last value.

    Raises:
        RayError: processes cannot be started.
    """
    import ray

    resources = {"num_gpus": 1} if _resource() == "GPU" else {"num_cpus": 1}
    machine: Any = ray.remote(_Machine).options(scheduling_strategy="SPREAD", **resources)
    todo, failures = deque(range(len(tasks))), Counter[int | None]()
    going: dict[Any, tuple[Any, Any]] = {}

    def start(on: Any, index: int | None) -> None:
        call = (tuple,) if index is None else (function, tasks[index], *given)  # none: shows that the process runs
        going[on.run.options(num_returns="streaming").remote(*call)] = on, index

    for _ in tasks[:workers]:
        start(machine.remote(), None)
    while todo or any(index is not None for _, index in going.values()):
        ready: Any = ray.wait(list(going), num_returns=1)[0][0]
        on, index = going[ready]
        try:
            yield index, ray.get(next(ready))
        except StopIteration:
            del going[ready]
            if todo:
                start(on, todo.popleft())
        except ray.exceptions.RayError as error:
            del going[ready]
            failures[index] += 1
            if failures[index] < TRIES:
                todo.extend([] if index is None else [index])
            elif index is None:
                raise
            else:
                yield index, error
            start(machine.remote(), None)


class _Machine:
    """A process on a machine of the cluster."""

    def run(self, function: Callable[..., Iterable[Any]], *given: Any) -> Iterator[Any]:
        yield from function(*given)


class Cluster(Closes):
    """A pool of readers over the machines of a Ray cluster, with a `ReaderPool`'s interface: `stream`, `stop`, `close`.

    Every machine needs this package, and the pages under the same paths. `options` are those of a `ReaderPool`, of
    which each process has one with one reader, so that a page that kills costs itself only.
    """

    def __init__(self, settings: Settings, address: str | None, workers: int | None = None, **options: Any) -> None:
        connect(address, workers)
        import ray

        self.resource = _resource()
        self.workers = workers or max(1, int(ray.cluster_resources().get(self.resource, 1)))
        self.settings, self.options = settings, options
        self.troubles: list[str] = []
        self._stopped = False

    def stream(self, batches: Iterable[Sequence[Page]]) -> Iterator[list[PageResult]]:
        """Yield the results of batches as the machines end them.

        Raises:
            Refused: the settings cannot be put in force.
            PoolDown: pages came to nothing again and again.
        """
        batches, done = list(batches), set[str]()
        # A batch's pages are of like size: the first one's image tokens say what it costs.
        tokens = image_tokens_of(self.settings, [batch[0] for batch in batches])
        costs = [len(batch) * (1 + count) for batch, count in zip(batches, tokens, strict=True)]
        tasks = deal(batches, costs, self.workers)
        for _, found in spread(_read, tasks, self.settings, self.options, workers=self.workers):
            if isinstance(found, Refused):
                raise found
            if isinstance(found, Exception | str):
                self.troubles.append(str(found).strip().rpartition("\n")[2][:300])
                continue
            fresh = [result for result in found if result.reading.page not in done]
            done.update(result.reading.page for result in fresh)
            if fresh:
                yield fresh
            if self._stopped:
                return
        if left := sum(map(len, batches)) - len(done):
            words = "; ".join(self.troubles[-3:])
            raise PoolDown("crashed", f"{left} pages are not read: they came to nothing {TRIES} times ({words})")

    def stop(self) -> None:
        """End `stream` with the next results that arrive; what the machines have in hand is read again next time."""
        self._stopped = True

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        import ray

        ray.shutdown()


def _read(
    batches: Sequence[Sequence[Page]], settings: Settings, options: dict[str, Any]
) -> Iterator[list[PageResult] | Refused | str]:
    """Yield results of batches, then a refusal or troubles in words; runs on a machine of the cluster."""
    global _pool
    _pool = _pool or ReaderPool(settings, **options)
    _pool.troubles.clear()
    try:
        yield from _pool.stream(batches)
    except PoolDown:
        raise  # given out again
    except Refused as error:
        yield error
    yield from _pool.troubles


def deal(batches: Sequence[Sequence[Page]], costs: Sequence[float], workers: int) -> list[Sequence[Sequence[Page]]]:
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
