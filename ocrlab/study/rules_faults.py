"""What rows say of the claims on faults and their remedies: dots-ocr-assert, cuda-recovery, remote-code."""

from __future__ import annotations

from ocrlab.scoring.outcomes import WITH_TEXT
from ocrlab.study.evidence import Tables
from ocrlab.study.verdict import CONFIRMED, OPEN, REFUTED, Told

_USED = ("a new tensor", "a matrix product")


def dots_ocr_assert(tables: Tables) -> Told:
    """Return whether broken logits alone end a sampling call, or healthy ones too on a card of capability 12.x."""
    sampling, stack = tables["findings/sampling"], tables["findings/stack"]
    card = "" if stack.empty else str(stack.iloc[0].get("compute_capability"))
    drawn = sampling["sampling"].str.startswith("token")
    broken = sampling["logits"] != "healthy"
    raised, of = int((~drawn & broken).sum()), int(broken.sum())
    greedy = int(sampling[broken]["greedy"].str.startswith("token").sum())
    told = f"broken logits fail in {raised} of {of} cases when sampled and pass in {greedy} when greedy"
    if not drawn[~broken].all():
        why = sampling[~broken]["sampling"].iloc[0]
        return Told(CONFIRMED if card.startswith("12.") else OPEN, f"healthy logits fail as well ({why}); {told}")
    if raised < of:
        return Told(OPEN, f"the assertion is not explained by broken logits here: {told}")
    asserted = sampling[broken]["sampling"].str.startswith("assert").any()
    how = "as the assertion itself" if asserted else "as an ordinary error, since a CPU has no assertion"
    return Told(
        REFUTED,
        f"{told}, {how}; healthy ones pass. Broken logits suffice, on any architecture; what broke them on the "
        f"report's card is not settled",
    )


def cuda_recovery(tables: Tables) -> Told:
    """Return whether any attempt in the process that met the assertion computed again."""
    recovery = tables["findings/recovery"]
    again = bool(recovery[recovery["where"] == "new process"]["works"].all())
    fresh = f"a new process {'works' if again else 'does not work'}"
    tries = recovery[recovery["where"] == "same process"][1:]
    if tries.empty:
        first = recovery.iloc[0]
        return Told(OPEN, f"no attempt was made in the same process ({first['attempt']}: {first['outcome']}); {fresh}")
    told = f"{int(tries['works'].sum())} of {len(tries)} attempts in the same process worked; {fresh}"
    used = tries[tries["attempt"].isin(_USED)]
    return Told(CONFIRMED if used["works"].any() else REFUTED, told)


def remote_code(tables: Tables) -> Told:
    """Return whether Qwen2-VL was read without `trust_remote_code`, or only with it."""
    rows = tables["rows/*"]
    mine = rows[rows["model_id"].eq("tiny") | rows["model_id"].str.contains("Qwen2-VL")]
    read = mine[mine["status"].isin(WITH_TEXT)]
    trusted = read["trust_remote_code"].astype(bool)
    without = read[~trusted]
    if len(without):
        models = ", ".join(sorted(set(without["model_id"].str.split("/").str[-1])))
        return Told(REFUTED, f"{len(without)} readings without it ({models}), by transformers' own classes")
    refused = mine[~mine["trust_remote_code"].astype(bool)]
    if trusted.any() and len(refused):
        why = refused["reason"].iloc[0]
        return Told(CONFIRMED, f"{int(trusted.sum())} readings with it, none of {len(refused)} without it ({why})")
    return Told(OPEN, "Qwen2-VL was not read here")
