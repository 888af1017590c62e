"""`verify` with the embedded reader itself: the same texts come out again, planted differences are found."""

import json
from pathlib import Path

import pytest

from ocrlab import paths
from ocrlab.commands.cli import main
from ocrlab.commands.exchange import verify
from ocrlab.pages import load_pages
from ocrlab.reading.settings import Settings
from ocrlab.study.experiment import run_experiment
from ocrlab.study.records import load_rows, read_records
from ocrlab.study.rereading import absent_pages, dpis_of, draw, pages_by_hash, repeatable
from tests.runs import reading

BASE = Settings(dtype="float32", max_new_tokens=48)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of four lines, read here and now."""
    folder = tmp_path_factory.mktemp("results") / "mine"
    run_experiment("lines", [BASE], load_pages("lines", limit=4), folder=folder)
    return folder


@pytest.fixture
def edited(run, tmp_path):
    """A copy of the run, each reading changed by a function."""

    def edit(change) -> Path:
        folder = tmp_path / "results" / "edited"
        (folder / "readings").mkdir(parents=True)
        lines = (run / "readings" / "lines.jsonl").read_text(encoding="utf-8").splitlines()
        changed = [json.dumps(change(json.loads(line)), ensure_ascii=False) for line in lines]
        (folder / "readings" / "lines.jsonl").write_text("\n".join(changed) + "\n", encoding="utf-8")
        (folder / "run.json").write_text('{"run": "edited", "notebooks": {}}', encoding="utf-8")
        return folder

    return edit


def test_the_same_texts_come_out_again_from_the_folder_that_the_run_read(tmp_path, edited, capsys):
    (tmp_path / "scans").mkdir()
    for page in load_pages("lines", limit=4):
        (tmp_path / "scans" / page.file.name).write_bytes(page.file.read_bytes())
    folder = edited(lambda one: one | {"set": "scans", "page": f"{one['page'].removeprefix('lines-')}.png"})
    record = {"run": "edited", "notebooks": {"04-pixels": {"parameters": {"page_set": str(tmp_path / "scans")}}}}
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    assert verify("edited", results=folder.parent) == 0
    said = capsys.readouterr().out
    assert "edited: 3 pages (seed 0), 3 readings" in said and "3 same text, 0 different, 0 left out" in said
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before  # nothing is written


def test_pages_in_folders_below_and_leaves_at_another_resolution_are_found(tmp_path, capsys):
    (tmp_path / "scans" / "below").mkdir(parents=True)
    images = [page.open() for page in load_pages("lines", limit=2)]
    images[0].save(tmp_path / "scans" / "below" / "p.png")
    images[0].save(tmp_path / "scans" / "book.pdf", save_all=True, append_images=images[1:], resolution=200)
    pages = load_pages(tmp_path / "scans", recursive=True, dpi=200)
    assert [page.id for page in pages] == ["below/p.png", "book.pdf#1", "book.pdf#2"]
    folder = tmp_path / "results" / "leaves"
    rows = run_experiment("leaves", [BASE], pages, folder=folder)
    (folder / "run.json").write_text('{"run": "leaves", "notebooks": {}}', encoding="utf-8")
    assert list(rows["page_number"].fillna(0)) == [0, 1, 2] and list(rows["dpi"].fillna(0)) == [0, 200, 200]
    stored = folder / "readings" / "leaves.jsonl"
    stored.write_text(stored.read_text(encoding="utf-8").replace('"page_number"', '"leaf"'), encoding="utf-8")
    assert list(load_rows(folder)["page_number"].fillna(0)) == [0, 1, 2], "as earlier versions wrote it"
    assert verify(str(folder), pages=str(tmp_path / "scans")) == 0
    said = capsys.readouterr()
    assert (
        "3 pages (seed 0), 3 readings\n3 same text, 0 different, 0 left out" in said.out and "not found" not in said.err
    )
    (tmp_path / "scans" / "book.pdf").write_bytes((tmp_path / "scans" / "book.pdf").read_bytes() + b"\n")
    readings = read_records(folder / "readings" / "leaves.jsonl")
    here = pages_by_hash([tmp_path / "scans"], dpis_of(readings))
    absent = absent_pages(readings, here, [tmp_path / "scans"])
    assert list(absent) == ["book.pdf#1", "book.pdf#2"]
    assert all(reason.startswith("its file has changed since") for reason in absent.values())


def test_a_row_of_an_image_tells_no_leaf(run):
    rows = load_rows(run)
    assert len(rows) == 4 and not {"page_number", "dpi"} & set(rows.columns)


def test_a_planted_difference_a_changed_page_and_other_weights_are_told_apart(edited, capsys):
    def change(one):
        changes = {
            "lines-001": {"page_sha256": "0" * 64},
            "lines-002": {"text": one["text"][:2] + "§" + one["text"][3:]},
            "lines-003": {"actual": one["actual"] | {"actual_revision": "sha256:other"}},
        }
        return one | changes.get(one["page"], {})

    assert verify(str(edited(change)), share=1.0) == 1
    caught = capsys.readouterr()
    assert (
        "lines-002 (lines: dtype=float32, max_new_tokens=48): at letter 3, after" in caught.out and "'§" in caught.out
    )
    assert "1 same text, 1 different, 1 left out" in caught.out
    assert "page lines-001: its file has changed since (sha256 000000000000… then, " in caught.err
    assert "the weights differ: sha256:other then, sha256:" in caught.err


def test_a_setting_that_cannot_be_here_is_left_out_with_its_reason(edited, capsys):
    def asked(one):
        return one | {"asked": one["asked"] | {"attn_implementation": "flash_attention_3", "dtype": "bfloat16"}}

    assert verify(str(edited(asked))) == 2
    assert "cannot be read here: flash_attention_3" in capsys.readouterr().err


def test_what_cannot_be_compared_is_said(edited, capsys):
    folder = edited(lambda one: one | {"page_sha256": "0" * 64, "set": "gone"})
    assert main(["verify", str(folder)]) == 2
    said = capsys.readouterr().err
    assert "not found here; name the folder that holds it" in said and "nothing to compare" in said
    assert main(["verify", str(folder), "--only", "other"]) == 2
    assert "has no readings of other" in capsys.readouterr().err
    (folder / "readings" / "lines.jsonl").write_text("{\n", encoding="utf-8")
    assert main(["verify", str(folder)]) == 2 and "line 1 is not JSON" in capsys.readouterr().err


def test_the_reference_runs_texts_come_out_again(capsys):
    """The bar of `make verify`, over three pages and one experiment; `make verify RUN=reference-cpu` does the rest."""
    code = verify(str(paths.RESULTS / "reference-cpu"), share=0.001, only="04-pixels")
    said = capsys.readouterr()
    if "the weights differ" in said.err:
        pytest.skip("the embedded reader is newer than the reference run: `make reproduce` that run again")
    assert code == 0, said
    assert "3 pages (seed 0), 15 readings\n15 same text, 0 different, 0 left out" in said.out


def test_the_draw_is_a_tenth_and_the_same_for_a_seed():
    hashes = [f"{n:064x}" for n in range(340)]
    assert len(draw(hashes, 0.1, 0)) == 34 and draw(hashes, 0.1, 0) == draw(hashes[::-1], 0.1, 0) != draw(
        hashes, 0.1, 1
    )
    assert len(draw(hashes[:20], 0.1, 0)) == 3 and draw(hashes[:2], 0.1, 0) == hashes[:2]


def test_only_what_must_come_out_again_is_compared():
    asked = [
        {"do_sample": True},
        {"do_sample": None},
        {"min_new_tokens": 5},
        {"weights": "dummy"},
        {"trust_remote_code": True, "revision": "a" * 40},
    ]
    others = [reading(asked=one) for one in asked] + [reading(status="oom"), reading(repeat=1), reading("p2")]
    kept = repeatable([reading(), *others])
    assert [(one["page"], one["repeat"]) for one in kept] == [("p1", 0), ("p2", 0)]
