"""`make ready`: the readiness checks of a run as a table, and an exit code by a threshold."""

from __future__ import annotations

import sys
from textwrap import wrap
from typing import Any


def add_ready(commands: Any) -> None:
    """Give the command line its `ready`."""
    ready = commands.add_parser(
        "ready", help="is this machine ready? checks over a run's rows",
        description="Exit code 0: the share of the measured weight that passes reaches the threshold; 1: it does not; "
        "2: unusable arguments or run, or no run of this machine.",
    )  # fmt: skip
    ready.add_argument("--run", help="the folder's name in results/, or a path (default: the newest of this machine)")
    ready.add_argument("--threshold", type=float, default=0.8, help="share of the measured weight (default: 0.8)")
    ready.set_defaults(command=lambda args: ready_run(args.run, args.threshold))


def ready_run(name: str | None, threshold: float = 0.8) -> int:
    """Print the checks of a run and return the exit code: 0 ready, 1 below the threshold, 2 an unusable run."""
    from ocrlab.study.readiness import check_readiness
    from ocrlab.study.records import RecordError
    from ocrlab.workspace.plan import PlanError
    from ocrlab.workspace.runs import find_run_here

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
