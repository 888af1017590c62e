"""Sets, manifests and spreads of pages: hashes are checked, and a short run sees every kind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ocrlab import paths
from ocrlab.pages import PageError, load_pages, set_names


def test_a_changed_page_of_ours_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(paths.PAGES / "sizes", tmp_path / "sizes")
    monkeypatch.setattr(paths, "PAGES", tmp_path)
    first = load_pages("sizes", limit=2)[0]
    first.file.write_bytes(first.file.read_bytes() + b"\0")
    changed, untouched = load_pages("sizes", limit=2)
    assert changed.refused and "sha256" in changed.problem and not untouched.refused


def test_our_hashes_cannot_be_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(paths.PAGES / "sizes", tmp_path / "sizes")
    shutil.copytree(paths.PAGES / "sizes", tmp_path / "mine")
    for name in ("sizes", "mine"):
        manifest = tmp_path / name / "manifest.jsonl"
        entries = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
        manifest.write_text("\n".join(json.dumps(e | {"sha256": ""}) for e in entries), encoding="utf-8")
    monkeypatch.setattr(paths, "PAGES", tmp_path)
    assert "no sha256" in load_pages("sizes", limit=1)[0].problem
    assert load_pages("mine", limit=1)[0].problem == ""
    assert set_names() == ["sizes", "mine"]


def test_spread_keeps_pages_of_every_kind() -> None:
    pages = load_pages("sizes", spread=10)
    assert [page.kind for page in pages] == [f"{size}px" for size in (12, 16, 24, 32, 44) for _ in range(2)]
    assert load_pages("sizes", spread=1000) == load_pages("sizes")
    with pytest.raises(PageError, match="spread=0"):
        load_pages("sizes", spread=0)
