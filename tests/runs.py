"""Small runs for the tests of the site, of sharing and of comparing: readings as a run writes them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ocrlab.reading.settings import Settings


def reading(page: str = "p1", text: str = "abc", truth: str | None = "abc", **changes: Any) -> dict[str, Any]:
    """A reading's record; `asked` changes settings, everything else a field."""
    asked = Settings(dtype="float32").as_dict() | changes.pop("asked", {})
    identity = [page, changes.get("experiment", "e"), changes.get("repeat", 0), sorted(map(str, asked.items()))]
    measured = {
        "stop_reason": "eos", "tokens": 3, "image_tokens": 16, "prompt_tokens": 20, "page_s": 0.2, "tpot_s": 0.01,
        "ttft_s": 0.05, "vision_s": 0.01, "prefill_s": 0.02, "decode_s": 0.1, "peak_memory_bytes": 10_000_000,
    }  # fmt: skip
    record = {
        "key": hashlib.sha256(repr(identity).encode()).hexdigest()[:24], "experiment": "e",
        "page": page, "text": text, "status": "ok", "reason": "", "asked": asked,
        "actual": {"actual_dtype": "float32", "actual_device": "cpu", "actual_revision": "sha256:1"},
        "measured": measured | changes.pop("measured", {}), "load_s": 1.0, "repeat": 0, "set": "mine", "kind": "",
        "language": "", "degradation": "", "page_sha256": hashlib.sha256(page.encode()).hexdigest(), "truth": truth,
        "code": "c0de", "machine": "M", "time_utc": "2026-11-24T12:00:00+00:00",
    }  # fmt: skip
    return record | changes


def write_run(folder: Path, *readings: dict[str, Any], file: str = "", **record: Any) -> Path:
    """Write a run's folder with these readings and a run.json; all into one `file` where it is named."""
    for part in ("notebooks", "readings"):
        (folder / part).mkdir(parents=True)
    for name in dict.fromkeys(file or one["experiment"] for one in readings):
        lines = (json.dumps(one, ensure_ascii=False) for one in readings if file or one["experiment"] == name)
        (folder / "readings" / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    whole = {
        "run": folder.name, "profile": "cpu", "started": "2026-11-24T12:00:00+00:00", "ended": None, "commit": "a" * 40,
        "dirty": False, "versions": {"torch": "2.13.0"}, "machine": {"cpu": "M", "gpu": None, "memory_bytes": 2**34},
        "notebooks": {},
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(whole | record, ensure_ascii=False), encoding="utf-8")
    return folder
