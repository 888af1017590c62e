"""What the embedded reader reads today: where this changes, READING_VERSION must change with it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import torch

from ocrlab.pages import load_pages
from ocrlab.reading.reader import Reader, open_reader
from ocrlab.reading.result import READING_VERSION, Reading
from ocrlab.reading.settings import Settings

# Pages that float32 reads the same with and without AVX-512.
EXPECTED = {1: "e69d51335c807ca1"}
BASE = Settings(dtype="float32", device="cpu", max_new_tokens=64)


def test_readings_change_only_with_their_version() -> None:
    made = _readings()
    assert {status for _, _, status in made} == {"ok", "truncated", "empty", "loop"}
    found = hashlib.sha256(json.dumps(made, ensure_ascii=False).encode()).hexdigest()[:16]
    shown = "\n".join(map(str, made))
    assert READING_VERSION in EXPECTED, f"add `{READING_VERSION}: {found!r}` to EXPECTED; the readings are\n{shown}"
    assert found == EXPECTED[READING_VERSION], (
        f"the readings are no longer those of READING_VERSION {READING_VERSION}; a run that goes on would mix both. "
        f"Raise it in ocrlab/reading/result.py and add its hash {found!r} to EXPECTED; the readings are\n{shown}"
    )


def _readings() -> list[tuple[str, str, str]]:
    """Return page, text and status: one by one, in a batch, at few pixels, at the cap, and of a model that loops."""
    lines, labels = load_pages("lines", limit=4), load_pages("labels", limit=2)
    with open_reader(BASE) as reader:
        readings = [reader.read(page) for page in (lines[0], labels[0])]
        for changes in ({"batch_size": 4}, {"max_pixels": 1024, "batch_size": 2}, {"max_new_tokens": 8}):
            reader.apply(replace(BASE, **changes))
            readings += reader.read([*lines, *labels] if changes.get("batch_size") == 4 else labels)
        reader.apply(replace(BASE, max_new_tokens=20))
        readings.append(_looping(reader))
    return [(one.page, one.text, one.status) for one in readings]


def _looping(reader: Reader) -> Reading:
    """Return the reading of a page by a model whose every next token is the same letter."""
    letter = reader.builder.tokenizer.encode("a")[0]

    def force(_module: object, _args: object, logits: torch.Tensor) -> torch.Tensor:
        return logits.index_fill(-1, torch.tensor([letter]), 1000.0)

    handle = reader.model.lm_head.register_forward_hook(force)
    try:
        return reader.read(load_pages("lines", limit=1)[0])
    finally:
        handle.remove()
