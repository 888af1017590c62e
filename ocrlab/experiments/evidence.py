"""A run's findings and rows by name, of one machine: what the ledger of claims and the readiness checks look at."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from ocrlab.study.records import load_findings, load_rows, record_files

FLOAT16_END = 65504.0
Tables = Mapping[str, pd.DataFrame]
Kind = Literal["confirmed", "refuted", "not settled here"]
CONFIRMED: Kind = "confirmed"
REFUTED: Kind = "refuted"
OPEN: Kind = "not settled here"
#: What some rows say of a claim, whoever's card they are from, and the reason with its numbers.
Answer = tuple[Kind, str]


class Evidence:
    """What a run's folder holds of one machine, loaded when first asked for.

    Names are `findings/<name>`, `rows/<experiment>` and `rows/*`. The machine is the one whose stack 01-machine noted,
    else the one with most rows; lines of other machines are left out. Raises RecordError for a damaged file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._tables: dict[str, pd.DataFrame] = {}
        found = [f"findings/{file.name.split('.')[0]}" for file in record_files(folder / "findings")]
        tables = (self._load(name) for name in ("findings/stack", "rows/*", *found))
        known = (table["machine"] for table in tables if "machine" in table and len(table))
        self.machine = str(next((names.mode().iloc[0] for names in known), ""))

    def table(self, name: str) -> pd.DataFrame:
        """Return a table's lines of this machine; empty where there is none."""
        table = self._load(name)
        return table[table["machine"] == self.machine] if "machine" in table else table

    @property
    def stack(self) -> dict[str, Any]:
        """What 01-machine noted of hardware and software, by name; empty where it did not run."""
        found = self.table("findings/stack")
        return {} if found.empty else {str(name): value for name, value in found.iloc[0].dropna().items()}

    @property
    def capability(self) -> str:
        """The card's compute capability, such as `12.0`; empty without a card or without a note of it."""
        return str(self.stack.get("compute_capability", ""))

    def _load(self, name: str) -> pd.DataFrame:
        if name not in self._tables:
            part, _, own = name.partition("/")
            found = part == "findings"
            self._tables[name] = load_findings(own, self.folder) if found else load_rows(self.folder, own)
            self._tables[name] = self._tables[name].rename(columns={"way": "variant"})  # what older runs call it
        return self._tables[name]


# What findings about float16's end say.


def first_to_overflow(headroom: pd.DataFrame, value: str | None = None) -> pd.Series | None:
    """Return the line where float16 would overflow first, of one kind of value where it is named, or None for no lines.

    The first in the order of use that is beyond float16's end; where none is, the one with the fewest bits left.
    """
    lines = (headroom if value is None else headroom[headroom["value"] == value]).dropna(subset=["bits"])
    beyond = lines[lines["bits"] < 0]
    ranked = lines.sort_values("bits", kind="stable") if beyond.empty else beyond
    return None if ranked.empty else ranked.iloc[0]


def overflow_words(overflow: pd.DataFrame) -> str:
    """Return in words where float16 overflows in the findings `overflow`, and whether the other dtypes do."""
    overflow = overflow.rename(columns={"way": "variant"})  # the column's name in earlier runs
    bad = overflow[overflow["not_finite"] > 0]
    half = bad[bad["dtype"] == "float16"]
    if half.empty:
        return f"float16 does not overflow up to scores of {overflow['largest_score'].max():.3g}"
    others = sorted(set(bad["dtype"]) - {"float16"})
    safe = sorted(set(overflow[overflow["dtype"] == "float16"]["variant"]) - set(half["variant"]))
    return (
        f"float16 overflows in {', '.join(sorted(set(half['variant'])))} from scores of "
        f"{half['largest_score'].min():.3g} on (its end is 65504), and not in {', '.join(safe) or 'any other'}; "
        f"{', '.join(others) or 'float32 and bfloat16'} {'overflow too' if others else 'stay finite'}"
    )
