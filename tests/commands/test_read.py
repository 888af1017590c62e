"""`python -m ocrlab read`, as a person types it."""

from __future__ import annotations

import importlib.metadata
import io
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from ocrlab import paths
from ocrlab.commands import cli
from ocrlab.commands.cli import main
from ocrlab.commands.setting_flags import settings_of
from ocrlab.pages import load_pages
from ocrlab.reading.settings import field_types


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pages with truth, one without, and a broken one."""
    for i, page in enumerate(load_pages("lines", limit=3)):
        shutil.copy(page.file, tmp_path / f"p{i}.png")
        if i < 2:
            (tmp_path / f"p{i}.gt.txt").write_text(page.truth or "", encoding="utf-8")
    (tmp_path / "zero.png").write_bytes(b"")
    return tmp_path


def test_a_folder_is_read_page_by_page(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["read", str(folder)])
    out, err = capsys.readouterr()
    assert code == 1, "the broken page failed"
    assert [line for line in out.splitlines() if line.startswith("──")] == [
        f"── {folder / name}" for name in ("p0.png", "p1.png", "p2.png", "zero.png")
    ]
    assert "over 2 pages with truth" in out
    assert "zero.png" in err and "1 of 4 pages" in err


def test_a_file_and_a_glob(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["read", str(folder / "p0.png")]) == 0
    assert main(["read", str(folder / "p*.png"), "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("{") for line in lines) == 3


def test_json_is_all_there_is_on_standard_output(folder: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "ocrlab",
        "read",
        str(folder),
        "--json",
        "--max_new_tokens",
        "8",
        "--dtype=float32",
    ]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", cwd=folder, check=False)
    objects = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 1 and len(objects) == 4
    for item in objects:
        assert {"file", "status", "reason", "text", "cer", "page_s", "max_new_tokens"} <= set(item)
        assert item["max_new_tokens"] == 8
    by_name = {Path(item["file"]).name: item for item in objects}
    assert by_name["p0.png"]["cer"] is not None and by_name["p2.png"]["cer"] is None
    assert by_name["zero.png"]["status"] == "error" and "zero.png" in by_name["zero.png"]["reason"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["no/such/place"], "no/such/place"),
        (["lines", "--dtype", "bf16"], "bfloat16"),
        (["lines", "--preset", "nothing"], "the package has"),
        (["lines", "--model_id", "/no/such/model"], "no such folder"),
        (["lines", "--attn-implementation", "flash_attention_2", "--dtype", "bfloat16"], "not installed"),
    ],
)
def test_unusable_arguments_end_with_2_and_say_why(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["read", *arguments]) == 2
    assert says in capsys.readouterr().err


def test_flags_that_do_not_exist_or_do_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["lines", "--max_pixel", "5"],
        ["lines", "--max_pixels", "many"],
        ["lines", "--do_sample", "maybe"],
        ["lines", "--max_pixels", "["],
        ["lines", "--max_pixels", ""],
    ):
        assert main(["read", *arguments]) == 2
        assert arguments[1].lstrip("-") in capsys.readouterr().err


def test_importing_the_package_loads_no_torch() -> None:
    code = "import sys, ocrlab, ocrlab.pages, ocrlab.scoring, ocrlab.reading.settings; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=paths.ROOT, check=True)
    assert done.stdout.strip() == "False"


def test_flags_take_none_both_spellings_and_yaml_s_numbers() -> None:
    given = {"max_pixels": "4096", "do_sample": "none", "compile": "false", "top_p": "1e-1", "prompt": "no: 010"}
    found = settings_of(None, given | {"do_sample": "True"})
    assert (found.max_pixels, found.compile, found.top_p, found.prompt) == (4096, False, 0.1, "no: 010")
    assert settings_of(None, {"do_sample": "none"}).do_sample is None
    words = [settings_of(None, {"system_prompt": text}).system_prompt for text in ("Be exact: 010", "none")]
    assert words == ["Be exact: 010", None]


def test_every_setting_is_a_flag_in_both_spellings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["read", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "(default: as large as max_pixels" in " ".join(shown.replace("│", " ").split())
    for name in field_types():
        assert f"--{name}" in shown and f"--{name.replace('_', '-')}" in shown


def test_the_help_comes_without_heavy_imports_and_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    code = (
        "import sys; from ocrlab.commands.cli import main; main(['--help'])\n"
        "print({'torch', 'transformers', 'numpy', 'pandas', 'papermill', 'nbformat'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=paths.ROOT, check=True)
    *shown, heavy = done.stdout.splitlines()
    assert heavy == "set()"
    commands = {line.split()[0] for line in shown[shown.index("Commands:") + 1 :] if line.startswith("  ")}
    readme = (paths.ROOT / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"ocrlab (read|reproduce|serve|fit|soak|share|verify|doctor)\b", readme)) <= commands
    assert {"app", "lab", "ready", "add", "report", "upgrade", "rollback", "refresh"} <= commands


def test_the_console_script_is_the_command_line() -> None:
    project = tomllib.loads((paths.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    script = importlib.metadata.EntryPoint("ocrlab", project["scripts"]["ocrlab"], "console_scripts")
    assert script.load() is main


def test_every_letter_reaches_a_file_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding="cp1252", newline="\n")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", file)
        patch.setattr(sys, "platform", "win32")
        cli._write_every_letter()
        print("Ёж, 1 234,50 ₽", flush=True)
    assert file.buffer.getvalue() == "Ёж, 1 234,50 ₽\n".encode()  # type: ignore[attr-defined]
