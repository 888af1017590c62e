"""The drawing repeats bit for bit where its fonts are; where not, it says why."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from data.recipes import pages
from ocrlab import paths


@pytest.fixture(scope="module")
def drawing_is_possible() -> None:
    """Skip where another drawing than ours is to be expected."""
    from data.recipes.fonts import FontsMissing, load_fonts

    pytest.importorskip("wordfreq", reason="needs the `train` extra")
    pytest.importorskip("fontTools", reason="needs the `train` extra")
    try:
        load_fonts("train"), load_fonts("held_out")
    except FontsMissing as missing:
        pytest.skip(str(missing))
    recorded = json.loads((paths.PAGES / "generator.json").read_text(encoding="utf-8"))
    if recorded != pages.generator():
        pytest.skip(f"drawn by {recorded}; here are {pages.generator()}")


def boxes_of(name: str) -> list[dict[str, object]]:
    lines = (paths.PAGES / name / pages.BOXES).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("name", sorted(pages.SETS))
@pytest.mark.usefixtures("drawing_is_possible")
def test_the_first_and_last_pages_repeat_bit_for_bit(name: str, tmp_path: Path) -> None:
    manifest = (paths.PAGES / name / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(manifest) == pages.SETS[name].count
    for index in (0, 1, 2, 3, 4, len(manifest) - 1):
        entry, boxes = pages.write_page(tmp_path, name, index)
        assert entry == json.loads(manifest[index])
        assert not boxes["words"] or boxes == boxes_of(name)[index]
        assert (tmp_path / name / entry["file"]).read_bytes() == (paths.PAGES / name / entry["file"]).read_bytes()


def test_differences_are_named_with_their_kind(tmp_path: Path) -> None:
    from PIL import Image

    name = "sizes"
    for folder in ("ours", "again"):
        shutil.copytree(paths.PAGES / name, tmp_path / folder / name)
    ours, again = tmp_path / "ours", tmp_path / "again"
    assert list(pages.differences(ours, again)) == []
    with Image.open(again / name / "001.png") as image:
        image.load()
    image.save(again / name / "001.png", compress_level=0)
    image.point(lambda value: 255 - value).save(again / name / "002.png")
    (again / name / "003.png").unlink()
    (ours / name / "004.png").unlink()
    (again / name / "manifest.jsonl").write_text("{}", encoding="utf-8")
    assert list(pages.differences(ours, again)) == [
        f"{name}/001.png: same pixels, packed by another zlib",
        f"{name}/002.png: other pixels",
        f"{name}/003.png: not drawn by this generator",
        f"{name}/004.png: missing in {ours}",
        f"{name}/manifest.jsonl: another text",
    ]


def drawn_by(folder: Path, **changed: str) -> None:
    (folder / "generator.json").write_text(json.dumps(pages.generator() | changed), encoding="utf-8")


def test_check_gives_the_reason_and_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in pages.SETS:
        (tmp_path / name).mkdir()
    drawn_by(tmp_path)
    monkeypatch.setattr(pages, "write_all", lambda folder: [(folder / name).mkdir() for name in pages.SETS])
    assert pages.main(["--check", "--out", str(tmp_path)]) == 0
    assert "identical" in capsys.readouterr().out
    (tmp_path / "sizes" / "001.png").write_bytes(b"extra")
    drawn_by(tmp_path, freetype2="2.0.1")
    assert pages.main(["--check", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "sizes/001.png: not drawn" in said and "freetype2 2.0.1 drew them" in said


def test_a_missing_package_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(*_: object) -> None:
        raise ModuleNotFoundError("No module named 'wordfreq'")

    monkeypatch.setattr(pages, "write_all", missing)
    assert pages.main(["--check", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "wordfreq" in said and "ocrlab[train]" in said


def test_missing_fonts_are_told_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(*_: object) -> None:
        raise pages.FontsMissing("fonts-lato: Lato-Bold.ttf. On Debian 12: apt-get install fonts-lato")

    monkeypatch.setattr(pages, "write_all", missing)
    assert pages.main(["--out", str(tmp_path)]) == 2
    assert "apt-get install fonts-lato" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
