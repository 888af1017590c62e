"""run.json tells where numbers come from: code, machine, versions, settings, pages, seeds, times, and every end."""

import json
from pathlib import Path

import pytest

from ocrlab import paths
from ocrlab.commands import reproduce
from ocrlab.study import provenance
from ocrlab.study.provenance import read_record, readings_record
from tests.notebooks import cell, write
from tests.runs import reading, write_run

LOOK = """
import os, pathlib
file = pathlib.Path(os.environ["OCRLAB_RUN_FOLDER"], "readings", "e.jsonl")
file.parent.mkdir(exist_ok=True)
file.write_text({} + chr(10))
"""


def test_readings_tell_their_settings_seeds_weights_and_pages(tmp_path):
    run = write_run(
        tmp_path / "r",
        reading("p1", time_utc="2026-11-24T12:00:01+00:00"),
        reading("p2", status="oom", repeat=1),
        reading("p1", asked={"do_sample": True, "seed": 7}),
        reading("x", experiment="f", set="other"),
    )
    kept = readings_record(run)
    assert kept["experiments"]["e"] == {
        "readings": 3,
        "statuses": {"ok": 2, "oom": 1},
        "seeds": [0, 7],
        "repeats": 2,
        "weights": ["sha256:1"],
        "settings": [{"dtype": "float32"}, {"dtype": "float32", "do_sample": True, "seed": 7}],
        "code": ["c0de"],
        "machines": ["M"],
        "first": "2026-11-24T12:00:00+00:00",
        "last": "2026-11-24T12:00:01+00:00",
    }
    assert {name: list(pages) for name, pages in kept["pages"].items()} == {"mine": ["p1", "p2"], "other": ["x"]}
    assert kept["pages"]["mine"]["p1"] == reading("p1")["page_sha256"] and len(kept["pages"]["mine"]["p1"]) == 64


@pytest.mark.parametrize(("text", "words"), [("{\n", "line 1 is not JSON"), ('{"set": "x"}\n', "not as this version")])
def test_damaged_readings_are_said_in_the_record(tmp_path, text, words):
    run = write_run(tmp_path / "r", reading())
    (run / "readings" / "e.jsonl").write_text(text, encoding="utf-8")
    assert words in readings_record(run)["readings_problem"] and "e.jsonl" in readings_record(run)["readings_problem"]


def test_every_session_of_a_run_stays_on_record_with_what_was_asked_and_its_exit(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "describe_machine", lambda: {"cpu": "stub"})
    one = reading("p1")
    write(
        tmp_path / "good.ipynb",
        "# Good?",
        cell("pages = 3", "parameters"),
        cell(LOOK.format(json.dumps(json.dumps(one)))),
    )
    write(tmp_path / "bad.ipynb", "# Bad?", cell("1 / 0"))
    (tmp_path / "experiments.yaml").write_text(
        "good:\n  cell_timeout_s: 60\nbad:\n  cell_timeout_s: 60\n", encoding="utf-8"
    )
    places = {"notebooks": tmp_path, "experiments": tmp_path / "experiments.yaml", "results": tmp_path / "results"}
    assert reproduce.reproduce("smoke", only="good", run="r", params="pages=4", **places) == 0
    assert reproduce.reproduce("smoke", only="bad", run="r", **places) == 1
    record = read_record(tmp_path / "results" / "r")
    assert [(s["asked"]["only"], s["asked"]["params"], s["exit_code"]) for s in record["sessions"]] == [
        ("good", "pages=4", 0),
        ("bad", None, 1),
    ]
    assert all(s["started"] <= s["ended"] for s in record["sessions"])
    assert record["commit"] is None or len(record["commit"]) == 40
    assert record["versions"]["torch"] and record["machine"] == {"cpu": "stub"} and "dirty" in record
    assert record["notebooks"]["bad"]["status"] == "error" and record["notebooks"]["good"]["parameters"] == {"pages": 4}
    assert record["pages"] == {"mine": {"p1": one["page_sha256"]}} and record["experiments"]["e"]["seeds"] == [0]
    assert (tmp_path / "results" / "index.html").is_file()
    page = (tmp_path / "results" / "r" / "good.html").read_text(encoding="utf-8")
    assert "make reproduce ONLY=good RUN=r PROFILE=smoke PARAMS=&#34;pages=4&#34;" in page


def test_the_reference_runs_record_is_whole():
    record = read_record(paths.RESULTS / "reference-cpu")
    assert sum(len(pages) for pages in record["pages"].values()) > 100 and record["experiments"]["04-pixels"]["weights"]
    assert {"commit", "dirty", "versions", "machine", "started", "ended"} <= record.keys()
    assert str(Path.home()) not in json.dumps(record)
