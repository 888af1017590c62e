"""Soaks of some seconds in a real worker: calm, with a planted leak, a changed text, a death; and what lines say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ocrlab import paths
from ocrlab.commands.cli import main
from ocrlab.experiments.readiness import check_readiness
from ocrlab.experiments.soak import judge_soak, run_soak
from ocrlab.pages import Page, load_pages
from ocrlab.reading.settings import Settings
from ocrlab.scoring.statistics import growth_rate
from ocrlab.study.records import load_findings, load_rows
from tests.experiments import soakers

TINY = Settings(dtype="float32", max_new_tokens=24)


@pytest.fixture(scope="module")
def pages() -> list[Page]:
    return load_pages("lines", limit=4)


def test_a_calm_soak_is_kept_with_its_lines_and_first_readings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(paths, "RESULTS", tmp_path)
    monkeypatch.setattr(paths, "BUILD", tmp_path / "build")
    short = ["--minutes", "0.02", "--count", "20", "--limit", "4", "--max_new_tokens", "24"]
    assert main(["soak", *short]) == 2 and "no run of this machine" in capsys.readouterr().err
    assert main(["soak", *short, "--run", "mine"]) == 0
    out = capsys.readouterr().out
    assert "4 pages of lines for 0.02 min, into mine" in out
    assert "the soak is not settled" in out or "the soak passes" in out
    folder = tmp_path / "mine"
    assert json.loads((folder / "run.json").read_text(encoding="utf-8"))["profile"] == "soak"
    kept = load_findings("soak", folder).iloc[0]
    assert "0 failed, 0 pages' texts changed, 0 restarts" in kept["words"] and kept["max_new_tokens"] == 24
    assert kept["pages"] >= 20 and kept["page_s"] > 0 and kept["different_pages"] == 4
    rows = load_rows(folder, "soak")
    assert rows["page"].nunique() == len(rows) == 4 and rows["cer"].notna().all()
    assert (rows["resident_bytes"] > 1e8).all()
    state = {check.id: check for check in check_readiness(folder).checks}["soak"]
    assert state.state == "not measured" and "1000 pages or 60 minutes needed" in state.reason


def test_a_planted_leak_and_a_planted_change_of_text_are_seen(pages: list[Page], tmp_path: Path) -> None:
    mined = soakers.planted(soakers.Leak, pages)
    found = run_soak(TINY, mined, minutes=0.02, count=150, folder=tmp_path)
    assert found["verdict"] == "fail" and found["failed"] == 0
    assert 500 < found["growth_low"] <= found["growth_mb"] <= found["growth_high"] < 1500, found["words"]
    assert found["changed"] >= 1 and "lines-00" in found["words"], found["words"]
    assert load_findings("soak", tmp_path)["words"].tolist() == [found["words"]]


def test_a_death_is_tried_again_and_shows(pages: list[Page], tmp_path: Path) -> None:
    found = run_soak(TINY, soakers.planted(soakers.Death, pages), minutes=1e-9, count=8, folder=tmp_path)
    assert found["verdict"] == "fail" and found["pages"] == 8
    assert found["restarts"] == 1 and found["failed"] == 0 and "1 restarts" in found["words"]


def test_settings_that_cannot_be_put_in_force_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(paths, "RESULTS", tmp_path)
    flash = ["--attn_implementation", "flash_attention_2", "--dtype", "bfloat16", "--limit", "1"]
    assert main(["soak", "--run", "mine", *flash]) == 2
    assert "not installed" in capsys.readouterr().err and load_findings("soak", tmp_path / "mine").empty


def read(resident_mb: list[float], **changes: Any) -> list[dict[str, Any]]:
    blank = {"page": "p1", "status": "ok", "changed": False, "reason": "", "page_s": 0.1, "reserved_memory_bytes": None}
    return [blank | {"minutes": i / 6, "resident_bytes": mb * 1e6} | changes for i, mb in enumerate(resident_mb)]


def test_verdicts_follow_the_readings() -> None:
    calm = read([300, 400, 400.002, 399.999, 400.001, 400, 400.001, 400, 399.999, 400.001])
    found = judge_soak(calm, 1, 0)
    assert found["verdict"] == "pass" and abs(found["growth_mb"]) < 1, "the first pass does not count"
    assert judge_soak(calm[:5], 1, 0)["verdict"] == "open"
    assert "fewer than 6 readings" in judge_soak(calm[:5], 1, 0)["words"]
    grown = judge_soak(read([400 + 0.03 * i for i in range(1000)]), 1, 0)
    assert grown["verdict"] == "fail" and grown["growth_mb"] == pytest.approx(30)
    settling = judge_soak(read([400 + 0.015 * i for i in range(1000)]), 1, 0)
    assert settling["verdict"] == "open" and settling["growth_low"] > 10, "15 MB in all are no leak yet"
    unsure = judge_soak(read([400, 400, 440, 400, 440, 400, 440, 400, 440, 410]), 1, 0)
    assert unsure["verdict"] == "open" and "not settled" in unsure["words"]
    device = [row | {"reserved_memory_bytes": 1e9 + 5e6 * i} for i, row in enumerate(calm)]
    assert judge_soak(device, 1, 0)["device_growth_mb"] == pytest.approx(5000)
    assert judge_soak(device, 1, 0)["verdict"] == "fail" and judge_soak(calm, 1, 1)["verdict"] == "fail"
    assert judge_soak([*calm, calm[-1] | {"changed": True}], 1, 0)["verdict"] == "fail"
    failed = judge_soak(read([400] * 9, status="oom", reason="too large"), 1, 0)
    assert failed["verdict"] == "fail" and failed["failed"] == 9 and "p1: oom: too large" in failed["words"]
    assert judge_soak(read([400] * 9, status="truncated"), 1, 0)["verdict"] == "pass", "cut off alike each time"
    assert judge_soak([], 1, 0)["verdict"] == "open"


def test_growth_by_hand_and_its_interval_on_wandering_values() -> None:
    found = growth_rate([1, 2, 4], [10, 12, 16])
    assert found.point == found.low == found.high == 2 and found.documents == 2
    rng = np.random.default_rng(0)
    missed = 0
    for _ in range(200):  # a random walk without drift, which a fitted line would call growth more often than not
        rate = growth_rate(range(30), np.cumsum(rng.normal(size=30)).tolist(), resamples=400)
        missed += rate.low > 0 or rate.high < 0
    assert missed <= 24  # 5 % are allowed; of so few steps some 7 % are
    for work, values in (([1, 2], [1, 2]), ([1, 1, 2], [1, 2, 3])):
        with pytest.raises(ValueError, match=r"three of each|must rise"):
            growth_rate(work, values)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--minutes", "0"], "give a time above 0"),
        (["--pages", "no/such/place"], "no/such/place"),
        (["--dtype", "bf16"], "bfloat16"),
        (["--run", "../up"], "not a folder name"),
    ],
)
def test_unusable_arguments(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["soak", *arguments]) == 2 and says in capsys.readouterr().err
