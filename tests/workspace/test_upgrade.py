"""An upgrade of a small project made for the test: real environments, wheels from a folder, no network."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from ocrlab.pages import load_pages
from ocrlab.reading.settings import Settings
from ocrlab.study.experiment import run_experiment
from ocrlab.study.records import RecordFile, read_records, record_files
from ocrlab.workspace import upgrade as module
from ocrlab.workspace.environments import Places, UpgradeError, loosened, python_of
from ocrlab.workspace.side_by_side import changed_texts, speed_ratio
from ocrlab.workspace.upgrade import rollback, upgrade

PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "ocrlab"
version = "0"
dependencies = ["demo>=1"]
[project.optional-dependencies]
dev = []
train = []
"""
BACKEND = """
import pathlib, tomllib, zipfile
def get_requires_for_build_editable(config_settings=None): return []
def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    name = "ocrlab-0-py3-none-any.whl"
    with zipfile.ZipFile(pathlib.Path(wheel_directory, name), "w") as file:
        file.writestr("ocrlab.pth", str(pathlib.Path.cwd()))
        (needs,) = tomllib.loads(pathlib.Path("pyproject.toml").read_text())["project"]["dependencies"]
        info = f"Metadata-Version: 2.1\\nName: ocrlab\\nVersion: 0\\nRequires-Dist: {needs}\\n"
        info += "Provides-Extra: dev\\nProvides-Extra: train\\n"
        file.writestr("ocrlab-0.dist-info/METADATA", info)
        file.writestr("ocrlab-0.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        file.writestr("ocrlab-0.dist-info/RECORD", "")
    return name
"""
MAIN = """
import json, pathlib, sys
from importlib.metadata import version
if sys.argv[1] == "reproduce":
    folder = pathlib.Path("results", sys.argv[-1], "readings")
    folder.mkdir(parents=True)
    record = {"key": "k", "experiment": "e", "page": "p", "asked": {"dtype": "float32"}, "repeat": 0, "status": "ok",
              "text": "read by " + version("demo"), "reason": "", "measured": {"page_s": float(version("demo"))}}
    (folder / "e.jsonl").write_text(json.dumps(record) + "\\n")
print(sys.argv[1], "done")
sys.exit(int(pathlib.Path("fails").exists() and sys.argv[1] == "tests"))
"""


def wheel(folder: Path, version: str) -> None:
    with zipfile.ZipFile(folder / f"demo-{version}-py3-none-any.whl", "w") as file:
        info = f"demo-{version}.dist-info"
        file.writestr("demo.py", "")
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: demo\nVersion: {version}\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    """A checkout with demo 1.0 in its `.venv`, and demo 1.0 and 2.0 to be had."""
    root, wheels = tmp_path / "project", tmp_path / "wheels"
    (root / "ocrlab").mkdir(parents=True)
    wheels.mkdir()
    for version in ("1.0", "2.0"):
        wheel(wheels, version)
    for name, text in {
        "pyproject.toml": PYPROJECT, "backend.py": BACKEND, "ocrlab/__main__.py": MAIN, "ocrlab/__init__.py": "",
        "constraints.txt": "# a comment\ndemo==1.0\n", ".gitignore": "/.venv*\n/build/\n/results/\n__pycache__/\n",
    }.items():  # fmt: skip
        (root / name).write_text(text, encoding="utf-8")
    subprocess.run(["git", "init", "-q", root], check=True)
    for name, value in {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheels),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("PIP_CONSTRAINT", "PYTHONPATH"):  # an upgrade's own trial sets the latter
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(module, "STEPS", module.STEPS | {"tests": ["ocrlab", "tests"]})
    places = Places(root)
    subprocess.run([sys.executable, "-m", "venv", places.current], check=True)
    pip = [python_of(places.current), "-m", "pip", "install", "-q", "-c", root / "constraints.txt", "-e", root]
    subprocess.run(pip, check=True, cwd=root)
    return places


def version_in(places: Places) -> str:
    code = "from importlib.metadata import version; import ocrlab, demo; print(version('demo'), ocrlab.__file__)"
    done = subprocess.run(
        [python_of(places.current), "-c", code], capture_output=True, text=True, check=True, cwd=places.root.parent
    )
    version, file = done.stdout.split()
    assert Path(file).parent == places.root / "ocrlab", (
        "the environment in use runs this checkout, not the trial's copy"
    )
    return version


def test_failure_then_swap_then_rollback(project: Places, capsys: pytest.CaptureFixture[str]) -> None:
    pins = project.root / "constraints.txt"
    before = pins.read_text(encoding="utf-8")

    (project.root / "fails").touch()
    assert upgrade([], yes=True, root=project.root) == 1
    told = capsys.readouterr()
    assert "tests failed in the new environment" in told.err and "nothing was changed" in told.err
    assert pins.read_text(encoding="utf-8") == before and version_in(project) == "1.0"
    assert [p.name for p in project.root.glob(".venv*")] == [".venv"], "a failed candidate is removed"

    (project.root / "fails").unlink()
    assert upgrade(["demo"], root=project.root) == 0
    told = capsys.readouterr()
    assert "| demo | 1.0 | 2.0 |" in told.out and "1 of 1 texts changed" in told.out
    assert "'read by 1.0' → 'read by 2.0'" in told.out and "median: 2.00" in told.out
    assert version_in(project) == "1.0", "without a yes it is only left there"

    (candidate,) = project.root.glob(".venv-2*")
    stamp = candidate.name.removeprefix(".venv-")
    assert upgrade([], take=stamp, root=project.root) == 0
    assert version_in(project) == "2.0" and "demo==2.0" in pins.read_text(encoding="utf-8")
    assert pins.read_text(encoding="utf-8").startswith("# a comment\n") and project.previous.is_dir()

    assert rollback(project.root) == 0
    assert version_in(project) == "1.0" and pins.read_text(encoding="utf-8") == before
    assert rollback(project.root) == 0
    assert version_in(project) == "2.0"

    assert upgrade([], yes=True, root=project.root) == 0
    assert "nothing newer" in capsys.readouterr().out


def test_what_cannot_be_upgraded_is_named(project: Places, capsys: pytest.CaptureFixture[str]) -> None:
    assert upgrade(["no-such-package"], root=project.root) == 1
    assert "no-such-package is not pinned" in capsys.readouterr().err
    assert rollback(project.root) == 1
    assert "no environment to go back to" in capsys.readouterr().err
    assert upgrade([], take="20990101-000000", root=project.root) == 1
    assert "no finished candidate" in capsys.readouterr().err
    (project.root / "pyproject.toml").write_text(PYPROJECT.replace("demo>=1", "demo>=3"), encoding="utf-8")
    assert upgrade([], root=project.root) == 1
    assert "installing the newer versions failed" in capsys.readouterr().err
    assert [p.name for p in project.root.glob(".venv*")] == [".venv"] and version_in(project) == "1.0"


def test_named_packages_free_what_they_need_and_no_more() -> None:
    pins = "# c\ntorch==2.13.0\nsympy==1.14.0\npandas==3.0.1\npython-dateutil==2.9.0\n"
    kept = loosened(pins, ["Torch"])
    assert "pandas==3.0.1" in kept and "torch" not in kept and "sympy" not in kept
    assert loosened(pins, []) == ""
    with pytest.raises(UpgradeError):
        loosened(pins, ["nothing"])


def test_runs_are_compared_reading_by_reading(tmp_path: Path) -> None:
    settings = Settings(dtype="float32", max_new_tokens=24)
    pages = load_pages("lines", limit=2)
    run_experiment("x", [settings], pages, folder=tmp_path / "old")
    (file,) = record_files(tmp_path / "old" / "readings")
    records = read_records(file)
    assert changed_texts(tmp_path / "old", tmp_path / "old") == ([], 2)
    assert speed_ratio(tmp_path / "old", tmp_path / "old") == 1.0
    new = RecordFile(tmp_path / "new" / "readings" / "x.jsonl")
    new.append(records[0] | {"text": "other"})
    changed, common = changed_texts(tmp_path / "old", tmp_path / "new")
    assert common == 1 and [c["new"] for c in changed] == ["other"]
