"""A run's findings and rows by name, of one machine: what the ledger of claims and the readiness checks look at."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ocrlab.study.records import load_findings, load_rows, record_files

if TYPE_CHECKING:
    import pandas as pd


Tables = Mapping[str, "pd.DataFrame"]


class Evidence:
    """What a run's folder holds of one machine, loaded when first asked for.

    Names are `findings/<name>`, `rows/<experiment>` and `rows/*`. The machine is the one whose stack 01-machine noted,
    else the one with most rows; lines of other machines are left out. Raises RecordError for a damaged file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._tables: dict[str, pd.DataFrame] = {}
        self.machine = self._machine()

    def table(self, name: str) -> pd.DataFrame:
        """Return a table's lines of this machine; empty where there is none."""
        if name not in self._tables:
            self._tables[name] = self._load(name)
        table = self._tables[name]
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
        part, _, own = name.partition("/")
        if part == "findings":
            return load_findings(own, self.folder).rename(columns={"way": "variant"})  # what older runs call it
        return load_rows(self.folder, None if own == "*" else own)

    def _machine(self) -> str:
        names = ["findings/stack", "rows/*"]
        names += [f"findings/{f.name.split('.')[0]}" for f in record_files(self.folder / "findings")]
        for name in names:
            table = self._tables.setdefault(name, self._load(name))
            if "machine" in table and len(table):
                return str(table["machine"].mode().iloc[0])
        return ""


# What rows can say of a claim: a word of three, and the reason with its numbers.


Kind = Literal["confirmed", "refuted", "not settled here"]
CONFIRMED: Kind = "confirmed"
REFUTED: Kind = "refuted"
OPEN: Kind = "not settled here"


class Told(NamedTuple):
    """What some rows say of a claim, whoever's card they are from."""

    kind: Kind
    reason: str
