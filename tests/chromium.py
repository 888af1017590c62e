"""A headless Chromium of the system, and a server of ours to point it at."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from playwright.sync_api import Browser, Error, sync_playwright

from ocrlab import paths

QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Yield a browser; skips where there is none."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    with sync_playwright() as playwright:
        try:
            started = playwright.chromium.launch(executable_path=found, args=QUIET)
        except Error as error:
            pytest.skip(f"no Chromium here: {str(error).splitlines()[0]}")
        yield started
        started.close()


class Server:
    """`python -m ocrlab app` or `lab` as a person starts it, its address, and the processes below it."""

    def __init__(self, command: str, folder: Path) -> None:
        self.log = folder / f"{command}.log"
        own = {
            "OCRLAB_RUN_FOLDER": str(folder / "run"),
            "JUPYTER_DATA_DIR": str(folder / "data"),
            "JUPYTER_CONFIG_DIR": str(folder / "config"),
            "IPYTHONDIR": str(folder / "ipython"),
        }
        # Bars are to be seen here, and one thread a process keeps a busy neighbour from stalling it.
        environment = {k: v for k, v in os.environ.items() if k != "TQDM_DISABLE"} | own | {"OMP_NUM_THREADS": "1"}
        asked = [sys.executable, "-m", "ocrlab", command, "--no-browser", "--port", str(_free_port())]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(asked, cwd=paths.ROOT, env=environment, stdout=log, stderr=log)
        self.started_s = time.monotonic()
        self.address = self._address()
        self.started_s = time.monotonic() - self.started_s

    def workers(self) -> list[psutil.Process]:
        """Return the worker processes below the server, the oldest first: in the app the one that holds the model."""
        below = psutil.Process(self.process.pid).children(recursive=True)
        # A copy (machine/worker_process.py) has the command of the process that it was copied from, its parent.
        servers = {one.pid for one in below if any("forkserver" in part for part in _command(one))}
        workers = [one for one in below if one.ppid() in servers or any("spawn_main" in p for p in _command(one))]
        return sorted(workers, key=psutil.Process.create_time)

    def stop(self) -> None:
        """End the server and all below it."""
        below = psutil.Process(self.process.pid).children(recursive=True)
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        for one in below:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        self.process.kill()
        self.process.wait()

    def _address(self) -> str:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and self.process.poll() is None:
            found = re.search(r"http://127\.0\.0\.1:\S+token=\w+", self.log.read_text(errors="replace"))
            if found:
                return found[0]
            time.sleep(0.1)
        self.process.kill()
        raise AssertionError(f"the server did not start: {self.log.read_text(errors='replace')[-3000:]}")


def watch(page: Any) -> Any:
    """Note what a page asks for outside its server, and what goes wrong in it."""
    page.outside, page.errors = [], []
    ours = ("http://127.0.0.1:", "ws://127.0.0.1:", "data:", "blob:")
    page.on("request", lambda request: None if request.url.startswith(ours) else page.outside.append(request.url))
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("dialog", lambda dialog: page.errors.append(dialog.message))
    page.set_default_timeout(90_000)
    return page


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
