"""The ledger of claims: rows in, verdicts out. What each claim says and who may settle it stands in claims.yaml."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import yaml

from ocrlab import paths
from ocrlab.experiments import claim_rules
from ocrlab.experiments.evidence import OPEN, Evidence, Kind, Tables, Told
from ocrlab.experiments.readiness import Readiness, check_readiness

if TYPE_CHECKING:
    import pandas as pd
    from IPython.display import HTML


SOURCE = "the field report of January 2026"
RULES: dict[str, Callable[[Tables], Told]] = {
    "sm120-torch": claim_rules.sm120_torch, "bf16-100": claim_rules.bf16_100, "tf32": claim_rules.tf32,
    "load-8.63": claim_rules.load_863, "infer-7.0": claim_rules.infer_70, "vram-4.12": claim_rules.vram_412,
    "quality-100": claim_rules.quality_100, "fa2-incompatible": claim_rules.fa2_incompatible,
    "eager-stable": claim_rules.eager_stable, "sdpa-active": claim_rules.sdpa_active,
    "fp16-forbidden": claim_rules.fp16_forbidden, "dots-ocr-assert": claim_rules.dots_ocr_assert,
    "cuda-recovery": claim_rules.cuda_recovery, "remote-code": claim_rules.remote_code,
    "vram-11.94": claim_rules.vram_1194, "readiness-84": claim_rules.readiness_84,
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


# The final status of a run to look at: the ledger of claims with what would settle each, and the readiness checks.


_ORDER = ("refuted", "confirmed", "not settled here")
_STATES = ("fail", "pass", "not measured")
# Okabe and Ito's colours under black letters, which can be read in a light and in a dark page.
_GREEN, _ORANGE, _GREY = "#009E73", "#D55E00", "#BBBBBB"
_COLOURS = {
    "refuted": _ORANGE, "confirmed": _GREEN, "not settled here": _GREY, "fail": _ORANGE, "pass": _GREEN,
    "not measured": _GREY,
}  # fmt: skip
_TAKES = {"any": "any machine", "cuda": "a CUDA device", "sm_12x": "a card of compute capability 12.x"}
_OF = {"any": "", "2B": " that read with Qwen2-VL-2B", "2B shapes": " that ran Qwen2-VL-2B's shapes"}
_LEFT = "text-align:left;vertical-align:top;white-space:normal"


def ledger_table(verdicts: Sequence[Verdict]) -> HTML:
    """Return one line a claim, settled ones first: verdict, claim, what the rows say and where the run shows it.

    Folded below it: whose rows settle it, what would confirm or refute it, and what others published, marked as theirs.
    The machine is named where there are several. All text is escaped.
    """
    claims = {claim.id: claim for claim in load_claims()}
    several = len({one.machine for one in verdicts}) > 1
    lines = []
    for one in sorted(verdicts, key=lambda one: _ORDER.index(one.verdict)):
        claim = claims[one.id]
        place = f"{one.notebook}, “{one.heading}”" + (f"; {one.machine}" if several else "")
        text = (
            f"<b>{escape(one.id)}</b>: {escape(claim.claim)}<br>{escape(_sentence(one.reason))}.<br>"
            f"<small>Shown in {escape(place)}.</small>{_folded(claim)}"
        )
        lines.append([_word(one.verdict), text])
    return _ledger_frame(["verdict", f"claim of {SOURCE}, and what these rows say"], lines)


def readiness_table(readiness: Readiness) -> HTML:
    """Return one line a check, failed ones first: the answer, its weight, the question and the reason, escaped."""
    ranked = sorted(readiness.checks, key=lambda check: (_STATES.index(check.state), -check.weight))
    lines = [
        [
            f"{_word(check.state)}<br><small>weight {check.weight}</small>",
            f"<b>{escape(check.asks)}</b><br>{escape(_sentence(check.reason))}",
        ]
        for check in ranked
    ]
    return _ledger_frame(["answer", "check"], lines)


def _folded(claim: Claim) -> str:
    published = "".join(
        f"<li>{escape(known['says'])} ({escape(known['reference'])})</li>" for known in claim.known
    )  # fmt: skip
    theirs = f"Published by others, not measured here:<ul>{published}</ul>" if published else ""
    return (
        f"<details><summary>what would settle it{', what others published' if published else ''}</summary>"
        f"Settled by rows of {_TAKES[claim.settles_on]}{_OF[claim.model]}.<br>"
        f"Confirmed if: {escape(claim.confirmed_by)}.<br>Refuted if: {escape(claim.refuted_by)}.<br>{theirs}</details>"
    )


def _sentence(reason: str) -> str:
    return reason[:1].upper() + reason[1:]


def _word(word: str) -> str:
    return f'<span style="background:{_COLOURS[word]};color:#000;padding:1px 4px">{word}</span>'


def _ledger_frame(head: Sequence[str], lines: Sequence[Sequence[str]]) -> HTML:
    from IPython.display import HTML

    titles = "".join(f'<th style="{_LEFT}">{escape(title)}</th>' for title in head)
    rows = "".join(
        "<tr>" + "".join(f'<td style="{_LEFT}">{cell}</td>' for cell in line) + "</tr>" for line in lines
    )  # fmt: skip
    return HTML(f"<table><thead><tr>{titles}</tr></thead><tbody>{rows}</tbody></table>")
