"""Is this machine ready (`ready`), does it stay so (`soak`), and will a model fit a card (`fit`)?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from textwrap import wrap
from typing import Any

from ocrlab import paths
from ocrlab.commands.parameters import CommandError
from ocrlab.commands.plan import find_run_here, run_folder
from ocrlab.commands.setting_flags import refuse_held, settings_of
from ocrlab.experiments.limits import BUDGETS, fit_matrix, fit_table
from ocrlab.experiments.readiness import check_readiness
from ocrlab.experiments.soak import run_soak
from ocrlab.machine.hardware import Machine, card, cards as known_cards
from ocrlab.pages import load_pages
from ocrlab.reading.limits import weights_of
from ocrlab.reading.settings import Settings, load_preset
from ocrlab.study.provenance import read_record, start_record, write_record


def ready_run(run: str | None, threshold: float = 0.8) -> int:
    """Print the checks of a run and return the exit code: 0 ready, 1 below the threshold.

    Raises:
        CommandError: no such run, or none of its checks was measured; RecordError: damaged readings.
    """
    if not 0 <= threshold <= 1:
        raise CommandError(f"--threshold {threshold:g}: give a share from 0 to 1, such as 0.8")
    folder = find_run_here(run)
    found = check_readiness(folder)
    print(f"run {folder.name}: {found.machine or 'machine not known'}, {found.model_id or 'no model'}\n")
    print(f"{'answer':<13} weight  check")
    for check in found.checks:
        print(f"{check.state:<13} {check.weight:>6}  {check.asks}")
        print("".join(f"{'':<22}{line}\n" for line in wrap(check.reason, 96, break_on_hyphens=False)), end="")
    print(f"\n{found.words}; threshold {threshold:.0%}")
    if found.score is None:
        raise CommandError(f"{folder}: none of the checks was measured; run `make reproduce RUN={folder.name}`")
    return 0 if found.score >= threshold else 1


def fit(
    model: str,
    cards: Sequence[str] | None,
    memory_gib: Sequence[float] | None,
    every: bool,
    preset: str | None,
    as_json: bool,
    **changes: Any,
) -> int:
    """Print what fits and the time floors, and return 0; `changes` are settings, laid over the preset or the model's.

    Without a card or a size of memory, the RTX 50 cards are asked about.

    Raises:
        UnknownCard, CheckpointError, SettingError: no such card, model or setting; CommandError: no size of memory.
    """
    base = load_preset(preset) if preset else Settings(model_id=model)
    settings = replace(base, **changes)
    if wrong := [size for size in memory_gib or () if not 0 < size < 10_000]:
        raise CommandError(f"--memory-gib {wrong[0]:g}: give a card's memory in GiB, such as 12")
    machines = [card(name) for name in cards or ()]
    machines += [Machine(f"any card of {n:g} GiB", int(n * 2**30)) for n in memory_gib or ()]
    known = [one for name, one in known_cards().items() if every or (not machines and name.startswith("RTX 50"))]
    table = fit_table(settings, [*machines, *known])
    if as_json:
        for line in table.to_dict("records"):
            print(json.dumps({name: None if value != value else value for name, value in line.items()}))
        return 0
    asked = f"{settings.dtype}, batch {settings.batch_size}, {settings.max_new_tokens} new tokens"
    weights = weights_of(settings)
    print(f"{settings.model_id}, {asked}: predicted, nothing was loaded")
    print(f"weights: {table['weights_gib'].iloc[0]:.2f} GiB for {weights.total:,} parameters, a part of every peak")
    print(fit_matrix(table).to_string())
    if "peak_gib" not in table:
        print("what a reading takes above its weights is not modelled for this family: measure it with a page")
        return 0
    print("\nAt best, by the datasheets (seconds; real readings take several times as long):")
    best = table[(table["attention"] == "sdpa") & table["max_pixels"].isin([BUDGETS[0], BUDGETS[1], BUDGETS[3]])]
    for name, mine in best.groupby("card", sort=False):
        vision = ", ".join(f"{v:.2f} at {t}" for v, t in zip(mine["vision_s"], mine["image_tokens"], strict=True))
        said = f"vision {vision} image tokens" if mine["vision_s"].notna().all() else "vision not known"
        pace = mine["tpot_s"].iloc[0]
        print(f"  {name}: {said}; {1 / pace:.0f} tokens/s" if pace == pace else f"  {name}: its rates are not known")
    return 0


def soak_run(
    given: dict[str, str],
    minutes: float,
    count: int,
    pages: str,
    limit: int | None,
    run: str | None,
    quarantined: bool,
    preset: str | None,
) -> int:
    """Read pages for so many minutes and print the verdict; return 0 well or not settled, 1 failed.

    Raises:
        SettingError, PageError, CommandError, Refused, RecordError: what was asked for cannot be read.
    """
    if not minutes > 0:
        raise CommandError(f"--minutes {minutes:g}: give a time above 0, such as 60")
    settings = settings_of(preset, given)
    loaded = load_pages(pages, limit=limit)
    refuse_held(settings, quarantined)
    folder = _folder(run)
    print(f"{len(loaded)} pages of {pages} for {minutes:g} min, into {folder.name}", flush=True)
    found = run_soak(settings, loaded, minutes=minutes, count=count, folder=folder)
    verdict = {"pass": "passes", "fail": "fails", "open": "is not settled"}[found["verdict"]]
    print(f"the soak {verdict}: {found['words']}")
    return 1 if found["verdict"] == "fail" else 0


def _folder(name: str | None) -> Path:
    """Return the run to write into; one of another machine, or the committed one, only where it is named."""
    if not name:
        try:
            return find_run_here(None)
        except CommandError as error:
            raise CommandError(f"{error}; or name one with --run NAME, and it is made") from error
    folder = run_folder(paths.RESULTS.absolute(), name, "soak")
    if not read_record(folder):
        write_record(folder, start_record(folder.name, "soak", "asked for") | {"profile": "soak"})
    return folder
