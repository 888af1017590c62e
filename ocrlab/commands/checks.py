"""Is this machine ready (`ready`), and will a model fit a card (`fit`)? Tables, and exit codes for scripts."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from textwrap import wrap
from typing import Any

from ocrlab.commands.plan import PlanError, find_run_here
from ocrlab.commands.setting_flags import refuse_held, settings_of
from ocrlab.experiments.limits import fit_matrix, fit_table
from ocrlab.experiments.readiness import check_readiness
from ocrlab.machine.hardware import UnknownCard, card, cards
from ocrlab.reading.checkpoints import CheckpointError
from ocrlab.reading.settings import SettingError, Settings, load_preset
from ocrlab.study.records import RecordError


def ready_run(name: str | None, threshold: float = 0.8) -> int:
    """Print the checks of a run and return the exit code: 0 ready, 1 below the threshold, 2 an unusable run."""
    if not 0 <= threshold <= 1:
        print(f"--threshold {threshold:g}: give a share from 0 to 1, such as 0.8", file=sys.stderr)
        return 2
    try:
        folder = find_run_here(name or None)
        found = check_readiness(folder)
    except (PlanError, RecordError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"run {folder.name}: {found.machine or 'machine not known'}, {found.model_id or 'no model'}\n")
    print(f"{'answer':<13} weight  check")
    for check in found.checks:
        print(f"{check.state:<13} {check.weight:>6}  {check.asks}")
        print("".join(f"{'':<22}{line}\n" for line in wrap(check.reason, 96, break_on_hyphens=False)), end="")
    print(f"\n{found.words}; threshold {threshold:.0%}")
    if found.score is None:
        print(f"{folder}: none of the checks was measured; run `make reproduce RUN={folder.name}`", file=sys.stderr)
        return 2
    return 0 if found.score >= threshold else 1


def fit(
    model: str,
    names: Sequence[str] | None,
    preset: str | None,
    dtype: str,
    batch_size: int,
    max_new_tokens: int,
    as_json: bool,
) -> int:
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


# `make soak`: read pages for so many minutes, and a verdict that the readiness checks use.


def soak_run(args: Any) -> int:
    """Soak as the arguments say and return the exit code: 0 well or not settled, 1 failed, 2 unusable arguments."""
    from ocrlab.commands.plan import PlanError
    from ocrlab.experiments.soak import run_soak
    from ocrlab.pages import PageError, load_pages
    from ocrlab.reading.isolated import Refused
    from ocrlab.reading.settings import SettingError
    from ocrlab.study.records import RecordError

    try:
        if not args.minutes > 0:
            raise SettingError(f"--minutes {args.minutes:g}: give a time above 0, such as 60")
        settings = settings_of(args.preset, args.given)
        pages = load_pages(args.pages, limit=args.limit)
        refuse_held(settings, args.quarantined)
        folder = _folder(args.run)
        print(f"{len(pages)} pages of {args.pages} for {args.minutes:g} min, into {folder.name}", flush=True)
        found = run_soak(settings, pages, minutes=args.minutes, count=args.count, folder=folder)
    except (SettingError, PageError, PlanError, Refused, RecordError) as error:
        print(error, file=sys.stderr)
        return 2
    verdict = {"pass": "passes", "fail": "fails", "open": "is not settled"}[found["verdict"]]
    print(f"the soak {verdict}: {found['words']}")
    return 1 if found["verdict"] == "fail" else 0


def _folder(name: str | None) -> Path:
    """The run to write into; one of another machine, or the committed one, only where it is named."""
    from ocrlab import paths
    from ocrlab.commands.plan import find_run_here, run_folder
    from ocrlab.study.provenance import read_record, start_record, write_record

    if not name:
        try:
            return find_run_here(None)
        except PlanError as error:
            raise PlanError(f"{error}; or name one with --run NAME, and it is made") from error
    folder = run_folder(paths.RESULTS.absolute(), name, "soak")
    if not read_record(folder):
        write_record(folder, start_record(folder.name, "soak", "asked for") | {"profile": "soak"})
    return folder
