"""`make soak`: read pages for so many minutes, a line a minute, and a verdict that the readiness checks use."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ocrlab.workspace.flags import add_settings, refuse_held, settings_of


def add_soak(commands: Any) -> None:
    """Give the command line its `soak`."""
    soak = commands.add_parser(
        "soak", help="read pages again and again: does memory grow, does a text change?", allow_abbrev=False,
        description="Exit code 0: nothing failed, changed or grew; 1: something did; 2: unusable arguments. Every "
        "setting is a flag of the same name.",
    )  # fmt: skip
    soak.add_argument("--minutes", type=float, default=60, help="how long (default: 60); one whole pass at least")
    soak.add_argument("--count", type=int, default=0, help="and so many readings at least")
    soak.add_argument("--pages", default="lines", help="a set, folder, file or glob (default: lines)")
    soak.add_argument("--limit", type=int, help="the first so many pages")
    soak.add_argument("--run", help="the folder's name in results/; made where it is new (default: your newest run)")
    soak.add_argument("--quarantined", action="store_true", help="read even with a setting that the canary caught")
    add_settings(soak)
    soak.set_defaults(command=soak_run)


def soak_run(args: argparse.Namespace) -> int:
    """Soak as the arguments say and return the exit code: 0 well or not settled, 1 failed, 2 unusable arguments."""
    from ocrlab.pages import PageError, load_pages
    from ocrlab.reading.served import Refused
    from ocrlab.reading.settings import SettingError
    from ocrlab.study.records import RecordError
    from ocrlab.study.soak import run_soak
    from ocrlab.workspace.plan import PlanError

    if not args.minutes > 0:
        print(f"--minutes {args.minutes:g}: give a time above 0, such as 60", file=sys.stderr)
        return 2
    try:
        settings = settings_of(args)
        pages = load_pages(args.pages, limit=args.limit)
        refuse_held(settings, args.quarantined)
        folder = _folder(args.run or None)
        print(f"{len(pages)} pages of {args.pages} for {args.minutes:g} min, into {folder.name}", flush=True)
        found = run_soak(settings, pages, minutes=args.minutes, count=args.count, folder=folder, tell=_tell)
    except (SettingError, PageError, PlanError, Refused, RecordError) as error:
        print(error, file=sys.stderr)
        return 2
    verdict = {"pass": "passes", "fail": "fails", "open": "is not settled"}[found["verdict"]]
    print(f"the soak {verdict}: {found['words']}")
    return 1 if found["verdict"] == "fail" else 0


def _folder(name: str | None) -> Path:
    """The run to write into; one of another machine, or the committed one, only where it is named."""
    from ocrlab import paths
    from ocrlab.workspace.plan import PlanError, run_folder
    from ocrlab.workspace.provenance import read_record, start_record, write_record
    from ocrlab.workspace.runs import find_run_here

    if name is None:
        try:
            return find_run_here(None)
        except PlanError as error:
            raise PlanError(f"{error}; or name one with --run NAME, and it is made") from error
    folder = run_folder(paths.RESULTS.absolute(), name, "soak")
    if not read_record(folder):
        write_record(folder, start_record(folder.name, "soak", "asked for") | {"profile": "soak"})
    return folder


def _tell(line: dict[str, Any]) -> None:
    from tqdm import tqdm

    statuses = ", ".join(f"{count} {status}" for status, count in line["statuses"].items())
    changed = f", changed: {', '.join(line['changed'])}" if line["changed"] else ""
    held = f"{line['resident_bytes'] / 2**20:.0f} MiB" if line["resident_bytes"] is not None else "memory not told"
    pace = f"{1000 * line['page_s']:.0f} ms a page" if line["page_s"] is not None else "no page read"
    tqdm.write(
        f"{line['minutes']:6.1f} min  {line['pages']:>6} pages  {statuses}{changed}  {held}  {pace}"
        + (f"  {line['restarts']} restarts" if line["restarts"] else "")
        + ("" if line["warm"] else "  (first pass)"),
        file=sys.stdout,
    )
