"""A fresh kernel of this very environment, whatever kernels and settings the user has elsewhere."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager

# A Unix socket's path may have 107 bytes on Linux and 103 on macOS; "/kernel-5" follows the folder.
_SOCKET_FOLDER_BYTES = 90


class OwnSpecs(KernelSpecManager):
    """Offers a server one kernel: this very Python, whatever kernelspecs the user or the system has."""

    def _kernel_dirs_default(self) -> list[str]:
        return []  # nothing is searched; ipykernel's own spec remains, which names sys.executable


@contextmanager
def own_kernels(environment: dict[str, str]) -> Iterator[type[AsyncKernelManager]]:
    """Yield a kernel manager class for one notebook: this Python, with `environment` on top of ours.

    Nothing is searched for: the kernel's command is made here, so no kernelspec of the user or the system can take
    its place. Messages go through Unix sockets in a private folder where the system has them, TCP on loopback
    elsewhere. IPython's start-up files and Jupyter's runtime files live in that folder too, not in the home folder.
    """
    with tempfile.TemporaryDirectory(prefix="ocrlab-", dir=_short_folder(), ignore_cleanup_errors=True) as folder:
        own = {
            "IPYTHONDIR": str(Path(folder, "ipython")),
            "JUPYTER_RUNTIME_DIR": folder,
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        }

        class OwnKernel(_Kernel):
            home = Path(folder)
            # jupyter_client expands $NAME in these values; $$ stands for a plain $.
            environ = {name: value.replace("$", "$$") for name, value in {**own, **environment}.items()}  # noqa: RUF012

        yield OwnKernel


def last_words(kernel: type[AsyncKernelManager]) -> str:
    """Return the end of what a kernel's process wrote by itself, at most 30 lines; empty when it said nothing."""
    try:
        text = (kernel.home / "kernel.log").read_text(encoding="utf-8", errors="replace")  # type: ignore[attr-defined]
    except OSError:
        return ""
    return "\n".join(text.strip().splitlines()[-30:])


class _Kernel(AsyncKernelManager):
    home: Path
    environ: dict[str, str]

    def __init__(self, **kwargs: Any) -> None:
        kwargs["connection_file"] = str(self.home / "kernel.json")
        if os.name != "nt" and len(os.fsencode(self.home)) <= _SOCKET_FOLDER_BYTES:
            kwargs |= {"transport": "ipc", "ip": str(self.home / "kernel")}
        super().__init__(**kwargs)

    @property
    def kernel_spec(self) -> KernelSpec:
        from ocrlab.reading.isolated import PRELOADED

        # A native crash leaves its stack in the log; standard error is a pipe into the process that is dying.
        log = f"import faulthandler as _f; _f.enable(open({str(self.home / 'kernel.log')!r}, 'a'), False)"
        # A notebook that reads starts processes; what they import is imported while its own first cells run.
        prepare = f"from ocrlab.machine import worker_process as _w; _w.preload(*{PRELOADED}); _w.context()"
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        command.append(f"--IPKernelApp.exec_lines={log}; {prepare}")
        return KernelSpec(argv=command, env=self.environ, display_name="ocrlab", language="python")

    async def _async_launch_kernel(self, kernel_cmd: list[str], **kwargs: Any) -> None:
        """Keep what the process itself says, such as a segmentation fault's stack, off our own output."""
        with (self.home / "kernel.log").open("ab") as log:
            await super()._async_launch_kernel(kernel_cmd, **kwargs, stdout=log, stderr=log)

    async def _async_cleanup_resources(self, restart: bool = False) -> None:
        """End what the kernel started too: a killed kernel leaves its reading processes on the GPU."""
        group = getattr(self.provisioner, "pgid", None)
        if os.name != "nt" and group and group != os.getpgrp():
            try:
                os.killpg(group, signal.SIGKILL)
            except ProcessLookupError:
                pass  # the usual case: nothing was left
            except PermissionError:
                pass  # macOS says this of a group that holds only zombies
        await super()._async_cleanup_resources(restart=restart)

    cleanup_resources = _async_cleanup_resources


def _short_folder() -> str | None:
    """Return where the private folder goes: the system's temporary folder, unless its path is too long for sockets."""
    usual = tempfile.gettempdir()
    long = len(os.fsencode(usual)) + len("/ocrlab-12345678") > _SOCKET_FOLDER_BYTES
    return "/tmp" if long and os.name != "nt" and os.access("/tmp", os.W_OK) else None
