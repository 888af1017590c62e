"""The command beside a figure: it says what was run, and does nothing else whatever a parameter holds."""

import shlex
import subprocess

import pytest

from ocrlab.commands.parameters import parse_overrides
from ocrlab.report.command import again
from tests.hostile import EVERY

PARAMETERS = {
    "pages": 80, "max_pixels_values": [4096, 131072], "dtype": "float32", "margin": 0.005, "rate": 1e-05, "flag": True,
    "limit": None, "prompts": ["Please give me every word you can see", "it's", "null", "~", "", "12", "a, b]"],
    "nested": {"a b": [1, None]}, "folder": "/scans/of today",
}  # fmt: skip


def test_its_parameters_are_those_of_the_run_again():
    command = again("04-pixels", "my-card", "cpu", PARAMETERS)
    words = shlex.split(command)
    assert words[:5] == ["make", "reproduce", "ONLY=04-pixels", "RUN=my-card", "PROFILE=cpu"]
    assert parse_overrides(words[5].removeprefix("PARAMS=")) == PARAMETERS


def test_a_hub_model_may_be_downloaded_again():
    command = again("04-pixels", "r", "gpu", {"model_id": "Qwen/Qwen2-VL-2B-Instruct", "pages": 1})
    assert 'MODEL=Qwen/Qwen2-VL-2B-Instruct PARAMS="pages=1"' in command


@pytest.mark.parametrize("text", EVERY)
def test_no_value_reaches_a_shell_or_make(tmp_path, text):
    command = again("04-pixels", "r", "cpu", {"prompt": text, text: 1, "nested": [{text: text}]})
    if not text.isprintable():
        assert command == ""
        return
    words = shlex.split(command)
    if words[0] == "make":
        assert not set('"$`\\!') & set(command.replace('PARAMS="', "").removesuffix('"'))
    given = words[words.index("--params") + 1] if "--params" in words else words[-1].removeprefix("PARAMS=")
    assert parse_overrides(given)["prompt"] == text


def test_a_shell_runs_nothing_of_it(tmp_path):
    shown = "touch pwned"
    values = [f"`{shown}`", f"$({shown})", f'"; {shown}; "', f"'; {shown}; '", f"$(shell {shown})", f"\\\\`{shown}`"]
    (tmp_path / "Makefile").write_text('reproduce:\n\t@echo "$(PARAMS)"\n', encoding="utf-8")
    (tmp_path / "python").write_text("#!/bin/sh\n", encoding="utf-8")
    (tmp_path / "python").chmod(0o755)
    for value in values:
        command = again("a", "r", "cpu", {"prompt": value})
        environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
        subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True, capture_output=True, env=environment)
        assert not (tmp_path / "pwned").exists(), value


@pytest.mark.parametrize("name", ["", "-rf", "a b", "a;b", "../x", "a\nb", "$(x)"])
def test_names_that_are_no_names_give_no_command(name):
    assert again(name, "r", "cpu", {}) == again("a", name, "cpu", {}) == ""
