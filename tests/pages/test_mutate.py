"""A few of the damaged files that `python -m tests.pages.mutate` makes by the thousand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.pages import mutate


def test_damaged_files_of_every_format_are_opened_or_refused_by_name(tmp_path: Path) -> None:
    found = mutate.tried(165, 3, tmp_path / "kept", slow_s=60)
    ends = {outcome.partition(": .")[2] for outcome in found} - {""}
    assert ends == set(mutate.originals()) and found["opened"] > 20 < found["refused"]
    assert found["opened"] + found["refused"] == 165, found
    assert not (tmp_path / "kept").exists()


def test_the_same_seed_makes_the_same_files() -> None:
    first, again, other = ([*mutate.mutants(30, seed)] for seed in (1, 1, 2))
    assert first == again != other


def test_what_ends_its_process_is_counted_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutate, "mutants", lambda count, seed: [("0.png", b"x"), ("1.end", b"end"), ("2.png", b"x")])
    monkeypatch.setattr(mutate, "_serve", _dies)
    found = mutate.tried(3, 0, tmp_path / "kept")
    assert (found["opened"], found["crashed with 9"]) == (2, 1)
    assert [file.name for file in (tmp_path / "kept").iterdir()] == ["1.end"]


def _dies(asked) -> None:  # type: ignore[no-untyped-def]
    for file in iter(asked.recv, None):
        if file.suffix == ".end":
            os._exit(9)
        asked.send(("opened", 0))
