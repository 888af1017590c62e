"""What `make app` and `make lab` serve, before anything is started: parameters, first page, limits, trust."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import nbformat
import pytest

from ocrlab import paths
from ocrlab.commands import servers
from ocrlab.commands.cli import main
from ocrlab.commands.run_notebook import OwnSpecs
from ocrlab.playground.picker import UPLOAD_LIMIT_BYTES


def test_a_long_runtime_folder_takes_kernels_by_tcp() -> None:
    name = "/" + "x" * 52
    assert (
        servers.transport_in(Path(name)) == ("tcp" if os.name == "nt" else "ipc")
        and servers.transport_in(Path(name + "x")) == "tcp"
    )


def test_the_page_has_the_asked_preset_and_nothing_but_the_app(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("model_id: tiny\nmax_new_tokens: 9\n", encoding="utf-8")
    for asked, held in ((None, "tiny"), ("qwen2-vl-2b", "qwen2-vl-2b"), (str(mine), str(mine))):
        cells = nbformat.read(servers.page_of(asked, tmp_path), as_version=4).cells
        assert all(cell.cell_type == "code" for cell in cells) and cells[-1].source.endswith("\napp")
        values: dict[str, object] = {}
        for cell in cells:
            if {"parameters", "injected-parameters"} & set(cell.metadata.tags):
                exec(cell.source, values)
        assert values["preset"] == held


def test_an_unknown_preset_starts_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["app", "--preset", "no-such"]) == 2
    assert "no such preset" in capsys.readouterr().err


def test_lab_has_its_limits_its_kernel_and_its_first_page(tmp_path: Path) -> None:
    config = json.loads(servers.lab_config(tmp_path, "notebooks/welcome.md", tmp_path, {"port": 1}).read_text())
    server = config["ServerApp"]
    assert server["ip"] == "127.0.0.1" and server["port"] == 1
    assert server["tornado_settings"]["websocket_max_message_size"] > UPLOAD_LIMIT_BYTES
    assert config["LabApp"]["default_url"] == "/lab/tree/notebooks/welcome.md"
    overrides = json.loads((Path(config["LabApp"]["app_settings_dir"]) / "overrides.json").read_text())
    assert overrides["@jupyterlab/apputils-extension:notification"]["fetchNews"] == "false"


def test_servers_offer_this_python_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    other = tmp_path / "kernels" / "python3"
    other.mkdir(parents=True)
    (other / "kernel.json").write_text(json.dumps({"argv": ["/no/python"], "display_name": "x", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    specs = OwnSpecs()
    assert list(specs.find_kernel_specs()) == ["python3"]
    assert specs.get_kernel_spec("python3").argv[0] == sys.executable


def test_the_welcome_page_names_every_notebook_with_its_question(tmp_path: Path) -> None:
    copies = tmp_path / "notebooks"
    copies.mkdir()
    for file in paths.NOTEBOOKS.glob("*.ipynb"):
        (copies / file.name).write_bytes(file.read_bytes())
    page = servers.write_welcome(copies).read_text(encoding="utf-8")
    linked = dict(re.findall(r"^\| \[([\w-]+)\]\([\w-]+\.ipynb\) \| (.+\?) \|$", page, re.M))
    for file in copies.glob("*.ipynb"):
        title = nbformat.read(file, as_version=4).cells[0].source.splitlines()[0]
        assert f"# {linked.pop(file.stem)}" == title
    assert not linked
    for link in re.findall(r"\]\(([^)]+)\)", page):
        assert (copies / link).is_file(), link


def test_our_notebooks_are_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nbformat.sign import NotebookNotary

    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path))
    shown = paths.NOTEBOOKS / "playground.ipynb"
    assert not NotebookNotary().check_signature(nbformat.read(shown, as_version=4))
    assert servers.trust(paths.NOTEBOOKS) == len(list(paths.NOTEBOOKS.glob("*.ipynb")))
    assert NotebookNotary().check_signature(nbformat.read(shown, as_version=4))
