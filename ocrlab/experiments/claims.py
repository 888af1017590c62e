"""The ledger of claims: rows in, verdicts out. What each claim says and who may settle it is in claims.yaml."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import pandas as pd
import yaml

from ocrlab import paths
from ocrlab.experiments import claim_rules
from ocrlab.experiments.evidence import OPEN, Answer, Evidence, Kind, Tables
from ocrlab.experiments.readiness import check_readiness

_CARDS = {"any": "", "cuda": "a CUDA device", "sm_12x": "a card of compute capability 12.x"}
_MODELS = {"any": "", "2B": "Qwen2-VL-2B with its own weights", "2B shapes": "Qwen2-VL-2B's shapes"}


@dataclass(frozen=True)
class Claim:
    """One claim: its text, whose rows may settle it, what they would show, where they are, what others published."""

    id: str
    claim: str
    settles_on: Literal["any", "cuda", "sm_12x"]
    model: Literal["any", "2B", "2B shapes"]
    confirmed_by: str
    refuted_by: str
    notebook: str
    heading: str
    needs: Sequence[str] = ()
    also: Sequence[str] = ()
    known: Sequence[dict[str, str]] = ()

    @property
    def rule(self) -> Callable[[Tables], Answer]:
        """What makes an answer of rows: the function of `claim_rules` that has the claim's id as its name."""
        found: Callable[[Tables], Answer] = getattr(claim_rules, self.id.replace("-", "_").replace(".", ""))
        return found


@dataclass(frozen=True)
class ClaimVerdict:
    """What a run's rows say of a claim, with the numbers, the machine they are of, and where the run shows them."""

    id: str
    verdict: Kind
    reason: str
    machine: str
    notebook: str
    heading: str

    def __str__(self) -> str:
        return f"{self.id}: {self.verdict}: {self.reason}."


@cache
def load_claims() -> tuple[Claim, ...]:
    """Return the claims of `claims.yaml`, in its order."""
    entries = yaml.safe_load(Path(__file__).with_name("claims.yaml").read_text(encoding="utf-8"))
    return tuple(Claim(**entry) for entry in entries)


def verdicts(folder: Path | None = None, ids: Sequence[str] = ()) -> list[ClaimVerdict]:
    """Return the verdict on every claim (or on those of `ids`) by the rows of a run's folder, by default the current.

    Raises:
        RecordError: a file of the run is damaged.
        KeyError: no such claim.
    """
    known = {claim.id: claim for claim in load_claims()}
    evidence = Evidence(folder or paths.run_folder())
    return [
        ClaimVerdict(claim.id, *_judge(claim, evidence), evidence.machine, claim.notebook, claim.heading)
        for claim in (known[id_] for id_ in ids or known)
    ]


def _judge(claim: Claim, evidence: Evidence) -> Answer:
    found = {name: _table(name, evidence) for name in (*claim.needs, *claim.also)}
    missing = [name for name in claim.needs if found[name].empty]
    if missing:
        return OPEN, f"this run has no {' and no '.join(missing)}; {claim.notebook} shows it"
    own = {name: _of_model(table, claim.model) for name, table in found.items()}
    kind, reason = claim.rule({name: table if own[name].empty else own[name] for name, table in found.items()})
    lacks = []
    if claim.model != "any" and not any("model_id" in table and len(table) for table in own.values()):
        lacks.append(f"rows of {_MODELS[claim.model]}")
    card = evidence.capability
    if not {"any": True, "cuda": bool(card), "sm_12x": card.startswith("12.")}[claim.settles_on]:
        lacks.append(f"{_CARDS[claim.settles_on]} (here: {card or 'none'})")
    return (OPEN, f"it takes {' on '.join(lacks)}. What these rows say: {reason}") if lacks else (kind, reason)


def _table(name: str, evidence: Evidence) -> pd.DataFrame:
    return check_readiness(evidence).table() if name == "readiness" else evidence.table(name)


def _of_model(table: pd.DataFrame, model: str) -> pd.DataFrame:
    """The lines of the model that the claim is about; all of a table that knows no model."""
    if model == "any" or "model_id" not in table:
        return table
    mine = table[table["model_id"].fillna("").str.contains("Qwen2-VL-2B")]
    return mine[mine["weights"] == "pretrained"] if model == "2B" and "weights" in mine else mine
