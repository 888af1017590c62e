"""`python -m ocrlab fit`: will a model fit a card, by attention and pixel budget, before anyone downloads anything?"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace

from ocrlab.machine.cards import UnknownCard, card, cards
from ocrlab.reading.checkpoints import CheckpointError
from ocrlab.reading.settings import SettingError, Settings, load_preset
from ocrlab.report.limits import fit_matrix, fit_table


def fit(
    model: str, names: Sequence[str] | None, preset: str | None, dtype: str, batch_size: int, max_new_tokens: int,
    as_json: bool,
) -> int:  # fmt: skip
    """Print what fits and the time floors; return 0, or 2 for an unknown card, model or setting."""
    try:
        base = load_preset(preset) if preset else Settings(model_id=model)
        settings = replace(base, dtype=dtype, batch_size=batch_size, max_new_tokens=max_new_tokens)  # type: ignore[arg-type]
        machines = [card(name) for name in names] if names else list(cards().values())
        table = fit_table(settings, machines)
    except (UnknownCard, CheckpointError, SettingError) as error:
        print(error, file=sys.stderr)
        return 2
    if as_json:
        for line in table.to_dict("records"):
            print(json.dumps(line))
        return 0
    print(
        f"{settings.model_id}, {dtype}, batch {batch_size}, {max_new_tokens} new tokens: predicted, nothing was loaded"
    )
    print(fit_matrix(table).to_string())
    print("\nAt best, by the datasheets (seconds; real readings take several times as long):")
    best = table[(table["attention"] == "sdpa") & table["image_tokens"].isin([256, 1280, 4096])]
    for name, mine in best.groupby("card", sort=False):
        told = ", ".join(f"{v:.2f} at {t}" for v, t in zip(mine["vision_s"], mine["image_tokens"], strict=True))
        print(f"  {name}: vision {told} image tokens; {1 / mine['tpot_s'].iloc[0]:.0f} tokens/s")
    return 0
