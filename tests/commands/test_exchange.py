"""Share on one machine, add on another: rows are scored again, pages built again, and what is there already stays."""

import json
import subprocess
import zipfile
from pathlib import Path

import pytest

from ocrlab import paths
from ocrlab.commands.cli import main
from ocrlab.commands.exchange import add_run, share_run
from ocrlab.commands.parameters import CommandError
from ocrlab.report.share import MANIFEST, ShareError, manifest
from ocrlab.study.records import load_rows
from tests.notebooks import display, picture, ran, write
from tests.report.test_share import unpacked
from tests.runs import reading, write_run


@pytest.fixture
def bundle(tmp_path, capsys) -> Path:
    """A zip of a run with two readings and a notebook, made by `share`."""
    run = write_run(
        tmp_path / "there" / "my-card",
        reading("p1", "abX", "abc"),
        reading("p2", "abc", "abc"),
        notebooks={"a": {"status": "ok", "profile": "gpu", "seconds": 1.5}},
    )
    write(run / "notebooks" / "a.ipynb", "# A?", ran("x", display(image_png=picture("red"))))
    assert share_run("my-card", None, str(tmp_path / "my-card.zip"), tmp_path / "there") == 0
    assert "were read from pages, and their truth, are inside" in capsys.readouterr().out
    return tmp_path / "my-card.zip"


def test_a_run_travels(tmp_path, bundle, capsys):
    results = tmp_path / "here"
    assert add_run(str(bundle), None, results) == 0
    said = capsys.readouterr().out
    assert str(results / "my-card" / "index.html") in said and "make verify RUN=my-card" in said
    rows = load_rows(results / "my-card").set_index("page")
    assert rows["cer"].to_dict() == {"p1": pytest.approx(1 / 3), "p2": 0.0}
    record = json.loads((results / "my-card" / "run.json").read_text(encoding="utf-8"))
    assert record["added"]["file"] == "my-card.zip" and record["commit"] == "a" * 40
    index = (results / "my-card" / "index.html").read_text(encoding="utf-8")
    assert "Added from elsewhere (my-card.zip" in index
    # Its rows would count as readings of this machine, were its notebooks run again in its own folder.
    assert "make reproduce ONLY=a RUN=my-card-here PROFILE=gpu" in index
    assert "added from elsewhere" in (results / "index.html").read_text(encoding="utf-8")
    assert sorted(f.name for f in results.iterdir()) == ["index.html", "my-card", "style.css"]


def test_what_is_there_stays_and_another_name_is_taken(tmp_path, bundle):
    results = tmp_path / "here"
    mine = write_run(results / "my-card", reading("mine"))
    before = {f: f.read_bytes() for f in mine.rglob("*") if f.is_file()}
    with pytest.raises(CommandError, match=r"is there already and stays as it is.* --as my-card-2"):
        add_run(str(bundle), None, results)
    assert {f: f.read_bytes() for f in mine.rglob("*") if f.is_file()} == before
    assert add_run(str(bundle), "my-card-2", results) == 0
    assert json.loads((results / "my-card-2" / "run.json").read_text(encoding="utf-8"))["run"] == "my-card-2"
    with pytest.raises(CommandError, match=r"--as \.\./x: not a folder name"):
        add_run(str(bundle), "../x", results)
    assert sorted(f.name for f in results.iterdir()) == ["index.html", "my-card", "my-card-2", "style.css"]


def changed(bundle: Path, name: str, data: bytes | None) -> Path:
    files = unpacked(bundle) | {name: data or b""}
    files.pop(MANIFEST)
    if data is None:
        files.pop(name)
    with zipfile.ZipFile(bundle, "w") as archive:
        for file, content in (files | {MANIFEST: manifest("my-card", files)}).items():
            archive.writestr(file, content)
    return bundle


def test_scores_and_pages_that_were_made_up_are_not_taken_over(tmp_path, bundle):
    scored = b'{"key": "1", "page": "p1", "cer": 0.0, "cer_edits": 0}\n'  # as earlier versions kept them
    changed(bundle, "rows/e.jsonl", scored)
    changed(bundle, "index.html", b"<script>window.pwned=1</script>")
    changed(bundle, "report.md", b"<script>window.pwned=1</script>")
    assert add_run(str(bundle), None, tmp_path / "here") == 0
    assert not (tmp_path / "here" / "my-card" / "rows").exists()
    assert load_rows(tmp_path / "here" / "my-card").set_index("page")["cer_edits"].to_dict() == {"p1": 1, "p2": 0}
    for name in ("index.html", "report.md"):
        assert "pwned" not in (tmp_path / "here" / "my-card" / name).read_text(encoding="utf-8")


def test_a_run_without_its_record_is_refused_and_leaves_nothing(tmp_path, bundle):
    changed(bundle, "run.json", None)
    with pytest.raises(ShareError, match=r"no run\.json in it"):
        add_run(str(bundle), None, tmp_path / "here")
    assert list((tmp_path / "here").iterdir()) == []


def test_notebooks_of_an_older_zip_are_passed_over_with_a_word(tmp_path, bundle, capsys):
    changed(bundle, "notebooks/a.ipynb", b"{")
    assert add_run(str(bundle), None, tmp_path / "here") == 0
    assert "drawn from the records: 1 files of notebooks and pictures" in capsys.readouterr().out
    run = tmp_path / "here" / "my-card"
    assert not (run / "notebooks").exists() and {f.name for f in run.glob("*.html")} == {"index.html", "readings.html"}


def test_a_run_of_findings_alone_travels_too(tmp_path, capsys):
    run = write_run(tmp_path / "there" / "probes")
    (run / "findings").mkdir()
    (run / "findings" / "ceilings.jsonl").write_text('{"ceiling": "copy", "machine": "M"}\n', encoding="utf-8")
    assert (
        share_run(str(run), None, str(tmp_path / "p.zip")) == 0
        and add_run(str(tmp_path / "p.zip"), None, tmp_path) == 0
    )
    assert (tmp_path / "probes" / "findings" / "ceilings.jsonl.gz").is_file() and (
        tmp_path / "probes" / "index.html"
    ).is_file()


def test_the_commands_say_what_is_wrong(tmp_path, capsys):
    assert main(["share", "absent"]) == 2 and "no run there" in capsys.readouterr().err
    assert main(["add", str(tmp_path / "absent.zip")]) == 2 and "cannot be read" in capsys.readouterr().err
    assert main(["verify", "absent"]) == 2 and "no run there" in capsys.readouterr().err
    assert main(["verify", "--share", "0"]) == 2 and "above 0 and at most 1" in capsys.readouterr().err
    run = write_run(tmp_path / "r", reading())
    assert main(["share", str(run), "--to", str(tmp_path / "no" / "r.zip")]) == 2
    assert "choose --to" in capsys.readouterr().err


def test_make_hands_names_on_and_nothing_that_was_not_given():
    """`make -n` shows what make would run: a file's name stays one word, and make's own variables stay out of it."""

    def shown(*arguments: str) -> str:
        command = ["make", "--no-print-directory", "-n", "-o", ".venv/.ready", *arguments]
        return subprocess.run(command, cwd=paths.ROOT, capture_output=True, text=True, check=True).stdout.strip()

    assert shown("add", "RUN=/a b.zip", "AS_NAME=x").endswith('-m ocrlab add "/a b.zip" --as "x"')
    assert shown("add", "RUN=r.zip").endswith('-m ocrlab add "r.zip"')
    assert shown("share", "RUN=r").endswith('-m ocrlab share "r"')
    assert shown("share", "RUN=r", "WITH_IMAGES=/s", "TO=t").endswith('share "r" --with-images "/s" --to "t"')
    assert shown("verify", "RUN=r").rstrip("\\\n\t ").endswith('-m ocrlab verify "r"')
