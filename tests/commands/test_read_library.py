"""`python -m ocrlab read --out`: a library into text files, resumed, interrupted, refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ocrlab import paths
from ocrlab.commands import read
from ocrlab.commands.cli import main
from ocrlab.commands.library import RECORDS
from ocrlab.pages import load_pages
from ocrlab.scoring.outcomes import WITH_TEXT

posix = pytest.mark.skipif(os.name != "posix", reason="POSIX signals")


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Two folders, a PDF of two pages, a TIFF of two, a broken PDF, and a truth."""
    images = [page.open() for page in load_pages("lines", limit=6)]
    folder = tmp_path / "library"
    for i, image in enumerate(images[:3]):
        (folder / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        image.save(folder / "ab"[i % 2] / f"p{i}.png")
    (folder / "a" / "p0.gt.txt").write_text(load_pages("lines", limit=1)[0].truth or "", encoding="utf-8")
    images[3].save(folder / "book.pdf", save_all=True, append_images=[images[4]], resolution=150)
    same = [image.resize((320, 32)) for image in images[4:6]]
    same[0].save(folder / "b" / "scan.tif", save_all=True, append_images=same[1:])
    (folder / "broken.pdf").write_bytes(b"%PDF-1.7 no more")
    return folder


NAMES = [
    "a/p0.png.txt",
    "a/p2.png.txt",
    "b/p1.png.txt",
    "b/scan.tif.p0001.txt",
    "b/scan.tif.p0002.txt",
    "book.pdf.p0001.txt",
    "book.pdf.p0002.txt",
]


def texts(out: Path) -> list[str]:
    return sorted(str(file.relative_to(out)) for file in out.rglob("*.txt"))


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / RECORDS).read_text(encoding="utf-8").splitlines()]


def test_a_library_is_mirrored_resumed_and_never_read_twice(
    library: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["read", str(library), "--out", str(out), "--batch_size", "4", "--max_new_tokens", "64"]
    assert main([*command, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "8 pages, 8 to read" in said and "broken.pdf" in said and "GiB predicted" in said and not out.exists()
    assert main(command) == 1
    _, err = capsys.readouterr()
    assert texts(out) == NAMES and "broken.pdf" in err and "1 of 8 pages" in err
    by_file = {(Path(r["file"]).name, r["page_number"]): r for r in records(out)}
    assert len(by_file) == 8
    assert by_file["p0.png", None]["cer"] is not None and by_file["p2.png", None]["cer"] is None
    assert by_file["book.pdf", 2]["text"] == (out / "book.pdf.p0002.txt").read_text(encoding="utf-8").rstrip("\n")
    # A killed run may have saved a reading and not yet its text; a page may be added; the rest is not read again.
    (out / NAMES[0]).unlink()
    load_pages("lines", limit=1)[0].open().save(library / "b" / "new.png")
    assert main(command) == 0
    assert "8 of 9 pages were read before" in capsys.readouterr().err
    assert texts(out) == sorted([*NAMES, "b/new.png.txt"]) and len(records(out)) == 9
    assert main([*command, "--retry-failed"]) == 1, "the broken file is tried again"
    assert len(records(out)) == 10


def test_beside_names_are_never_taken_for_truth(library: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["read", str(library / "a"), "--beside", "--max_new_tokens", "64"]) == 0
    assert {file.name for file in (library / "a").iterdir()} == {
        "p0.png",
        "p0.gt.txt",
        "p0.png.txt",
        "p2.png",
        "p2.png.txt",
        RECORDS,
    }
    assert [page.truth is not None for page in load_pages(library / "a")] == [True, False]


def test_a_list_on_standard_input_and_a_foreign_text_file(library: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "ocrlab", "read", "-", "--out", str(out), "--max_new_tokens", "8"]
    listed = "a/p0.png\n\nb/nothing.png\n"
    done = subprocess.run(command, input=listed, capture_output=True, text=True, cwd=library, check=False)
    assert done.returncode == 1 and "line 3" in done.stderr and texts(out) == ["a/p0.png.txt"]
    (out / "a" / "p2.png.txt").write_text("mine")
    done = subprocess.run(command, input="a/p2.png\n", capture_output=True, text=True, cwd=library, check=False)
    assert done.returncode == 2 and "was not written by this reading" in done.stderr
    assert (out / "a" / "p2.png.txt").read_text() == "mine"


@posix
def test_ctrl_c_finishes_the_page_in_hand_and_the_same_command_goes_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ocrlab", "read", "labels", "--limit", "30", "--out", str(tmp_path)]
    going = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=paths.ROOT)
    while not (tmp_path / RECORDS).exists() or len(records(tmp_path)) < 3:
        assert going.poll() is None
        time.sleep(0.05)
    going.send_signal(signal.SIGINT)
    _, err = going.communicate(timeout=60)
    assert going.returncode == 130 and "stopping after the pages in hand" in err
    assert "the same command goes on from here" in err and "Traceback" not in err
    before = len(records(tmp_path))
    assert 3 <= before < 30 and len(texts(tmp_path)) == before
    done = subprocess.run(command, capture_output=True, text=True, cwd=paths.ROOT, check=False)
    assert f"{before} of 30 pages were read before" in done.stderr
    pages = [record["page"] for record in records(tmp_path)]
    assert len(pages) == len(set(pages)) == 30


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["lines", "--workers", "0"], "from 1 on"),
        (["lines", "--workers", "cuda:9", "--limit", "1"], "cuda:9"),
        (["lines", "--workers", "cpu:x:y", "--limit", "1"], "device"),
        (["lines", "--prepare", "-1"], "--prepare"),
        (["lines", "--engine", "ray", "--address", "127.0.0.1:1", "--limit", "1"], "ray start --head"),
        (["-"], "no page found"),
    ],
)
def test_unusable_arguments(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Empty:
        class buffer:
            read = staticmethod(lambda: b"")

    monkeypatch.setattr(sys, "stdin", Empty)
    assert main(["read", *arguments]) == 2
    assert says in capsys.readouterr().err


def test_the_recommended_preset_is_the_newest_run_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ocrlab.machine.describe import describe_machine

    monkeypatch.setattr(paths, "RESULTS", tmp_path)
    assert main(["read", "lines", "--preset", "recommended"]) == 2
    assert "no run on this machine" in capsys.readouterr().err
    for name, machine in (("old", describe_machine()), ("other", {"cpu": "another"})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps({"started": name, "machine": machine}))
        (tmp_path / name / "recommended.yaml").write_text("max_new_tokens: 5\nbatch_size: 2\n")
    assert main(["read", "lines", "--limit", "2", "--preset", "recommended", "--json"]) == 1
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert {(line["max_new_tokens"], line["batch_pages"]) for line in said} == {(5, 2)}


def test_names_of_every_sort_and_files_of_one_stem_keep_their_texts_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out, longest = tmp_path / "in", tmp_path / "out", "x" * 251 + ".png"
    folder.mkdir()
    images = [page.open() for page in load_pages("lines", limit=9)]
    names = [
        "a.png",
        "a.jpg",
        "two words.png",
        "📄 счёт.png",
        "דף אחד.png",
        "line\nbreak.png",
        longest,
        "é" * 123 + ".jpg",
    ]
    for name, image in zip(names, images, strict=False):
        image.save(folder / name)
    longer = longest.replace(".png", ".gif")  # cut, it would have the text file of the other one
    images[8].save(folder / longer)
    (folder / "letter.docx").write_bytes(b"PK\x03\x04")
    command = ["read", str(folder), "--out", str(out), "--batch_size", "4", "--max_new_tokens", "8", "--json"]
    assert main(command) == 1
    said = capsys.readouterr()
    assert "soffice --headless --convert-to pdf letter.docx" in said.out
    kept = {record["file"]: record for record in records(out)}
    assert len(kept) == 10 and [Path(f).name for f in kept if kept[f]["status"] == "error"] == ["letter.docx"]
    written = sorted(file.read_text(encoding="utf-8").rstrip("\n") for file in out.glob("*.txt"))
    assert written == sorted(record["text"] for record in kept.values() if record["status"] in WITH_TEXT)
    assert {"a.png.txt", "a.jpg.txt", "line\nbreak.png.txt"} <= set(texts(out))
    assert main(command) in (0, 1) and len(records(out)) == 10


def test_a_folder_that_changes_while_it_is_read_costs_the_pages_that_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    images = [page.open() for page in load_pages("lines", limit=4)]
    for name, image in zip(("gone.png", "other.png", "shorter.png", "stays.png"), images, strict=True):
        image.save(folder / name)
    listed = read.gather

    def gather(*given: Any, **options: Any) -> Any:
        found = listed(*given, **options)
        (folder / "gone.png").unlink()
        images[0].save(folder / "other.png")
        (folder / "shorter.png").write_bytes((folder / "shorter.png").read_bytes()[:99])
        return found

    monkeypatch.setattr(read, "gather", gather)
    assert main(["read", str(folder), "--out", str(out), "--max_new_tokens", "8"]) == 1
    capsys.readouterr()
    kept = {Path(record["file"]).name: record for record in records(out)}
    assert [kept[name]["status"] == "error" for name in ("gone.png", "other.png", "shorter.png")] == [True] * 3
    assert kept["stays.png"]["status"] in WITH_TEXT
    assert "no such file" in kept["gone.png"]["reason"] and str(folder / "gone.png") in kept["gone.png"]["reason"]
    assert f"{folder / 'other.png'}: was changed after it was listed" in kept["other.png"]["reason"]
