"""The final status of a run to look at: the ledger of claims with what would settle each, and the readiness checks."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from ocrlab.study.claims import SOURCE, Claim, Verdict, load_claims
from ocrlab.study.readiness import Readiness

if TYPE_CHECKING:
    from IPython.display import HTML

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
    return _table(["verdict", f"claim of {SOURCE}, and what these rows say"], lines)


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
    return _table(["answer", "check"], lines)


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


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> HTML:
    from IPython.display import HTML

    titles = "".join(f'<th style="{_LEFT}">{escape(title)}</th>' for title in head)
    rows = "".join(
        "<tr>" + "".join(f'<td style="{_LEFT}">{cell}</td>' for cell in line) + "</tr>" for line in lines
    )  # fmt: skip
    return HTML(f"<table><thead><tr>{titles}</tr></thead><tbody>{rows}</tbody></table>")
