"""`make soak`: read pages for so many minutes, and a verdict that the readiness checks use."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ocrlab.commands.setting_flags import refuse_held, settings_of


def soak_run(args: Any) -> int:
    """Soak as the arguments say and return the exit code: 0 well or not settled, 1 failed, 2 unusable arguments."""
    from ocrlab.commands.plan import PlanError
    from ocrlab.pages import PageError, load_pages
    from ocrlab.reading.isolated import Refused
    from ocrlab.reading.settings import SettingError
    from ocrlab.study.records import RecordError
    from ocrlab.study.soak import run_soak

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
        return find_run_here(None)
    folder = run_folder(paths.RESULTS.absolute(), name, "soak")
    if not read_record(folder):
        write_record(folder, start_record(folder.name, "soak", "asked for") | {"profile": "soak"})
    return folder
