"""The campaign for a lent card can start: its plan fits the notebooks, parts resume, and one over its time is ended."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from data.recipes import gpu_campaign as campaign
from ocrlab import paths
from ocrlab.commands.parameters import check
from ocrlab.experiments import limits
from ocrlab.study.records import load_findings


def test_the_plan_names_what_exists_with_values_that_it_takes() -> None:
    assert list(campaign.STEPS) == ["tests", "machine", "shapes", "decode", "reader"]
    assert all(step["minutes"] <= 9 for step in campaign.STEPS.values())
    for name, part in campaign.PARTS.items():
        if "do" not in part:
            for size in ("card", "small"):
                check(paths.NOTEBOOKS / f"{name}.ipynb", part[size])
    functions = {part["do"] for part in campaign.PARTS.values() if "do" in part}
    assert all(callable(getattr(campaign, name)) for name in functions)


def test_a_part_that_is_cut_off_goes_on_and_one_that_is_done_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(campaign, "STEPS", {"shapes": {"minutes": 5, "parts": {"memory": {}, "doctor": {}}}})
    asked = ["shapes", "--small", "--out", str(tmp_path)]
    assert campaign.main([*asked, "--minutes", "0.01"]) == 1
    notes = campaign.read_notes(tmp_path)
    assert notes["small/memory"]["status"] == "cut off" and notes["small/doctor"]["status"] == "not begun"
    assert not load_findings("memory-true-shapes", tmp_path / "small").shape[0]
    monkeypatch.setattr(campaign, "STEPS", {"shapes": {"minutes": 5, "parts": {"memory": {}}}})
    campaign.main(asked)
    memory = campaign.read_notes(tmp_path)["small/memory"]
    assert (memory["status"], memory["tries"], memory["exit_code"]) == ("done", 2, 0)
    found = load_findings("memory-true-shapes", tmp_path / "small")
    assert found["label"].nunique() > 5 and found["ratio"].dropna().between(0.5, 1.5).all()
    campaign.main(asked)
    assert campaign.read_notes(tmp_path)["small/memory"]["passed_over"]
    assert capsys.readouterr().out.count("memory") == 3
    # What a variant of attention has a line for is not measured again.
    monkeypatch.setattr(limits, "compare_memory", lambda *_: pytest.fail("measured again"))
    campaign.memory(tmp_path / "small", **campaign.PARTS["memory"]["small"])


def test_a_part_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaign, "STEPS", {"machine": {"minutes": 5, "parts": {"no-such-part": {}}}})
    campaign.run_step("machine", tmp_path, "card")
    note = campaign.read_notes(tmp_path)["card/no-such-part"]
    assert (note["status"], note["exit_code"]) == ("failed", 2) and "invalid choice" in note["reason"]


def test_a_process_that_ignores_ctrl_c_is_ended_with_what_it_started(monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    monkeypatch.setattr(campaign, "_GRACE_S", 0.2)
    deaf = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGINT, signal.SIG_IGN);"
        "print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True).pid,"
        "flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE)
    assert process.stdout is not None
    child = psutil.Process(int(process.stdout.readline()))
    campaign.end(process)
    child.wait(30)
    assert process.returncode != 0 and not child.is_running()


def test_large_files_are_cut_and_joined_again(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "stable.pt").write_bytes(bytes(range(250)) * 10)
    campaign.cut(tmp_path, most=1000)
    pieces = sorted((tmp_path / "train").iterdir())
    assert [piece.name for piece in pieces] == [f"stable.pt.cut-{i:02}" for i in range(3)]
    assert max(piece.stat().st_size for piece in pieces) <= 1000
    campaign.join(tmp_path)
    assert [file.name for file in (tmp_path / "train").iterdir()] == ["stable.pt"]
    assert (tmp_path / "train" / "stable.pt").read_bytes() == bytes(range(250)) * 10
