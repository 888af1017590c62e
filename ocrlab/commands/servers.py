"""`make app` and `make lab`: the playground as a page, and JupyterLab at its welcome page; on this computer only."""

from __future__ import annotations

import json
import os
import threading
import webbrowser
from datetime import datetime
from pathlib import Path
from typing import Any

import nbformat
from jinja2 import Template
from jupyter_core.paths import jupyter_runtime_dir
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from traitlets.config import Config

from ocrlab import paths
from ocrlab.commands.parameters import check
from ocrlab.playground.form import find_preset
from ocrlab.playground.picker import UPLOAD_LIMIT_BYTES

FIRST = ("00-quickstart", "playground")
#: The largest websocket message: an upload and what is wrapped around it. Jupyter's own 10 MiB drop larger ones.
MESSAGE_LIMIT_BYTES = UPLOAD_LIMIT_BYTES + 14 * 2**20
PLAYGROUND = paths.NOTEBOOKS / "playground.ipynb"
# Defaults, which a user's own settings override: Markdown is read, not edited; no news and no updates from the network.
_LAB_DEFAULTS = {
    "@jupyterlab/docmanager-extension:plugin": {"defaultViewers": {"markdown": "Markdown Preview"}},
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
}
_SPECS = "ocrlab.commands.run_notebook.OwnSpecs"
_IDLE_S = 600  # a page that was closed without a word, or went to sleep, keeps its model for so long
_SHARE = paths.ROOT / "ocrlab" / "playground" / "share"


def serve_app(preset: str | None, port: int | None, no_browser: bool) -> int:
    """Serve the playground until Ctrl-C and return 0; raise SettingError for an unknown preset."""
    page = page_of(preset, paths.BUILD / "app")
    kept = paths.RESULTS / f"playground-{datetime.now():%Y-%m-%d-%H%M%S}"  # made with the first reading
    os.environ.setdefault("OCRLAB_RUN_FOLDER", str(kept))
    os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, [str(_SHARE), os.environ.get("JUPYTER_PATH")]))
    from voila.app import Voila

    class App(Voila):  # type: ignore[misc]
        def listen(self) -> None:
            from tornado.ioloop import IOLoop

            IOLoop.current().add_callback(lambda: print(f"app: {self.display_url} (Ctrl-C ends it)", flush=True))
            super().listen()

        def launch_browser(self) -> None:  # Voilà's own opens the address without its token
            threading.Thread(target=webbrowser.open, args=(self.display_url,), daemon=True).start()

    config = _shared("Voila")
    config.Voila.update(
        open_browser=not no_browser, auto_token=True, log_level="WARN", **({"port": port} if port else {})
    )
    config.VoilaConfiguration.update(template="ocrlab", show_tracebacks=True, kernel_spec_manager_class=_SPECS)
    config.MappingKernelManager.update(cull_idle_timeout=_IDLE_S, cull_interval=60)
    App.launch_instance([str(page)], config=config)
    return 0


def page_of(preset: str | None, folder: Path) -> Path:
    """Return a copy of the playground with its parameters set and only the cells that make the page.

    Raises:
        SettingError: no such preset.
    """
    values = {}
    if preset:
        find_preset(preset)
        values = {"preset": str(Path(preset).resolve()) if Path(preset).is_file() else preset}
    notebook = load_notebook_node(str(PLAYGROUND))
    notebook = parameterize_notebook(notebook, check(PLAYGROUND, values), report_mode=False)
    needed = {"parameters", "injected-parameters", "app"}
    notebook.cells = [cell for cell in notebook.cells if needed & set(cell.metadata.get("tags", []))]
    notebook.metadata.title = "ocrlab playground"
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, folder / PLAYGROUND.name)
    return folder / PLAYGROUND.name


def serve_lab(port: int | None, no_browser: bool) -> int:
    """Open JupyterLab at the welcome page until Ctrl-C; our notebooks are trusted, the kernel is this Python."""
    from jupyterlab.labapp import LabApp

    trust(paths.NOTEBOOKS)
    first = write_welcome().relative_to(paths.ROOT).as_posix()
    asked = {"open_browser": not no_browser} | ({"port": port} if port else {})
    LabApp.launch_instance([f"--config={lab_config(paths.ROOT, first, paths.BUILD / 'lab', asked)}"])
    return 0


def lab_config(root: Path, first: str, folder: Path, asked: dict[str, Any]) -> Path:
    """Write JupyterLab's configuration into `folder` and return it: a root folder, the file in it that opens first.

    `asked` holds more of ServerApp's settings.
    """
    config = _shared("ServerApp")
    # root: as in containers; the server hears this computer only, and asks for its token.
    config.ServerApp.update(root_dir=str(root), allow_root=True, kernel_spec_manager_class=_SPECS, **asked)
    config.LabApp.update(default_url=f"/lab/tree/{first}", app_settings_dir=str(folder))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "overrides.json").write_text(json.dumps(_LAB_DEFAULTS), encoding="utf-8")
    file = folder / "lab.json"  # LabApp takes no configuration but from a file
    file.write_text(json.dumps(config), encoding="utf-8")
    return file


def trust(folder: Path) -> int:
    """Sign a folder's notebooks, as `jupyter trust` does, so that JupyterLab shows their outputs; return how many."""
    from nbformat.sign import NotebookNotary

    notary, files = NotebookNotary(), sorted(folder.glob("*.ipynb"))
    for file in files:
        notary.sign(nbformat.read(file, as_version=4))
    return len(files)


def _shared(server: str) -> Config:
    """What both servers have: loopback, large messages, and no kernel but this Python's own."""
    own = {"ip": "127.0.0.1", "tornado_settings": {"websocket_max_message_size": MESSAGE_LIMIT_BYTES}}
    return Config({server: own, "KernelManager": {"transport": transport_in(Path(jupyter_runtime_dir()))}})


def transport_in(folder: Path) -> str:
    """Return how kernels of a server are reached whose runtime files lie in `folder`: `ipc` (Unix sockets) or `tcp`.

    A socket's path may have 107 bytes on Linux and 103 on macOS; a longer one is "Error Starting Kernel".
    """
    longest = len(os.fsencode(folder)) + len("/kernel-") + 36 + len("-ipc-5")  # 36: the kernel's id
    return "tcp" if os.name == "nt" or longest > 103 else "ipc"


def write_welcome(notebooks: Path = paths.NOTEBOOKS) -> Path:
    """Write the welcome page, with each notebook's question, beside the notebooks (git ignores it) and return it."""
    cells = {file.stem: nbformat.read(file, as_version=4).cells[0] for file in sorted(notebooks.glob("*.ipynb"))}
    questions = {name: cell.source.splitlines()[0].lstrip("# ") for name, cell in cells.items()}
    template = Template(Path(__file__).with_name("welcome.md.j2").read_text(encoding="utf-8"))
    others = [name for name in questions if name not in FIRST]
    page = notebooks / "welcome.md"
    page.write_text(template.render(first=FIRST, others=others, questions=questions), encoding="utf-8")
    return page
