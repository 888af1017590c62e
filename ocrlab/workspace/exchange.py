"""`make share`, `make add`, `make verify`: runs that travel between machines."""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from ocrlab import paths
from ocrlab.workspace.plan import PlanError


def add_exchange(commands: Any) -> None:
    """Give the command line `share`, `add` and `verify`."""
    share = commands.add_parser("share", help="a run as one zip, without what names a person")
    share.add_argument("run", help="the folder's name in results/, or a path")
    share.add_argument("--with-images", metavar="FOLDER", help="with the images of your own pages, which lie there")
    share.add_argument("--to", metavar="FILE.zip", help="default: RUN.zip where you are")
    share.set_defaults(command=lambda a: share_run(a.run, a.with_images, a.to))
    add = commands.add_parser("add", help="check a shared zip and put its run into results/")
    add.add_argument("file", metavar="FILE.zip")
    add.add_argument("--as", dest="name", help="the run's name here (default: its own)")
    add.set_defaults(command=lambda a: add_run(a.file, a.name))
    check = commands.add_parser("verify", help="read a random tenth of a run's pages again and compare the texts")
    check.add_argument("run", nargs="?", help="the folder's name in results/, or a path (default: the newest)")
    check.add_argument("--share", type=float, default=0.1, help="how much of the pages, 3 at least (default: 0.1)")
    check.add_argument("--seed", type=int, default=0, help="which pages are drawn (default: 0)")
    check.add_argument("--only", default="", help="names of experiments, separated by commas (default: all)")
    check.add_argument("--pages", default="", metavar="FOLDER", help="where the run's pages lie, if not in our sets")
    check.set_defaults(command=_verify)


def share_run(run: str, images: str | None = None, to: str | None = None, results: Path | None = None) -> int:
    """Write a run's zip and print where; return 0, or 2 where it cannot be shared."""
    from ocrlab.report.parcel import ParcelError
    from ocrlab.report.share import pack_run
    from ocrlab.workspace.runs import find_run

    try:
        folder = find_run(run, results)
        target = Path(to) if to else Path.cwd() / f"{folder.name}.zip"
        file = pack_run(folder, target, Path(images).expanduser() if images else None)
    except (ParcelError, PlanError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{error.filename or run}: cannot be written ({error.strerror or error}); choose --to", file=sys.stderr)
        return 2
    print(f"{file}: {file.stat().st_size / 1e6:.1f} MB. Home folders, user and host names were taken out; texts that "
          "were read from pages, and their truth, are inside. Look before you send it.")  # fmt: skip
    return 0


def add_run(file: str, name: str | None = None, results: Path | None = None) -> int:
    """Check a zip, put its run into `results/` and print where; return 0, or 2 where it is refused."""
    from ocrlab.report.admit import unpack_run
    from ocrlab.report.overview import build_overview
    from ocrlab.report.parcel import ParcelError
    from ocrlab.report.site import build_site

    results = results or paths.RESULTS
    results.mkdir(exist_ok=True)
    # One deeper, so that what a killed process leaves behind is no run.
    place = Path(tempfile.mkdtemp(prefix=".adding-", dir=results))
    folder = place / "run"
    folder.mkdir()
    try:
        if name:
            _target(results, name)
        run = unpack_run(Path(file), folder)
        target = _target(results, name or run)
        _take_over(folder, target.name, Path(file).name)
        folder.rename(target)
        index = build_site(target)
        build_overview(results)
    except ParcelError as error:
        print(error, file=sys.stderr)
        return 2
    finally:
        shutil.rmtree(place, ignore_errors=True)
    print(f"{index}\nNext: `make verify RUN={target.name}` reads some of its pages here; 09-compare compares runs")
    return 0


def _target(results: Path, name: str) -> Path:
    from ocrlab.report.parcel import ParcelError

    if not re.fullmatch(r"\w[\w.+-]{0,99}", name) or name.endswith("."):
        raise ParcelError(f"--as {name}: not a folder name; use letters, digits, '-', '_' and '.'")
    if (results / name).exists():
        raise ParcelError(f"{results / name}: is there already and stays as it is; add this one under another name: "
                          f"--as {name}-2 (with make: AS_NAME={name}-2)")  # fmt: skip
    return results / name


def _take_over(folder: Path, name: str, file: str) -> None:
    """Note in `run.json` that the run came from elsewhere, and pack its records."""
    from ocrlab.report.parcel import ParcelError
    from ocrlab.study.records import pack_records
    from ocrlab.workspace.provenance import now, read_record, write_record

    record = read_record(folder)
    if not record:
        raise ParcelError(f"{file}: no run.json in it; make the zip with `make share RUN=…`")
    pack_records(folder)
    write_record(folder, record | {"run": name, "added": {"file": file, "time": now()}})


def _verify(args: argparse.Namespace) -> int:
    from ocrlab.workspace.verify import verify

    if not 0 < args.share <= 1:
        print(f"--share {args.share}: give a share of the pages above 0 and at most 1", file=sys.stderr)
        return 2
    return verify(args.run, args.share, args.seed, args.only, args.pages)
