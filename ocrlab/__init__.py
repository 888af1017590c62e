"""Measures which settings should read documents with Qwen2-VL, what they cost, and what does not work here and why.

Names are loaded when first used, so that `import ocrlab` is light and torch comes only with a model.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ocrlab.study.plots as plots
    import ocrlab.study.tables as tables
    from ocrlab.pages import Page, load_pages, open_image
    from ocrlab.reading.reader import Reader, open_reader, try_reader
    from ocrlab.reading.settings import Settings, load_preset
    from ocrlab.scoring.metrics import score
    from ocrlab.study.experiment import readings_of, run_experiment
    from ocrlab.study.records import load_rows

__version__ = "0.1.0"
__all__ = [
    "Page",
    "Reader",
    "Settings",
    "load_pages",
    "load_preset",
    "load_rows",
    "open_image",
    "open_reader",
    "plots",
    "readings_of",
    "run_experiment",
    "score",
    "tables",
    "try_reader",
]

_NAMES = {
    "ocrlab.pages": ("Page", "load_pages", "open_image"),
    "ocrlab.reading.reader": ("Reader", "open_reader", "try_reader"),
    "ocrlab.reading.settings": ("Settings", "load_preset"),
    "ocrlab.scoring.metrics": ("score",),
    "ocrlab.study.experiment": ("run_experiment", "readings_of"),
    "ocrlab.study.records": ("load_rows",),
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in {"plots", "tables"}:
        return importlib.import_module(f"ocrlab.study.{name}")
    raise AttributeError(f"module 'ocrlab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
