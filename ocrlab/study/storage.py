"""Bytes a page and what carries them: how many workers a disk or a network can feed."""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ocrlab import paths
from ocrlab.scoring.statistics import median_spread
from ocrlab.study.loads import drop_from_cache
from ocrlab.study.origin import pages_by_hash

if TYPE_CHECKING:
    import pandas as pd

_CHUNK = 1 << 20


def bytes_a_page(rows: pd.DataFrame, sources: Iterable[str | Path] | None = None) -> dict[str, float]:
    """Return the mean bytes of the image files behind the rows, by page set; sets whose pages are not here are absent.

    `sources` are where pages may lie (our sets unless named). A PDF's bytes are shared by its pages;
    objects of a store are not measured.
    """
    here = pages_by_hash() if sources is None else pages_by_hash(sources)
    leaves = Counter(page.file for page in here.values())
    local = {sha256: page.file for sha256, page in here.items() if page.file.is_file()}
    size = {sha256: file.stat().st_size / leaves[file] for sha256, file in local.items()}
    if rows.empty:
        return {}
    # A page may stand under its own set and under a mixed one.
    table = rows.drop_duplicates(["set", "page_sha256"]).assign(bytes=lambda t: t["page_sha256"].map(size))
    return {str(name): float(value) for name, value in table.groupby("set")["bytes"].mean().dropna().items()}


def measure_disk(folder: Path | None = None, megabytes: int = 64, repeats: int = 5) -> dict[str, Any]:
    """Return MB/s read one after the other from the disk that holds the run's folder: median, quartiles; or `reason`.

    A file of random bytes is written, dropped from the system's cache before each reading, and removed. A disk's own
    cache, or a host's below a virtual machine, still counts as disk.
    """
    folder = folder or paths.run_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".disk-") as place:
        file = Path(place) / "bytes"
        file.write_bytes(os.urandom(megabytes * 1_000_000))
        rates = []
        for _ in range(repeats):
            if reason := drop_from_cache(file):
                return {"median": None, "reason": f"not measured: {reason}"}
            started = time.perf_counter()
            with file.open("rb", buffering=0) as opened:
                while opened.read(_CHUNK):
                    pass
            rates.append(megabytes / (time.perf_counter() - started))
    return median_spread(rates)._asdict() | {"reason": ""}


def feeding(
    costs: pd.DataFrame, page_bytes: dict[str, float], *, disk_mb_s: float, network_mbit_s: float
) -> pd.DataFrame:
    """Return the costs with `bytes`, `mb_s` (what one worker reads), and how many workers disk and network feed.

    Rates are the caller's, in megabytes and megabits a second; bytes of sets that are not here are empty.
    """
    made = costs.assign(bytes=costs["set"].map(page_bytes).astype(float))
    made["mb_s"] = made["bytes"] / made["page_s"] / 1e6
    return made.assign(disk_workers=disk_mb_s / made["mb_s"], network_workers=network_mbit_s / 8 / made["mb_s"])
