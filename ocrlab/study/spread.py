"""A sweep's settings spread over the machines of a Ray cluster: one task for all settings that share a model."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from ocrlab.reading.cluster import connect, task_resources

ENGINE = "OCRLAB_ENGINE"
"""The environment variable by which `reproduce --engine ray` tells the notebooks."""
_RETRIES = 3


def engine_is_ray() -> bool:
    """Return whether this run's experiments are to be spread over a Ray cluster (at RAY_ADDRESS)."""
    return os.environ.get(ENGINE) == "ray"


def engine_variables(engine: str) -> dict[str, str]:
    """Return the environment that tells experiments in other processes which engine, and which cluster to join."""
    if engine != "ray":
        return {}
    import ray

    return {ENGINE: "ray", "RAY_ADDRESS": ray.get_runtime_context().gcs_address}


def spread(function: Callable[..., Iterable[Any]], groups: Sequence[Any], *given: Any) -> Iterator[tuple[int, Any]]:
    """Yield (group's index, value) for all that `function(group, *given)` yields on the machines, as it comes.

    A lost machine's group is begun again elsewhere, so that a value may come twice. A group that Ray gives up on
    yields the error as its last value. A task takes one GPU where the cluster has any, else one core.

    Raises:
        Refused: there is no Ray, or no cluster.
    """
    connect(None)
    import ray

    remote: Any = ray.remote(function)
    how = {"num_returns": "streaming", "max_retries": _RETRIES, "scheduling_strategy": "SPREAD"}
    task = remote.options(**how, **task_resources())
    going = {task.remote(group, *given): index for index, group in enumerate(groups)}
    while going:
        ready: Any = ray.wait(list(going), num_returns=1)[0][0]
        try:
            yield going[ready], ray.get(next(ready))
        except StopIteration:
            del going[ready]
        except ray.exceptions.RayError as error:
            yield going.pop(ready), error
