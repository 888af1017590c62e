"""Quantised weights, which settings cannot ask for yet: lines with the reason, so that they are no gap in a table."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

_KINDS = {"int8 (torchao)": "torchao", "nf4 (bitsandbytes)": "bitsandbytes"}


def quantised_lines() -> pd.DataFrame:
    """Return one line a kind of quantisation: way, dtype, status unsupported, and what is missing."""
    import pandas as pd

    lines = []
    for way, module in _KINDS.items():
        absent = f"{module} is not installed" if find_spec(module) is None else f"{module} is installed"
        reason = f"{absent}, and Settings has no field for quantised weights"
        lines.append({"way": way, "dtype": way.split()[0], "status": "unsupported", "reason": reason})
    return pd.DataFrame(lines)
