"""A Ray cluster of two nodes on this machine: the same texts, one node killed, a sweep spread over both."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ocrlab import paths
from ocrlab.commands.library import gather, make_batches, plan_items
from ocrlab.pages import Page, load_pages
from ocrlab.reading.cluster import Cluster, connect, deal
from ocrlab.reading.isolated import Refused
from ocrlab.reading.settings import Settings
from ocrlab.study.experiment import run_experiment

pytest.importorskip("ray", reason="the extra `cluster` is not installed")
SETTINGS = Settings(dtype="float32", max_new_tokens=64, batch_size=2)
pytestmark = pytest.mark.timeout(900)  # two nodes are started once, for all tests of this file


@pytest.fixture(scope="module")
def nodes() -> Iterator[tuple[Any, Any]]:
    """The cluster and the node that may be killed."""
    import ray
    from ray.cluster_utils import Cluster as Nodes

    quick = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 1000, "health_check_failure_threshold": 3}
    head = {"num_cpus": 1, "include_dashboard": False, "_system_config": quick}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(paths.ROOT))
        cluster = Nodes(initialize_head=True, head_node_args=head)
        other = cluster.add_node(num_cpus=1)
        yield cluster, other
        ray.shutdown()
        cluster.shutdown()


def test_tasks_cost_alike_and_grow_small_towards_the_end() -> None:
    batches: list[list[Page]] = [[] for _ in range(32)]
    assert [len(task) for task in deal(batches, [1] * 32, 2)] == [4, 4, 4, 4, 4, 3, 2, 1, 1, 1, 1, 1, 1, 1]
    assert [len(task) for task in deal(batches, [1] * 32, 30)] == [1] * 32 and deal([], [], 2) == []
    falling = [float(cost) for cost in range(32, 0, -1)]
    lengths = [len(task) for task in deal(batches, falling, 2)]
    assert sum(lengths) == 32 and lengths[0] == 4 and lengths[-4:] == [1] * 4


def test_an_address_without_a_cluster_is_refused() -> None:
    with pytest.raises(Refused, match=r"no Ray cluster answers there.*ray start --head"):
        connect("127.0.0.1:1")


def test_a_sweep_is_spread_over_the_nodes(
    nodes: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = load_pages("lines", limit=3)
    runs = [SETTINGS, replace(SETTINGS, attn_implementation="eager"), replace(SETTINGS, max_pixels=8192)]
    here = run_experiment("sweep", runs, pages, folder=tmp_path / "here")
    monkeypatch.setenv("OCRLAB_ENGINE", "ray")
    monkeypatch.setenv("RAY_ADDRESS", nodes[0].address)
    there = run_experiment("sweep", runs, pages, folder=tmp_path / "there")
    assert list(there["key"]) == list(here["key"]) and len(there) == 9
    assert list(there["cer"]) == list(here["cer"]) and set(there["status"]) == {"ok"}
    again = run_experiment("sweep", runs, pages, folder=tmp_path / "there")
    assert list(again["time_utc"]) == list(there["time_utc"]), "nothing is read twice"


@pytest.fixture
def store() -> Iterator[list[Page]]:
    """Pages in a store that every node fetches from by itself, through fsspec: a web server."""
    quiet = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(quiet, directory=str(paths.PAGES))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        files = [page.file.relative_to(paths.PAGES).as_posix() for page in load_pages("lines", limit=60)]
        urls = [f"http://127.0.0.1:{server.server_port}/{file}" for file in files]
        yield gather(urls, limit=None, dpi=150).pages
        server.shutdown()


def test_a_killed_node_loses_and_doubles_nothing(nodes: tuple[Any, Any], store: list[Page]) -> None:
    cluster, other = nodes
    batches = make_batches(plan_items(SETTINGS, store, [None] * len(store)), SETTINGS.batch_size)
    counts: Counter[str] = Counter()
    killed_at = None
    with Cluster(SETTINGS, cluster.address) as engine:
        assert engine.workers == 2 and engine.resource == "CPU"
        for results in engine.stream(batches):
            counts.update(result.reading.page for result in results)
            assert {result.actual["actual_dtype"] for result in results} == {"float32"}
            assert {result.reading.status for result in results} == {"ok"}
            if killed_at is None:
                cluster.remove_node(other, allow_graceful=False)
                killed_at = time.monotonic()
    assert killed_at is not None
    assert counts == dict.fromkeys((page.id for page in store), 1)
