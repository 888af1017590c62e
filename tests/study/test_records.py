from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from ocrlab.study.records import RecordError, RecordFile, pack_records, read_records, record_files


def test_records_come_back_in_order(tmp_path: Path) -> None:
    records = RecordFile(tmp_path / "deep" / "rows.jsonl")
    for i in range(3):
        records.append({"key": str(i), "text": "ё\n" * i})
    assert RecordFile(records.file).records == [{"key": str(i), "text": "ё\n" * i} for i in range(3)]


def test_a_half_written_last_line_is_cut_off(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'{"key": "a"}\n{"key": "b", "te')
    records = RecordFile(file)
    records.append({"key": "c"})
    assert [r["key"] for r in read_records(file)] == ["a", "c"]


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"key": "a"}\nnot json\n', encoding="utf-8")
    with pytest.raises(RecordError, match=r"rows\.jsonl: line 2 is not JSON"):
        RecordFile(file)


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "rows").write_text("", encoding="utf-8")
    with pytest.raises(RecordError, match="cannot be written"):
        RecordFile(tmp_path / "rows" / "x.jsonl").append({"key": "a"})


def test_full_disk_keeps_what_was_measured(tmp_path: Path) -> None:
    mount = tmp_path / "small"
    mount.mkdir()
    if (
        os.name == "nt"
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(mount)], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("a small file system cannot be mounted here")
    try:
        records = RecordFile(mount / "rows.jsonl")
        with pytest.raises(RecordError, match=r"Free space .* it goes on from here"):
            for i in range(1000):
                records.append({"key": str(i), "text": "x" * 1000})
        kept = [r["key"] for r in read_records(records.file)]
        assert kept == [str(i) for i in range(len(records.records))] and len(kept) > 10
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_packed_records_are_read_and_go_on(tmp_path: Path) -> None:
    findings, readings = (RecordFile(tmp_path / part / "x.jsonl") for part in ("findings", "readings"))
    for records in (findings, readings):
        for i in range(50):
            records.append({"key": str(i), "asked": "the same settings on every line " * 20})
    size = readings.file.stat().st_size
    pack_records(tmp_path)
    packed = record_files(tmp_path / "readings")
    assert [f.name for f in packed] == ["x.jsonl.gz"] and packed[0].stat().st_size < size / 20
    assert read_records(packed[0]) == readings.records
    again = RecordFile(readings.file)
    again.append({"key": "50"})
    assert again.records == [*readings.records, {"key": "50"}]
    assert [f.name for f in record_files(tmp_path / "readings")] == ["x.jsonl"]
