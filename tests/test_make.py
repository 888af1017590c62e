"""Set-up: which torch a system gets, that it arrives, and that make.bat does what the Makefile does."""

from __future__ import annotations

import ast
import functools
import http.server
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import make
from make import Facts, choose, commands, fall_back, suits, targets
from ocrlab.paths import ROOT

scripted = pytest.mark.skipif(os.name != "posix", reason="a program that is a shell's script")
NEW, RTX_50 = "581.29", (12, 0)
SYSTEMS = {
    "Windows with a driver": (Facts("Windows", driver=NEW, card=RTX_50), "cu130", "driver 581.29, compute capability"),
    "Windows without": (Facts("Windows"), "cpu", "no NVIDIA driver"),
    "WSL with a driver": (Facts("Linux", wsl=True, driver=NEW, card=RTX_50), "cu130", "under WSL"),
    "WSL without": (Facts("Linux", wsl=True), "cpu", "no NVIDIA driver"),
    "Linux with a driver": (Facts("Linux", driver="580.95.05", card=(8, 9)), "cu130", "driver 580.95.05"),
    "Linux without": (Facts("Linux"), "cpu", "no NVIDIA driver"),
    "macOS": (Facts("Darwin"), "", "Metal"),
    "a driver that does not answer": (Facts("Linux", driver=""), "cpu", "does not answer"),
    "old driver, card of then": (Facts("Linux", driver="535.183.01", card=(8, 6)), "cu126", "580 or newer"),
    "old driver, card unknown": (Facts("Linux", driver="535.183.01"), "cu126", "580 or newer"),
    "old driver, RTX 50": (Facts("Windows", driver="572.16", card=RTX_50), "cu130", "update the driver"),
    "very old driver": (Facts("Linux", driver="470.256.02", card=(8, 6)), "cpu", "too old"),
    "card before Turing": (Facts("Linux", driver="580.95.05", card=(6, 1)), "cu126", "no code for this card"),
    "asked for": (Facts("Linux", driver=NEW, card=RTX_50, asked="cpu"), "cpu", "asked for"),
    "asked for the default": (Facts("Linux", driver=NEW, asked="default"), "", "asked for"),
}


@pytest.mark.parametrize("name", sorted(SYSTEMS))
def test_every_system_gets_its_build_and_hears_why(name: str) -> None:
    facts, build, why = SYSTEMS[name]
    plan = choose(facts)
    assert plan.build == build and why in plan.why
    assert plan.index == (f"https://download.pytorch.org/whl/{build}" if build else "")
    assert ("compile" in plan.extras) == (facts.system == "Windows" and bool(facts.driver))


@pytest.mark.parametrize("facts", [facts for facts, _, _ in SYSTEMS.values() if facts.driver is None])
def test_no_cuda_is_downloaded_without_a_driver(facts: Facts) -> None:
    plan = choose(facts)
    assert plan.build == ("" if facts.system == "Darwin" else "cpu") and "cu1" not in plan.index


@pytest.mark.parametrize("facts", [Facts("Windows", driver=NEW, own_index=True), Facts("Linux", own_index=True)])
def test_an_index_in_pips_settings_is_kept_to_and_the_remedy_named(facts: Facts) -> None:
    plan = choose(facts)
    assert not plan.index and not plan.build
    wanted = "cu130" if facts.driver else "cpu"
    assert plan.why.endswith(f"make setup TORCH_BUILD={wanted}")
    there = "a CPU build" if facts.system == "Windows" else "a CUDA 13.0 build"
    assert f"the usual index has {there}" in plan.why
    remedied = choose(Facts(facts.system, driver=facts.driver, own_index=True, asked=wanted))
    assert remedied.build == wanted and remedied.index


def test_an_index_may_be_named() -> None:
    plan = choose(Facts("Linux", asked="https://mirror.example/whl/cu126"))
    assert (plan.build, plan.index) == ("cu126", "https://mirror.example/whl/cu126")
    with pytest.raises(ValueError, match="TORCH_BUILD=cuda: use cpu, cu126, cu130"):
        choose(Facts("Linux", asked="cuda"))


def test_an_index_out_of_reach_gives_way_with_a_word() -> None:
    facts = Facts("Windows", driver=NEW, card=RTX_50)
    plan = fall_back(choose(facts), facts, "it cannot be reached")
    assert (plan.build, plan.index) == ("", "") and plan.extras == ("quantized", "serve", "compile")
    assert "driver 581.29" in plan.why and "it cannot be reached" in plan.why and "a CPU build" in plan.why


# By build: an installed torch, its CUDA version, whether it stays where nobody asked for a build, and where one did.
INSTALLED = {
    "cu130": [("2.13.0+cu130", "13.0", True, True), ("2.13.0", "13.0", True, True), ("2.13.0+cpu", "", False, False),
              ("2.13.0+cu126", "12.6", False, False), ("2.12.0+cu130", "13.0", False, False), ("", "", False, False)],
    "cu126": [("2.13.0", "13.0", False, False), ("2.13.0+cu126", "12.6", True, True)],
    "cpu": [("2.13.0+cpu", "", True, True), ("2.13.0", "13.0", True, False), ("2.12.0+cpu", "", False, False)],
    "": [("2.13.0+cpu", "", True, True), ("2.12.0", "13.0", False, False)],
}  # fmt: skip


@pytest.mark.parametrize("build", sorted(INSTALLED))
def test_what_is_installed_stays_only_where_it_suits(build: str) -> None:
    for torch, cuda, stays, stays_if_asked in INSTALLED[build]:
        assert suits(make.Plan(build, ""), "2.13.0", torch, cuda) == stays, torch
        assert suits(make.Plan(build, "", asked=True), "2.13.0", torch, cuda) == stays_if_asked, torch


@scripted
@pytest.mark.parametrize(
    ("says", "expected"),
    [
        ("echo '581.29, 12.0'", ("581.29", (12, 0))),
        ("echo '560.35.03, 6.1'; echo '560.35.03, 8.9'", ("560.35.03", (8, 9))),
        ("echo '470.10, [N/A]'", ("470.10", None)),
        ("echo 'No devices were found'", ("", None)),
        ("echo 'Driver/library version mismatch'; exit 18", ("", None)),
    ],
)
def test_nvidia_smi_is_asked(
    says: str, expected: tuple[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{says}\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert make._driver() == expected


@scripted
def test_windows_is_searched_where_its_driver_puts_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "System32" / "nvidia-smi.exe"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho '581.29, 12.0'\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("SYSTEMROOT", str(tmp_path))
    monkeypatch.setattr(make.shutil, "which", lambda _: None)
    assert make._driver() == ("581.29", (12, 0))


@pytest.mark.parametrize(
    ("setting", "own"),
    [("INDEX_URL", True), ("NO_INDEX", True), ("EXTRA_INDEX_URL", False), ("FIND_LINKS", False)],
)
def test_pips_settings_are_read(setting: str, own: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv(f"PIP_{setting}", "1" if setting == "NO_INDEX" else "https://user:secret@mirror.example/simple")
    facts = make._facts(make._pip_settings(sys.executable), "")
    assert facts.own_index is own
    assert "secret" not in choose(facts).why


# A whole set-up with real environments: PyTorch's index is a server here, pip's own a folder.
PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""
METADATA = "Metadata-Version: 2.1\\nName: ocrlab\\nVersion: 0\\nRequires-Dist: torch>=2.13\\n"
METADATA += "".join(f"Provides-Extra: {e}\\n" for e in ("quantized", "serve", "cluster", "dev", "train"))
BACKEND = f"""
import pathlib, zipfile
def get_requires_for_build_editable(config_settings=None): return []
def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    name = "ocrlab-0-py3-none-any.whl"
    with zipfile.ZipFile(pathlib.Path(wheel_directory, name), "w") as file:
        file.writestr("ocrlab.pth", str(pathlib.Path.cwd()))
        file.writestr("ocrlab-0.dist-info/METADATA", "{METADATA}")
        file.writestr("ocrlab-0.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        file.writestr("ocrlab-0.dist-info/RECORD", "")
    return name
"""
DESCRIBE = """
from importlib.metadata import version
print("described:", version("torch"), version("needed"))
"""


def wheel(folder: Path, name: str, version: str, tag: str = "py3-none-any", cuda: str | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-{tag}.whl", "w") as file:
        needs = "Requires-Dist: needed\n" if name == "torch" else ""
        file.writestr(f"{name}/__init__.py", "")
        file.writestr(f"{name}/version.py", f"__version__ = '{version}'\ncuda: Optional[str] = {cuda!r}\n")
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}")
        file.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
        file.writestr(f"{info}/RECORD", "")


class Index(http.server.SimpleHTTPRequestHandler):
    asked: list[str]

    def log_message(self, format: str, *args: object) -> None:
        self.asked.append(self.path)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[http.server.ThreadingHTTPServer]:
    """PyTorch's index on this machine: a CPU build and a CUDA 13.0 one, and nothing of what they need."""
    tag = "cp{0}{1}-cp{0}{1}-linux_{2}".format(*sys.version_info[:2], os.uname().machine)
    wheel(tmp_path / "whl" / "cpu" / "torch", "torch", "2.13.0+cpu", tag)
    wheel(tmp_path / "whl" / "cu130" / "torch", "torch", "2.13.0+cu130", tag, "13.0")
    monkeypatch.setattr(Index, "asked", [], raising=False)
    handler = functools.partial(Index, directory=str(tmp_path / "whl"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(make, "PYTORCH", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with nothing installed; pip's own index is a folder with newer packages than the pins, too."""
    root, simple = tmp_path / "project", tmp_path / "simple"
    for version in ("1.0", "2.0"):
        wheel(simple / "needed", "needed", version)
        wheel(simple / "setuptools", "setuptools", f"{version}")
    for version in ("2.13.0", "2.13.1", "2.14.0"):
        wheel(simple / "torch", "torch", version)
    for folder in simple.iterdir():
        links = "".join(f'<a href="{file.name}">{file.name}</a>\n' for file in folder.iterdir())
        (folder / "index.html").write_text(links, encoding="utf-8")
    (root / "ocrlab" / "machine").mkdir(parents=True)
    for name, text in {
        "pyproject.toml": PYPROJECT,
        "backend.py": BACKEND,
        "ocrlab/__init__.py": "",
        "ocrlab/machine/__init__.py": "",
        "ocrlab/machine/describe.py": DESCRIBE,
        "constraints.txt": "torch==2.13.0\nneeded==1.0\n",
    }.items():
        (root / name).write_text(text, encoding="utf-8")
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", simple.as_uri())
    monkeypatch.setattr(make, "_pip_settings", lambda _: {})  # as if that folder were pip's default
    monkeypatch.setattr(make, "ROOT", root)
    return root


@pytest.mark.skipif(sys.platform != "linux", reason="the wheels of this test are for Linux")
def test_the_right_torch_arrives_is_mended_and_gives_way(
    project: Path,
    index: http.server.ThreadingHTTPServer,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def set_up(**given: str) -> str:
        make.setup(given)
        return capfd.readouterr().out

    monkeypatch.setattr(make, "_driver", lambda: (None, None))
    said = set_up()
    assert "the cpu build of torch: no NVIDIA driver here" in said and "described: 2.13.0+cpu 1.0" in said
    assert not any(path.startswith("/cu") for path in Index.asked), "no CUDA download without a driver"

    Index.asked.clear()
    said = set_up()
    assert "described" in said and "installing" not in said and not Index.asked, "ready: nothing is asked for"

    python = str(project / ".venv" / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "-q", "needed==2.0"], check=True)
    assert "described: 2.13.0+cpu 1.0" in set_up(), "what is not as pinned any more is mended"
    subprocess.run([python, "-m", "pip", "uninstall", "-q", "-y", "needed"], check=True)
    assert "described: 2.13.0+cpu 1.0" in set_up(), "and what is missing"

    set_up(TEST="1")
    assert make._newer(project / ".venv" / ".ready-test", project / ".venv" / ".ready")

    monkeypatch.setattr(make, "_driver", lambda: (NEW, RTX_50))
    said = set_up()
    assert "the cu130 build of torch: NVIDIA driver 581.29" in said and "described: 2.13.0+cu130 1.0" in said
    assert "described: 2.13.0+cpu" in set_up(TORCH_BUILD="cpu")

    index.shutdown()
    index.server_close()
    said = set_up()
    assert "cannot be reached" in said and "described: 2.13.0+cpu" in said and "installing" not in said
    (project / "constraints.txt").write_text("torch==2.13.1\nneeded==1.0\n", encoding="utf-8")
    os.utime(project / ".venv" / ".ready", (0, 0))
    said = set_up()
    assert "cannot be reached" in said and "described: 2.13.1 1.0" in said

    conda = project / ".venv"  # any environment that runs the script stands for conda's
    (project / ".venv" / ".ready").unlink()
    monkeypatch.setattr(make.sys, "prefix", str(conda))
    monkeypatch.setattr(make.sys, "executable", str(conda / "bin" / "python"))
    monkeypatch.setattr(make, "_environment", lambda _: pytest.fail("HERE=1 makes no environment"))
    assert "described: 2.13.1 1.0" in set_up(HERE="1") and (conda / ".ready").is_file()


@pytest.mark.skipif(sys.platform != "linux", reason="the wheels of this test are for Linux")
def test_an_index_without_this_wheel_is_as_good_as_none(
    index: http.server.ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = {"python": "cp{}{}".format(*sys.version_info[:2]), "platform": f"linux-{os.uname().machine}"}
    plan = choose(Facts("Linux"))
    assert make.unreachable(plan, "2.13.0", here, {}) == ""
    assert "has no torch 2.14.0" in make.unreachable(plan, "2.14.0", here, {})
    assert "for cp399" in make.unreachable(plan, "2.13.0", here | {"python": "cp399"}, {})
    assert "win-amd64" in make.unreachable(plan, "2.13.0", here | {"platform": "win-amd64"}, {})
    absent = choose(Facts("Linux", driver="535.1"))
    assert "cannot be reached (File not found)" in make.unreachable(absent, "2.13.0", here, {})
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert "cannot be reached" in make.unreachable(plan, "2.13.0", here, {"proxy": "http://127.0.0.1:9"})


def test_the_script_needs_nothing_installed() -> None:
    imported = set()
    for node in ast.walk(ast.parse((ROOT / "make.py").read_text(encoding="utf-8"), feature_version=(3, 8))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").split(".")[0])
    assert imported <= sys.stdlib_module_names


def test_an_old_python_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make.sys, "version_info", (3, 10, 4))
    with pytest.raises(SystemExit, match=r"is Python 3\.10; ocrlab needs 3\.11 or newer"):
        make._environment(tmp_path / ".venv")
    assert not (tmp_path / ".venv").exists()


def _variables_of(target: str) -> dict[str, str]:
    """Return a value for each variable that the Makefile's help names for a target."""
    return {name: f"a {name}.zip" for name in re.findall(r"\b([A-Z_]+)=", targets()[target])}


@pytest.mark.skipif(os.name == "nt" or shutil.which("make") is None, reason="there is no make here")
@pytest.mark.parametrize("target", sorted(set(targets()) - {"help", "setup", "clean"}))
@pytest.mark.parametrize("given", [True, False])
def test_make_bat_runs_what_make_runs(target: str, given: bool) -> None:
    variables = _variables_of(target) if given else {}
    command = ["make", "--no-print-directory", "-n", "-o", ".venv/.ready", "-o", ".venv/.ready-test", target]
    command += [f"{name}={value}" for name, value in variables.items()]
    clean = {name: value for name, value in os.environ.items() if name not in _variables_of(target)}
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=clean).stdout
    lines = [shlex.split(line) for line in shown.replace("\\\n", " ").strip().splitlines()]
    posix = [line[line.index("-m") + 1 :] for line in lines]
    ours = commands(target, variables)
    assert [(line[:2], sorted(w for w in line if w)) for line in ours] == [
        (line[:2], sorted(w for w in line if w)) for line in posix
    ]


def test_make_bat_knows_the_makefiles_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert set(targets()) == set(re.findall(r"^([a-z-]+):", makefile, re.M))
    assert "make.py" in (batch := (ROOT / "make.bat").read_text(encoding="utf-8")) and "%*" in batch
    asked: list[object] = []
    monkeypatch.setattr(make, "setup", lambda *words, **named: asked.append((words, named)))
    monkeypatch.setattr(make, "_target", lambda target, given: asked.append((target, given)) or 3)
    assert make.main(["reproduce", "PROFILE=cpu", "PARAMS=page_set=documents; a=[1, 2]"]) == 3
    assert asked == [
        (({},), {"only_if_stale": True}),
        ("reproduce", {"PROFILE": "cpu", "PARAMS": "page_set=documents; a=[1, 2]"}),
    ]
    with pytest.raises(SystemExit, match="no target frob; there are help, setup"):
        make.main(["frob"])


def test_a_failed_command_ends_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    monkeypatch.setattr(make, "_environment", lambda _: "python")
    monkeypatch.setattr(make.signal, "signal", lambda *_: None)
    monkeypatch.setattr(make.subprocess, "call", lambda command, **_: ran.append(command[2]) or command[3] == "check")
    assert make._target("check", {}) == 1 and ran == ["ruff"]
