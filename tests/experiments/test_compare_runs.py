"""Runs side by side: what differs between two machines is seen, what cannot be known is said."""

import json
from dataclasses import replace
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from ocrlab import paths
from ocrlab.commands.run_notebook import run_notebook
from ocrlab.experiments.compare_runs import rows_across, run_folders, source_of
from ocrlab.study.compare import first_difference
from ocrlab.study.records import read_records, record_files
from tests.experiments.cells import Cells, names_of
from tests.runs import reading, write_run

NOTEBOOK = names_of("09-compare")
quality_across, speed_across = NOTEBOOK["quality_across"], NOTEBOOK["speed_across"]
stability, texts_across = NOTEBOOK["stability"], NOTEBOOK["texts_across"]
FIXED_LENGTH = {"min_new_tokens": 8, "max_new_tokens": 8}


def run(
    folder: Path, machine: str, *, page_s: float = 0.2, wrong: int = 0, revision: str = "1", repeats: int = 1
) -> Path:
    """Twelve pages read and two timed; `wrong` letters of the first page misread."""
    texts = ["x" * wrong + "abcdefghij"[wrong:], *["abcdefghij"] * 11]
    actual = {"actual_dtype": "float32", "actual_device": "cpu", "actual_revision": f"sha256:{revision}"}
    same = {"machine": machine, "actual": actual}
    read = [
        reading(f"p{n:02}", text, "abcdefghij", measured={"page_s": page_s + n / 100}, **same)
        for n, text in enumerate(texts)
    ]
    timed = [
        reading(
            f"p{n:02}",
            "",
            None,
            experiment="speed",
            asked=FIXED_LENGTH,
            repeat=repeat,
            measured={"page_s": page_s * (1 + repeat / 10), "tpot_s": 0.004},
            **same,
        )
        for n in range(2)
        for repeat in range(repeats)
    ]
    return write_run(folder, *read, *timed)


@pytest.fixture
def two(tmp_path) -> list[Path]:
    """Two machines; the second is slower and reads the first page otherwise."""
    folders = [run(tmp_path / "one", "M"), run(tmp_path / "two", "N", page_s=0.3, wrong=4)]
    (folders[0] / "findings").mkdir()
    lines = [{"ceiling": name, "dtype": "float32", "median": rate} for name, rate in (("gemv", 10.0), ("matmul", 0.05))]
    text = "".join(json.dumps(line | {"unit": "", "reason": "", "machine": "M"}) + "\n" for line in lines)
    (folders[0] / "findings" / "ceilings.jsonl").write_text(text, encoding="utf-8")
    return folders


def test_quality_stands_side_by_side_with_its_verdict(two):
    table = quality_across(rows_across(two))
    assert table["run"].tolist() == ["one", "two"] and table["machine"].tolist() == ["M", "N"]
    assert table["cer"].tolist() == [0.0, pytest.approx(4 / 120)] and (table["runs"] == 2).all()
    assert table["words"].iloc[0] == "the one compared with" and "no difference seen" in table["words"].iloc[1]
    assert (table["cer_low"] <= table["cer"]).all() and (table["cer"] <= table["cer_high"]).all()
    assert table["page_s"].tolist() == [pytest.approx(0.255), pytest.approx(0.355)]


def test_pages_whose_truth_is_of_another_source_are_named_and_not_mixed_in(two, capsys):
    rows = rows_across(two)
    table = quality_across(rows.assign(truth_source=rows["page"].map({"p00": "pdf"}).fillna("file")))
    assert (table["pages"] == 11).all() and table["cer"].tolist() == [0.0, 0.0], "the misread page has the other truth"
    assert "not mixed in: 1 with the PDF's text layer" in capsys.readouterr().out


def test_speed_stands_against_each_runs_own_limit(two):
    table = speed_across(rows_across(two), two).set_index("run")
    # The embedded reader's text layers and head are 1.25 million numbers of 4 bytes: 0.5 ms at 10 GB/s, of 4 ms.
    assert table.loc["one", "tpot_share"] == pytest.approx(0.125, rel=0.1)
    assert table.loc["two", "tpot_share"] != table.loc["two", "tpot_share"]  # not measured there
    assert "did not measure this machine's limits in float32" in table.loc["two", "why_no_share"]
    displayed: list[pd.DataFrame] = []
    Cells("09-compare", rows=rows_across(two), folders=two, display=displayed.append).run("speed = speed_across")
    assert displayed[0]["share of the limit"].tolist() == ["13%", table.loc["two", "why_no_share"]]


def test_texts_that_differ_are_named_with_their_place(two):
    pairs, different = texts_across(two)
    assert pairs[["run", "other", "machine", "other_machine"]].to_numpy().tolist() == [["one", "two", "M", "N"]]
    assert pairs[["readings", "same", "other_weights"]].to_numpy().tolist() == [[12, 11, 0]]
    (line,) = different.to_dict("records")
    assert line["page"] == "p00" and line["at"] == 1 and line["one"] == "abcdefghij" and line["two"] == "xxxxefghij"


def test_other_weights_and_sampling_are_not_compared(tmp_path):
    folders = [run(tmp_path / "one", "M"), run(tmp_path / "two", "M", wrong=4, revision="2")]
    pairs, different = texts_across(folders)
    assert pairs[["readings", "same", "other_weights"]].to_numpy().tolist() == [[0, 0, 12]] and different.empty
    assert quality_across(rows_across(folders))["runs"].tolist() == [1, 1]


def test_stability_is_between_runs_of_one_machine_and_between_repeats(tmp_path):
    folders = [
        run(tmp_path / "one", "M", repeats=2),
        run(tmp_path / "two", "M", page_s=0.3),
        run(tmp_path / "three", "N"),
    ]
    moved = stability(rows_across(folders))
    pages = moved[moved["figure"] == "seconds per page"].set_index("between")
    between = pages.loc[["runs"]]
    assert (between["machine"] == "M").all() and between["count"].tolist() == [2, 2]
    assert between["ratio"].tolist() == [pytest.approx(0.355 / 0.255), pytest.approx(0.3 / 0.21)]
    repeats = pages.loc[["repeats"]]
    assert repeats["ratio"].tolist() == [pytest.approx(1.1)] and repeats["pages"].tolist() == [2]
    assert _said_of(folders) == ""


def _said_of(folders: list[Path]) -> str:
    """What the notebook says that these runs cannot tell."""
    return (
        Cells(
            "09-compare",
            run_folders=lambda *_: folders,
            results_folders=[],
            display=lambda table: None,
        )
        .run("folders = run_folders")
        .said
    )


def test_what_one_run_or_none_cannot_tell_is_said(tmp_path):
    one = [run(tmp_path / "one", "M")]
    assert [words.split(":")[0] for words in _said_of(one).splitlines() if not words.startswith("`")] == [
        "One run only or none",
        "All rows are of one machine",
        "No machine has two runs",
    ]
    assert stability(rows_across(one)).empty and texts_across(one)[0].empty
    none = rows_across([])
    assert "No rows here yet" in _said_of([]) and quality_across(none).empty and speed_across(none, []).empty
    cells = Cells("09-compare", rows=none, folders=[], quality=quality_across(none))
    assert "nothing to draw" in cells.run("figure = plots.nothing").shown.axes[0].texts[0].get_text()
    assert "No run has scored rows" in cells.run("if quality.empty").said
    assert "nothing to draw" in cells.run("moved = stability").shown.axes[0].texts[0].get_text()
    assert cells.run("worst = moved").shown.empty


def test_a_run_of_an_earlier_version_lacks_settings_and_counts_all_the_same(tmp_path):
    old = reading()
    del old["asked"]["cache_implementation"]
    assert (
        len(quality_across(rows_across([write_run(tmp_path / "a", old, reading("p2")), run(tmp_path / "b", "M")]))) == 2
    )


def test_runs_are_found_by_name_and_path_and_a_missing_one_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("OCRLAB_RUN_FOLDER", raising=False)
    run(tmp_path / "results" / "one", "M")
    run(tmp_path / "elsewhere", "M")
    (tmp_path / "results" / ".adding-x").mkdir()
    results = tmp_path / "results"
    assert [f.name for f in run_folders(results)] == ["one"]
    assert [f.name for f in run_folders(results, ["one", str(tmp_path / "elsewhere")])] == ["one", "elsewhere"]
    with pytest.raises(ValueError, match=r"two: no run there; the runs in results/ are: one"):
        run_folders(results, ["two"])
    monkeypatch.setenv("OCRLAB_RUN_FOLDER", str(tmp_path / "elsewhere"))
    assert [f.name for f in run_folders(results)] == ["elsewhere"]
    run(results / "two", "M")
    assert [f.name for f in run_folders(results, ["one", "*"])] == ["one", "two"]


def test_whose_rows_answer(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(paths, "BUILD", tmp_path / "build")
    monkeypatch.delenv("OCRLAB_RUN_FOLDER", raising=False)
    folders, heading, decides = source_of()
    assert [f.name for f in folders] == ["reference-cpu"] and "reference-cpu, of another machine" in heading
    assert not decides
    run(tmp_path / "build" / "scratch", "M")
    assert source_of() == ([tmp_path / "build" / "scratch"], "Rows of this run, scratch", True)
    monkeypatch.setenv("OCRLAB_RUN_FOLDER", str(tmp_path / "results" / "empty"))
    assert source_of() == ([tmp_path / "results" / "empty"], "Rows of this run, empty", True)
    named = run(tmp_path / "results" / "my-card", "M")
    assert source_of(["my-card"]) == ([named], "Rows of my-card, as named", True)


def test_texts_differ_first_at_a_letter_as_a_person_counts():
    found = first_difference("при́вет!\n", "при́вёт!")
    assert (
        found is not None and found.at == 4 and found.shared == "при́в" and found.one == "ет!" and found.other == "ёт!"
    )
    assert str(found) == "at letter 5, after 'при́в': 'ет!' against 'ёт!'"
    assert first_difference("a\r\n", "a") is None and first_difference("", "") is None
    assert replace(found, at=0) != found


def test_the_notebook_sees_planted_differences_in_a_copy_of_the_reference_run(tmp_path):
    planted = tmp_path / "planted"
    (planted / "readings").mkdir(parents=True)
    reference = paths.RESULTS / "reference-cpu"
    (file,) = record_files(reference / "readings", "04-pixels")
    readings = [one | {"machine": "another machine"} for one in read_records(file)]
    page = readings[-1]["page"]
    changed = [one["text"][:1] + "§" + one["text"][2:] if one["page"] == page else one["text"] for one in readings]
    lines = [json.dumps(one | {"text": text}) for one, text in zip(readings, changed, strict=True)]
    (planted / "readings" / "04-pixels.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (planted / "run.json").write_text("{}", encoding="utf-8")
    given = {"results_folders": ["reference-cpu", str(planted)]}
    output = tmp_path / "09.ipynb"
    outcome = run_notebook(
        paths.NOTEBOOKS / "09-compare.ipynb", output, given, {"OCRLAB_RUN_FOLDER": str(tmp_path)}, 120
    )
    assert outcome.status == "ok", outcome
    cells = nbformat.read(output, as_version=4).cells
    said = "".join(
        o.get("text") or o.get("data", {}).get("text/plain", "") for c in cells for o in c.get("outputs", [])
    )
    assert "2 runs on 2 machines." in said and page in said and "§" in said
    same = sum(one["page"] != page for one in readings)
    assert len(readings) > same > 0
    assert f"{same} of {len(readings)} readings in common have the same text." in said
    assert "Seconds per page between repeats of one machine: up to" in said and "no difference seen" in said
    assert sum("image/png" in o.get("data", {}) for c in cells for o in c.get("outputs", [])) == 2
