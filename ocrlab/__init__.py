"""Measures which settings should read documents with Qwen2-VL, what they cost, and what does not work here and why.

Names are loaded when first used, so that `import ocrlab` is light and torch comes only with a model.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ocrlab.pages import Page as Page, load_pages as load_pages, open_image as open_image
    from ocrlab.reading.reader import Reader as Reader, open_reader as open_reader, try_reader as try_reader
    from ocrlab.reading.settings import Settings as Settings, load_preset as load_preset
    from ocrlab.scoring.metrics import score as score
    from ocrlab.study import plots as plots, tables as tables
    from ocrlab.study.experiment import readings_of as readings_of, run_experiment as run_experiment
    from ocrlab.study.records import load_rows as load_rows

__version__ = "0.1.0"
_NAMES = {
    "ocrlab.pages": ("Page", "load_pages", "open_image"),
    "ocrlab.reading.reader": ("Reader", "open_reader", "try_reader"),
    "ocrlab.reading.settings": ("Settings", "load_preset"),
    "ocrlab.scoring.metrics": ("score",),
    "ocrlab.study.experiment": ("run_experiment", "readings_of"),
    "ocrlab.study.records": ("load_rows",),
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names}
__all__ = sorted((*_HOMES, "plots", "tables"))


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in {"plots", "tables"}:
        return importlib.import_module(f"ocrlab.study.{name}")
    raise AttributeError(f"module 'ocrlab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
