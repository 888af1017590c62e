"""Findings are of the machine as it is: kept with its name and versions, replaced by the next, old names still read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ocrlab.experiments.evidence import Evidence
from ocrlab.study.records import keep_findings, load_findings


def test_findings_are_kept_with_machine_and_versions_and_replaced(tmp_path: Path) -> None:
    keep_findings("probes", [{"a": 1}, {"a": 2}], tmp_path)
    table = keep_findings("probes", [{"a": float("nan"), "b": "x"}], tmp_path)
    assert len(table) == 1 and {"machine", "torch", "transformers"} <= set(table.columns)
    (line,) = (tmp_path / "findings" / "probes.jsonl").read_text(encoding="utf-8").splitlines()
    assert '"a": null' in line
    with pytest.raises(TypeError):
        keep_findings("probes", [{"a": object()}], tmp_path)
    assert len((tmp_path / "findings" / "probes.jsonl").read_text(encoding="utf-8").splitlines()) == 1


def test_what_breaks_off_keeps_what_it_found(tmp_path: Path) -> None:
    def interrupted() -> Iterator[dict[str, int]]:
        yield {"a": 1}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        keep_findings("canary", interrupted(), tmp_path)
    assert load_findings("canary", tmp_path)["a"].tolist() == [1]


def test_findings_of_older_runs_have_their_variants(tmp_path: Path) -> None:
    keep_findings("02-attention-contrast", [{"way": "eager", "pages": 3}], tmp_path)
    assert Evidence(tmp_path).table("findings/02-attention-contrast")["variant"].tolist() == ["eager"]
