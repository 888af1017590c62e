"""Each check in its three states, the score over what was measured, and the command's exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ocrlab import paths
from ocrlab.commands.cli import main
from ocrlab.experiments.readiness import CHECKS, check_readiness
from ocrlab.machine.describe import describe_machine, machine_name
from tests.experiments.cells import names_of
from tests.experiments.ledger import CARD, CPU, TWO_B, Run, load, probe, reading, readings, write_run

PASS, FAIL, OPEN = "pass", "fail", "not measured"
GIB = 2**30
SHARE = {"dtype": "bfloat16", "attn_implementation": "sdpa"}


pytestmark = pytest.mark.usefixtures("own_quarantine")


def doctor(*levels: str) -> Run:
    return {"findings/doctor": [{"check": f"c{i}", "level": level} for i, level in enumerate(levels)]}


def canary(*verdicts: str) -> Run:
    return {"findings/canary": [{"verdict": v, "reason": f"planted {v}"} for v in verdicts]}


def memory(machine: dict[str, Any], rows: list[dict[str, Any]], **changes: Any) -> Run:
    return {"findings/stack": [machine], "findings/load": [load("warm", **changes)], "rows/a": rows}


def share(value: float, model: str = TWO_B["model_id"]) -> Run:
    return {"findings/speed": [SHARE | {"model_id": model, "tpot_share": value}]}


def soak(verdict: str, pages: int = 5000, minutes: float = 1.0, model: str = TWO_B["model_id"]) -> Run:
    line = {"verdict": verdict, "words": "calm", "pages": pages, "minutes": minutes, "model_id": model}
    return {"findings/soak": [line], "rows/a": readings()}


def recovery(works: bool) -> Run:
    lines = [("same process", "abort", False, "SIGABRT"), ("new process", "a product", works, "4096")]
    names = ("where", "attempt", "works", "outcome")
    return {"findings/recovery": [dict(zip(names, line, strict=True)) for line in lines]}


CASES: list[tuple[str, Run, str, str]] = [
    ("stack", doctor("ok", "ok"), PASS, "2 lines: all ok"),
    ("stack", doctor("ok", "warning"), PASS, "1 warnings (c1)"),
    ("stack", doctor("problem", "ok"), FAIL, "1 problems (c0)"),
    ("stack", {}, OPEN, "the doctor was not asked; make reproduce ONLY=01-machine"),
    ("kernels", {"findings/probes": [probe(), probe(verdict="unsupported")]}, PASS, "1 launches are right; 1 cannot"),
    ("kernels", {"findings/probes": [probe(), probe("sdpa", "wrong")]}, FAIL, "1 of 2 launches: wrong (planted wrong)"),
    ("kernels", {"findings/probes": [probe(verdict="not installed")]}, OPEN, "none of 1 launches"),
    ("kernels", {}, OPEN, "none of 0 launches"),
    ("canary", canary("same text", "within rounding", "unsupported"), PASS, "2 variants are right"),
    ("canary", canary("same text", "faulty"), FAIL, "planted faulty"),
    ("canary", canary("same text", "timed out"), FAIL, "timed out"),
    ("canary", canary("unsupported"), OPEN, "none of 1 variants"),
    ("finite", {"rows/a": readings()}, PASS, "0 of 24 readings"),
    ("finite", {"rows/a": [*readings(), reading(1, status="invalid", reason="NaN")]}, FAIL, "1 of 25"),
    ("finite", {"rows/a": readings(3, status="invalid", dtype="float16")}, OPEN, "nothing was read"),
    ("finite", {}, OPEN, "nothing was read"),
    (
        "quality",
        {"rows/a": readings()},
        PASS,
        "99.0% of letters right (99.0% to 99.0%) over 24 pages; the floor is 95%",
    ),
    ("quality", {"rows/a": [reading(i, cer_edits=15 * (i % 4 == 0)) for i in range(24)]}, FAIL, "96.2% of letters"),
    ("quality", {"rows/a": readings(7)}, OPEN, "7 pages of your own were scored, 8 needed"),
    ("quality", {"rows/a": readings(set="lines")}, OPEN, "0 pages of your own"),
    ("memory", memory(CARD, readings()), PASS, "5.70 of 11.9 GiB"),
    ("memory", memory(CARD, readings(reserved_memory_bytes=10.9 * GIB)), FAIL, "left, 10% wanted"),
    ("memory", memory(CPU, readings(peak_memory_bytes=20 * GIB)), FAIL, "24.11 of 24.0 GiB"),
    ("memory", memory(CARD, readings(status="oom", reason="out of memory")), FAIL, "ran out of memory (out of memory)"),
    ("memory", memory(CARD, readings(), dtype="float32"), OPEN, "was not loaded in bfloat16"),
    ("memory", {"rows/a": readings()}, OPEN, "are needed"),
    ("speed", share(0.2), PASS, "20% of the floor, 5% wanted"),
    ("speed", share(0.03), FAIL, "3% of the floor"),
    ("speed", share(1.28), OPEN, "measured too low"),
    ("speed", share(0.2, "tiny"), OPEN, "lives in the cache"),
    ("soak", soak("pass"), PASS, "calm"),
    ("soak", soak("pass", 50, 60), PASS, "calm"),
    ("soak", soak("fail", 10), FAIL, "calm"),
    ("soak", soak("pass", 10), OPEN, "1000 pages or 60 minutes needed"),
    ("soak", soak("open"), OPEN, "calm"),
    ("soak", soak("pass", model="tiny"), OPEN, "the soak read with tiny"),
    ("soak", {}, OPEN, "no soak in this run; make soak"),
    ("recovery", recovery(True), PASS, "SIGABRT"),
    ("recovery", recovery(False), FAIL, "a new process"),
    ("recovery", {}, OPEN, "no process was made to die"),
]


@pytest.mark.parametrize(("check", "run", "state", "says"), CASES, ids=[f"{c}-{s}-{w[:20]}" for c, _, s, w in CASES])
def test_a_check_in_each_state(check: str, run: Run, state: str, says: str, tmp_path: Path) -> None:
    found = {one.id: one for one in check_readiness(write_run(tmp_path, run)).checks}[check]
    assert (found.state, says in found.reason) == (state, True), found.reason


def test_every_check_has_all_three_states() -> None:
    states = {check: {state for one, _, state, _ in CASES if one == check} for check in CHECKS}
    assert all(seen == {PASS, FAIL, OPEN} for seen in states.values()), states


def test_the_embedded_reader_counts_only_alone(tmp_path: Path) -> None:
    rows = {"rows/a": readings(3), "rows/b": readings(9, model_id="tiny")}
    assert check_readiness(write_run(tmp_path / "both", rows)).model_id == TWO_B["model_id"]
    assert check_readiness(write_run(tmp_path / "tiny", {"rows/b": rows["rows/b"]})).model_id == "tiny"


def test_the_score_is_over_what_was_measured(tmp_path: Path) -> None:
    found = check_readiness(write_run(tmp_path, canary("same text") | recovery(False)))
    assert found.score == 3 / 4 and (found.weight_of("pass", "fail"), found.weight_of("not measured")) == (4, 15)
    assert found.words.startswith(
        "75% of the weight that was measured (4 of 19) passes; not measured, weight 15: stack"
    )
    table = names_of("08-recommendation")["readiness_table"](found).data
    assert table.count("<tr>") == 10 and table.index(">fail<") < table.index(">pass<") < table.index(">not measured<")
    empty = check_readiness(tmp_path / "none")
    assert empty.score is None and empty.words == "nothing was measured (weight 19)"


def run_record(name: str, started: str, **machine: str) -> dict[str, object]:
    return {"run": name, "started": started, "machine": describe_machine() | machine}


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A results folder with one run: three quarters of the measured weight pass."""
    folder = tmp_path / "results"
    write_run(folder / "mine", canary("same text") | recovery(False))
    (folder / "mine" / "run.json").write_text(json.dumps(run_record("mine", "2026-11-24")), encoding="utf-8")
    monkeypatch.setattr(paths, "RESULTS", folder)
    return folder


def test_exit_codes_follow_the_threshold(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ready"]) == 1 and main(["ready", "--run", "mine", "--threshold", "0.75"]) == 0
    out = capsys.readouterr().out
    assert "fail" in out and "75% of the weight that was measured (4 of 19)" in out and "threshold 80%" in out
    assert "Is a reading possible again after its process died?" in out


@pytest.mark.parametrize(
    ("arguments", "broken", "says"),
    [
        (["--run", "yours"], "", "no run there, or its run.json is damaged; the runs here are: mine"),
        (["--threshold", "80"], "", "give a share from 0 to 1"),
        ([], "run.json", "yet: `make reproduce` makes one"),
        ([], "findings/canary.jsonl", "canary.jsonl: line 1 is not JSON"),
    ],
)
def test_an_unusable_run_ends_with_2_and_says_why(
    arguments: list[str], broken: str, says: str, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if broken:
        (results / "mine" / broken).write_text("{\n", encoding="utf-8")
    assert main(["ready", *arguments]) == 2
    assert says in capsys.readouterr().err


def test_a_run_with_nothing_measured_is_unusable(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in (results / "mine" / "findings").iterdir():
        file.unlink()
    assert main(["ready"]) == 2
    assert "none of the checks was measured; run `make reproduce RUN=mine`" in capsys.readouterr().err


def test_the_newest_run_is_taken(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(results / "newer", canary("same text"))
    (results / "newer" / "run.json").write_text(json.dumps(run_record("newer", "2026-11-25")), encoding="utf-8")
    assert main(["ready"]) == 0
    assert capsys.readouterr().out.startswith("run newer: ")


def test_a_machine_on_which_nothing_was_measured_is_not_ready(
    results: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The committed run, one of another machine and one that was added are no answer, unless they are named."""
    write_run(results / "theirs", canary("same text"))
    records = {"reference-cpu": {}, "theirs": {"cpu": "another"}, "mine": {}}
    (results / "reference-cpu").mkdir()
    for name, machine in records.items():
        record = run_record(name, "2026-11-25", **machine) | ({"added": {}} if name == "mine" else {})
        (results / name / "run.json").write_text(json.dumps(record), encoding="utf-8")
    assert main(["ready"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and f"no run of this machine ({machine_name()})" in said.err
    assert "`make reproduce` makes one; RUN=name asks about another machine's: " in said.err
    assert main(["ready", "--run", "theirs"]) == 0 and capsys.readouterr().out.startswith(
        f"run theirs: {machine_name()}"
    )
    monkeypatch.setattr(paths, "RESULTS", results / "none")
    assert main(["ready"]) == 2 and capsys.readouterr().err.endswith("yet: `make reproduce` makes one\n")
