"""The ledger of claims: rows in, verdicts out. What each claim says and who may settle it stands in claims.yaml."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import yaml

from ocrlab import paths
from ocrlab.study import rules_costs, rules_faults, rules_kernels, rules_numbers
from ocrlab.study.evidence import Evidence, Tables
from ocrlab.study.readiness import check_readiness
from ocrlab.study.verdict import OPEN, Kind, Told

if TYPE_CHECKING:
    import pandas as pd

SOURCE = "the field report of January 2026"
RULES: dict[str, Callable[[Tables], Told]] = {
    "sm120-torch": rules_kernels.sm120_torch, "bf16-100": rules_numbers.bf16_100, "tf32": rules_numbers.tf32,
    "load-8.63": rules_costs.load_863, "infer-7.0": rules_costs.infer_70, "vram-4.12": rules_costs.vram_412,
    "quality-100": rules_numbers.quality_100, "fa2-incompatible": rules_kernels.fa2_incompatible,
    "eager-stable": rules_kernels.eager_stable, "sdpa-active": rules_kernels.sdpa_active,
    "fp16-forbidden": rules_numbers.fp16_forbidden, "dots-ocr-assert": rules_faults.dots_ocr_assert,
    "cuda-recovery": rules_faults.cuda_recovery, "remote-code": rules_faults.remote_code,
    "vram-11.94": rules_costs.vram_1194, "readiness-84": rules_costs.readiness_84,
}  # fmt: skip
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
    needs: tuple[str, ...]
    notebook: str
    heading: str
    known: tuple[dict[str, str], ...]
    also: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
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
    entries = yaml.safe_load((Path(__file__).parent / "claims.yaml").read_text(encoding="utf-8"))
    lists = ("needs", "also", "known")
    return tuple(Claim(**(entry | {name: tuple(entry.get(name, ())) for name in lists})) for entry in entries)


def verdicts(folder: Path | None = None, ids: Sequence[str] = ()) -> list[Verdict]:
    """Return the verdict on every claim (or on those of `ids`) by the rows of a run's folder, by default the current.

    Raises:
        RecordError: a file of the run is damaged.
        KeyError: no such claim.
    """
    known = {claim.id: claim for claim in load_claims()}
    evidence = Evidence(folder or paths.run_folder())
    return [_verdict(known[id_], evidence) for id_ in ids or known]


def _verdict(claim: Claim, evidence: Evidence) -> Verdict:
    kind, reason = _judge(claim, evidence)
    return Verdict(claim.id, kind, reason, evidence.machine, claim.notebook, claim.heading)


def _judge(claim: Claim, evidence: Evidence) -> Told:
    found = {name: _table(name, evidence) for name in (*claim.needs, *claim.also)}
    missing = [name for name in claim.needs if found[name].empty]
    if missing:
        return Told(OPEN, f"this run has no {' and no '.join(missing)}; {claim.notebook} shows it")
    tables, fits = {}, claim.model == "any"
    for name, table in found.items():
        mine = _of_model(table, claim.model)
        fits = fits or ("model_id" in table and len(mine) > 0)
        tables[name] = mine if len(mine) else table
    told = RULES[claim.id](tables)
    lacks = _lacks(claim, evidence.capability, fits)
    return Told(OPEN, f"it takes {lacks}. What these rows say: {told.reason}") if lacks else told


def _table(name: str, evidence: Evidence) -> pd.DataFrame:
    return check_readiness(evidence).table() if name == "readiness" else evidence.table(name)


def _of_model(table: pd.DataFrame, model: str) -> pd.DataFrame:
    """The lines of the model that the claim is about; all of a table that knows no model."""
    if model == "any" or "model_id" not in table:
        return table
    mine = table[table["model_id"].fillna("").str.contains("Qwen2-VL-2B")]
    return mine[mine["weights"] == "pretrained"] if model == "2B" and "weights" in mine else mine


def _lacks(claim: Claim, capability: str, fits: bool) -> str:
    """What the claim takes and these rows do not have, in words; empty where they may settle it."""
    lacks = [] if fits else [f"rows of {_MODELS[claim.model]}"]
    if not {"any": True, "cuda": bool(capability), "sm_12x": capability.startswith("12.")}[claim.settles_on]:
        lacks.append(f"{_CARDS[claim.settles_on]} (here: {capability or 'none'})")
    return " on ".join(lacks)
