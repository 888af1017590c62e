"""A soak's part in the worker's process: one reading, and what the process holds after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psutil

from ocrlab.pages import Page
from ocrlab.reading.page_reader import PageReader
from ocrlab.reading.served import reader_here
from ocrlab.reading.settings import Settings

Prepare = Callable[[], None]
# Put in force once a process: doing it at every page lets the allocator give memory back.
_reader: PageReader | None = None


def read_here(settings: Settings, page: Page, prepare: Prepare | None = None) -> dict[str, Any]:
    """Return the reading, the settings in force, and the bytes that process and CUDA device hold after it."""
    global _reader
    if _reader is None:
        _reader = reader_here(settings)
    if prepare is not None:
        prepare()
    reading = _reader.read(page)
    device = None
    if _reader.device.startswith("cuda"):
        import torch

        device = torch.cuda.memory_reserved()
    resident = int(psutil.Process().memory_info().rss)
    return {
        "reading": reading, "actual": _reader.actual, "load_s": _reader.load_s, "resident_bytes": resident,
        "device_bytes": device,
    }  # fmt: skip
