"""How far a setting's numbers are from float32: one pass over prompt, image and the reference's answer, page by page.

The answer is forced, so that every setting is asked the same at every position and errors do not compound. One pass
runs the vision tower and the kernels of the prefill; those that decode token by token are the canary's to judge.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tqdm.auto import tqdm

from ocrlab.machine.worker import Worker
from ocrlab.pages import Page
from ocrlab.reading.isolated import attempt
from ocrlab.reading.settings import Settings
from ocrlab.scoring.failures import Status
from ocrlab.study.canary import held_in_quarantine
from ocrlab.study.forced import Prepare, distance_here, keep_reference

if TYPE_CHECKING:
    import pandas as pd

NUMBERS = (
    "image_tokens", "positions", "kl_mean", "kl_max", "logit_error", "logit_error_sd", "same_argmax", "parted_at",
    "weight_bytes",
)  # fmt: skip


def reference_of(settings: Settings) -> Settings:
    """Return the settings that the others are held against: the same in float32, SDPA's math kernel, read greedily."""
    return replace(
        settings, dtype="float32", quantization=None, attn_implementation="sdpa", sdpa_kernel="math", do_sample=False,
        temperature=None, top_p=None, top_k=None, num_beams=1, compile=False, cache_implementation=None, batch_size=1,
    )  # fmt: skip


def measure_fidelity(
    runs: Sequence[Settings], pages: Sequence[Page], *, prepare: Prepare | None = None, timeout_s: float = 600,
    worker: Worker | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Return one line a setting × page: every setting, how far its logits are from the reference's, status and reason.

    `kl_mean` and `kl_max` are KL(reference || setting) of the next token over the answer's positions, in nats;
    `logit_error` is the largest difference of a logit, `logit_error_sd` the same in standard deviations of its step;
    `same_argmax` is the share of positions where both put the same token first, `parted_at` the first where they do
    not; `reference` is the reference's own status. All run in a process that may die (`worker`, where one is given);
    `prepare` is called in it before each but the references: tests plant their faults with it.
    """
    import pandas as pd

    exact = list(dict.fromkeys(reference_of(settings) for settings in runs))
    with (
        tempfile.TemporaryDirectory() as folder,
        nullcontext(worker) if worker else Worker() as process,
        tqdm(total=(len(exact) + len(runs)) * len(pages), desc="fidelity", unit="pass") as bar,
    ):
        known: dict[tuple[Settings, str], _Reference] = {}
        for settings in exact:
            for page in pages:
                file = Path(folder) / f"{len(known)}.npz"
                _, status, reason = attempt(process, keep_reference, settings, page, file, timeout_s=timeout_s)
                known[settings, page.id] = _Reference(file, status, reason)
                bar.update()
        lines = []
        for settings in runs:
            for page in pages:
                reference = known[reference_of(settings), page.id]
                lines.append(_line(process, settings, page, reference, prepare, timeout_s))
                bar.update()
    return pd.DataFrame(lines)


class _Reference(NamedTuple):
    file: Path
    status: Status
    reason: str


def _line(
    process: Worker, settings: Settings, page: Page, reference: _Reference, prepare: Prepare | None, timeout_s: float
) -> dict[str, Any]:
    found: dict[str, Any] | None = None
    status, reason = reference.status, f"its reference in float32: {reference.reason}"
    if held := held_in_quarantine(settings):
        status, reason = "unsupported", held
    elif reference.status == "ok":
        found, status, reason = attempt(
            process, distance_here, settings, page, reference.file, prepare, timeout_s=timeout_s
        )
    asked = settings.as_dict() | {"page": page.id, "reference": reference.status}
    return asked | dict.fromkeys(NUMBERS) | {"status": status, "reason": reason} | (found or {})
