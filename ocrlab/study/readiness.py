"""Is this machine ready, and how much of that was measured? The checks of readiness.yaml over a run's rows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ocrlab.study.evidence import Evidence
from ocrlab.study.readiness_checks import CHECKS
from ocrlab.study.readiness_pages import State, Subject, subject_of

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Check:
    """One check of a run: pass, fail or not measured, with its weight and the reason."""

    id: str
    asks: str
    state: State
    weight: int
    reason: str


@dataclass(frozen=True)
class Readiness:
    """All checks of a run, for a machine and the model that it read."""

    machine: str
    model_id: str
    weights: str
    checks: tuple[Check, ...]

    @property
    def measured(self) -> int:
        """The weight of the checks that were measured."""
        return sum(check.weight for check in self.checks if check.state != "not measured")

    @property
    def total(self) -> int:
        """The weight of all checks."""
        return sum(check.weight for check in self.checks)

    @property
    def score(self) -> float | None:
        """The share of the measured weight that passed; None where nothing was measured."""
        passed = sum(check.weight for check in self.checks if check.state == "pass")
        return passed / self.measured if self.measured else None

    @property
    def words(self) -> str:
        """The score, what it counts, and what it does not, in one sentence."""
        if self.score is None:
            return f"nothing was measured (weight {self.total})"
        open_ = [check.id for check in self.checks if check.state == "not measured"]
        rest = f"; not measured, weight {self.total - self.measured}: {', '.join(open_)}" if open_ else ""
        return f"{self.score:.0%} of the weight that was measured ({self.measured} of {self.total}) passes{rest}"

    def table(self) -> pd.DataFrame:
        """Return one line a check, with the model."""
        import pandas as pd

        own = {"model_id": self.model_id, "weights": self.weights}
        return pd.DataFrame([asdict(check) | own for check in self.checks])


@cache
def _entries() -> tuple[dict[str, Any], ...]:
    return tuple(yaml.safe_load((Path(__file__).parent / "readiness.yaml").read_text(encoding="utf-8")))


def check_readiness(run: Evidence | Path) -> Readiness:
    """Return the checks of a run, by its evidence or folder.

    Raises:
        RecordError: a file of the run is damaged.
    """
    evidence = run if isinstance(run, Evidence) else Evidence(run)
    subject = subject_of(evidence)
    return Readiness(
        evidence.machine, subject.model_id, "pretrained", tuple(_check(entry, subject) for entry in _entries())
    )


def _check(entry: dict[str, Any], subject: Subject) -> Check:
    state, reason = CHECKS[entry["id"]](subject, entry.get("limits", {}))
    if state == "not measured":
        reason = f"{reason}; {entry['measure']}"
    return Check(entry["id"], entry["asks"], state, entry["weight"], reason)
