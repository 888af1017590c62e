"""An upgrade of a small project made for the test: real environments, wheels from a folder, no network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from ocrlab.commands import upgrade as module
from ocrlab.commands.cli import main
from ocrlab.commands.parameters import CommandFailed
from ocrlab.commands.upgrade import compare_runs, rollback, upgrade
from ocrlab.pages import load_pages
from ocrlab.reading.settings import Settings
from ocrlab.study.experiment import run_experiment
from ocrlab.study.records import RecordFile, read_records, record_files

PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "ocrlab"
version = "0"
dependencies = ["demo>=1", "other>=1"]
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
        needs = tomllib.loads(pathlib.Path("pyproject.toml").read_text())["project"]["dependencies"]
        info = "Metadata-Version: 2.1\\nName: ocrlab\\nVersion: 0\\n"
        info += "".join(f"Requires-Dist: {need}\\n" for need in needs)
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


def wheel(folder: Path, name: str, version: str, needs: str = "") -> None:
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        info = f"{name}-{version}.dist-info"
        requires = f"Requires-Dist: {needs}\n" if needs else ""
        file.writestr(f"{name}.py", "")
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")


@pytest.fixture(params=["pip", "uv"])
def project(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with version 1.0 of three packages in its `.venv`, and 1.0 and 2.0 to be had."""
    if request.param == "uv" and not shutil.which("uv"):
        pytest.skip("no uv here")
    root, wheels = tmp_path / "project", tmp_path / "wheels"
    (root / "ocrlab").mkdir(parents=True)
    wheels.mkdir()
    for version in ("1.0", "2.0"):
        wheel(wheels, "demo", version, f"needed>={version}")
        wheel(wheels, "needed", version)
        wheel(wheels, "other", version)
    for name, text in {
        "pyproject.toml": PYPROJECT,
        "backend.py": BACKEND,
        "make.py": "print()",
        "ocrlab/__main__.py": MAIN,
        "ocrlab/__init__.py": "",
        "constraints.txt": "# a comment\ndemo==1.0\nneeded==1.0\nonly-elsewhere==1.0\nother==1.0\n",
        ".gitignore": "/.venv*\n/build/\n/results/\n__pycache__/\n",
    }.items():
        (root / name).write_text(text, encoding="utf-8")
    subprocess.run(["git", "init", "-q", root], check=True)
    for name in [*(name for name in os.environ if name.startswith("PIP_")), "PYTHONPATH"]:  # a trial sets the latter
        monkeypatch.delenv(name, raising=False)
    pip_alone = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)}  # pip's own places, which uv would not look at
    uv_too = {"PIP_CONFIG_FILE": os.devnull, "UV_OFFLINE": "1", "UV_FIND_LINKS": str(wheels)}
    for name, value in (pip_alone if request.param == "pip" else uv_too).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(module, "STEPS", module.STEPS | {"tests": ["ocrlab", "tests"]})
    subprocess.run([sys.executable, "-m", "venv", root / ".venv"], check=True)
    pip = [root / ".venv" / "bin" / "python", "-m", "pip", "install", "-q", "-c", root / "constraints.txt", "-e", root]
    subprocess.run(pip, check=True, cwd=root, env=os.environ | pip_alone)
    return root


def version_in(root: Path) -> str:
    code = "from importlib.metadata import version; import ocrlab, demo; print(version('demo'), ocrlab.__file__)"
    done = subprocess.run(
        [root / ".venv" / "bin" / "python", "-c", code], capture_output=True, text=True, check=True, cwd=root.parent
    )
    version, file = done.stdout.split()
    assert Path(file).parent == root / "ocrlab", "the environment in use runs this checkout, not the trial's copy"
    return version


@pytest.mark.timeout(900)  # environments are made seven times
def test_failure_then_swap_then_rollback(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pins = project / "constraints.txt"
    before = pins.read_text(encoding="utf-8")

    (project / "fails").touch()
    with pytest.raises(CommandFailed, match=r"tests failed in the new environment.*nothing was changed"):
        upgrade([], yes=True, root=project)
    said = capsys.readouterr()
    assert all(f"| {name} | 1.0 | 2.0 |" in said.out for name in ("demo", "needed", "other"))
    assert pins.read_text(encoding="utf-8") == before and version_in(project) == "1.0"
    assert [p.name for p in project.glob(".venv*")] == [".venv"], "a failed candidate is removed"

    (project / "fails").unlink()
    assert upgrade(["Demo"], root=project) == 0
    said = capsys.readouterr()
    tool = "uv" if "UV_OFFLINE" in os.environ else "pip"
    assert f"with {tool};" in said.out
    assert "| needed | 1.0 | 2.0 |" in said.out and "| other |" not in said.out, "what demo needs, and no more"
    assert "| demo | 1.0 | 2.0 |" in said.out and "1 of 1 texts changed" in said.out
    assert "'read by 1.0' → 'read by 2.0'" in said.out and "median: 2.00" in said.out
    assert version_in(project) == "1.0", "without a yes it is only left there"

    (candidate,) = project.glob(".venv-2*")
    stamp = candidate.name.removeprefix(".venv-")
    assert upgrade([], take=stamp, root=project) == 0
    assert version_in(project) == "2.0" and "demo==2.0" in pins.read_text(encoding="utf-8")
    assert pins.read_text(encoding="utf-8").startswith("# a comment\n") and (project / ".venv-previous").is_dir()
    assert "only-elsewhere==1.0\n" in pins.read_text(encoding="utf-8"), "what another system installs stays pinned"

    assert rollback(project) == 0
    assert version_in(project) == "1.0" and pins.read_text(encoding="utf-8") == before
    assert rollback(project) == 0
    assert version_in(project) == "2.0"

    assert upgrade(["demo"], yes=True, root=project) == 0
    assert "nothing newer" in capsys.readouterr().out


@pytest.mark.timeout(900)
def test_what_cannot_be_upgraded_is_named(project: Path) -> None:
    with pytest.raises(CommandFailed, match="no-such-package is not pinned"):
        upgrade(["no-such-package"], root=project)
    with pytest.raises(CommandFailed, match="no environment to go back to"):
        rollback(project)
    with pytest.raises(CommandFailed, match="no finished candidate"):
        upgrade([], take="20990101-000000", root=project)
    (project / "pyproject.toml").write_text(PYPROJECT.replace("demo>=1", "demo>=3"), encoding="utf-8")
    with pytest.raises(CommandFailed, match="installing the newer versions failed"):
        upgrade([], root=project)
    assert [p.name for p in project.glob(".venv*")] == [".venv"] and version_in(project) == "1.0"


@pytest.mark.parametrize("uv", [None, "uv"])
@pytest.mark.parametrize("index", ["", "https://index.example/cu130"])
def test_the_candidate_gets_this_machines_build_of_torch(
    index: str, uv: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "make.py").write_text(f"import sys\nprint({index!r} if sys.argv[1:] == ['torch-index'] else 'no')")
    (tmp_path / "constraints.txt").write_text("torch==2.13.0\n")
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    ran: list[list[str]] = []
    monkeypatch.setattr(module, "_uv", lambda: uv)
    monkeypatch.setattr(module, "_run", lambda command, *_: ran.append(list(command)))
    module._install(tmp_path / ".venv-x", tmp_path, ["torch"], tmp_path)
    installs = [command for command in ran if "install" in command or "compile" in command]
    assert len(installs) == 2
    for command in installs:
        named = command[command.index("--extra-index-url") + 1] if "--extra-index-url" in command else ""
        assert named == index
        assert ("--index-strategy" in command) == bool(index and uv)


def test_runs_are_compared_reading_by_reading(tmp_path: Path) -> None:
    settings = Settings(dtype="float32", max_new_tokens=24)
    pages = load_pages("lines", limit=2)
    run_experiment("x", [settings], pages, folder=tmp_path / "old")
    (file,) = record_files(tmp_path / "old" / "readings")
    records = read_records(file)
    assert compare_runs(tmp_path / "old", tmp_path / "old") == ([], 2, 1.0)
    new = RecordFile(tmp_path / "new" / "readings" / "x.jsonl")
    slower = records[0]["measured"] | {"page_s": 2 * records[0]["measured"]["page_s"]}
    new.append(records[0] | {"text": "other", "measured": slower})
    (line,), common, ratio = compare_runs(tmp_path / "old", tmp_path / "new")
    assert line.startswith(f"- x, {records[0]['page']}: ") and line.endswith("→ 'other'")
    assert common == 1 and ratio == pytest.approx(2)


def test_the_command_line_hands_on_what_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(module, "upgrade", lambda **options: asked.append(options) or 0)
    monkeypatch.setattr(module, "rollback", lambda: asked.append("rollback") or 1)
    assert main(["upgrade", "torch", "typer", "--yes"]) == 0 and main(["rollback"]) == 1
    assert asked == [{"names": ["torch", "typer"], "yes": True, "take": ""}, "rollback"]
