"""`python -m ocrlab read`: text per page as it comes, or a whole library into text files and one JSONL."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ocrlab.pages import PageError
from ocrlab.pages.pdf import PDF_DPI
from ocrlab.reading.address import is_endpoint
from ocrlab.reading.settings import SettingError, Settings
from ocrlab.workspace.flags import add_settings, refuse_held, settings_of
from ocrlab.workspace.interrupt import stop_politely
from ocrlab.workspace.sources import Sourced, gather
from ocrlab.workspace.tally import Tally, show

if TYPE_CHECKING:
    from ocrlab.reading.cluster import Cluster
    from ocrlab.reading.pool import ReaderPool


def add_read(commands: Any) -> None:
    """Give the command line its `read`."""
    read = commands.add_parser(
        "read", help="read images and PDFs: a set, folders, files, globs, or a list on standard input",
        allow_abbrev=False,
        description="Prints each page's text as it comes, then CER where truth lies beside. With --out the texts go to "
        "files that mirror the input, and everything measured to readings.jsonl there; the same command goes on where "
        "it was stopped. Exit code 0: every page was read; 1: some failed; 2: unusable arguments; 130: stopped. Every "
        "setting is a flag of the same name.",
    )  # fmt: skip
    read.add_argument("paths", nargs="+", metavar="PATH", help="a set, folder, file, glob or URL; -: a list of paths")
    read.add_argument("--out", type=Path, metavar="FOLDER", help="text files and readings.jsonl go there")
    read.add_argument("--beside", action="store_true", help="text files go beside the pages, as NAME.png.txt")
    read.add_argument("--json", action="store_true", help="one object a page on standard output, all else on error")
    read.add_argument("--limit", type=int, help="the first so many pages of each path")
    read.add_argument("--dpi", type=int, default=PDF_DPI, help=f"at which PDF pages are drawn (default: {PDF_DPI})")
    read.add_argument("--dry-run", action="store_true", help="tell pages, memory and time; read nothing")
    read.add_argument("--retry-failed", action="store_true", help="read again what failed before")
    read.add_argument("--fewer-pixels", action="store_true", help="a page that does not fit is read at fewer pixels")
    read.add_argument(
        "--workers", default="", metavar="N|DEVICES", help="a number, or e.g. cuda:0,cuda:1 (default: all)"
    )
    read.add_argument(
        "--prepare", type=int, default=1, metavar="N", help="processes that open pages, a worker (default: 1)"
    )
    read.add_argument("--engine", choices=["local", "ray"], default="local", help="ray: on the machines of a cluster")
    read.add_argument("--address", help="the Ray cluster's (default: RAY_ADDRESS, else one is started here)")
    read.add_argument("--page-timeout", type=float, default=1800, metavar="SECONDS", help="of a batch (default: 1800)")
    read.add_argument("--quarantined", action="store_true", help="read even with a setting that the canary caught")
    add_settings(read)
    read.set_defaults(command=_read)


def _read(args: argparse.Namespace) -> int:
    from ocrlab.reading.isolated import Refused
    from ocrlab.reading.pool import PoolDown
    from ocrlab.study.records import RecordError

    try:
        settings = settings_of(args)
        refuse_held(settings, args.quarantined)
        if args.prepare < 0 or args.page_timeout <= 0:
            raise SettingError("--prepare takes 0 or more, --page-timeout more than 0")
        if args.engine == "ray" and args.workers and not (args.workers.isdigit() and int(args.workers)):
            raise SettingError(f"--workers {args.workers}: the engine ray takes a number of workers, from 1 on")
        return _go(args, settings, gather(args.paths, limit=args.limit, dpi=args.dpi))
    except (RecordError, PoolDown) as error:
        print(f"{error}; the same command goes on" if isinstance(error, PoolDown) else error, file=sys.stderr)
        return 1
    except (PageError, SettingError, Refused) as error:
        print(error, file=sys.stderr)
        return 2


def _devices(asked: str, settings: Settings) -> list[str]:
    """Return one device a worker: those that were named, so many of the one, or every GPU that `device` allows."""
    import torch

    names = [name.strip() for name in asked.split(",") if name.strip()]
    if names and not names[0].isdigit():
        return [replace(settings, device=name).device for name in names]
    if names and (len(names) > 1 or int(names[0]) < 1):
        raise SettingError(f"--workers {asked}: give a number from 1 on, or devices with commas between them")
    ours = settings.device in {"auto", "cuda"} and not is_endpoint(settings.model_id)
    all_gpus = ours and torch.cuda.is_available()
    here = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if all_gpus else [settings.device]
    return [here[i % len(here)] for i in range(int(names[0]))] if names else here


def _go(args: argparse.Namespace, settings: Settings, sources: Sourced) -> int:
    from ocrlab.reading.cluster import Cluster
    from ocrlab.reading.pool import ReaderPool

    options: dict[str, Any] = {
        "processes": args.prepare if len(sources.pages) > settings.batch_size else 0,
        "page_timeout_s": args.page_timeout, "fewer_pixels": args.fewer_pixels,
    }  # fmt: skip
    engine: ReaderPool | Cluster
    if args.engine == "ray":
        engine = Cluster(settings, args.address, int(args.workers or 0) or None, **options)
    else:
        engine = ReaderPool(settings, _devices(args.workers, settings)[: len(sources.pages)], **options)
        if not args.dry_run:
            engine.warm()  # models load while the pages are planned
    with engine:
        return _plan_and_read(args, settings, engine, sources)


def _plan_and_read(args: argparse.Namespace, settings: Settings, engine: ReaderPool | Cluster, sources: Sourced) -> int:
    from ocrlab.study.library import RECORDS, Shelf, make_batches, plan_items, read_items, target_files

    keep = args.out is not None or args.beside
    files: list[Any] = [None] * len(sources.pages)
    if keep:
        files = target_files(sources.pages, sources.names, None if args.beside else args.out)
    items = plan_items(settings, sources.pages, files)
    shelf = Shelf((args.out or sources.root) / RECORDS, retry_failed=args.retry_failed) if keep else None
    todo = shelf.missing(items) if shelf else items
    if shelf and len(todo) < len(items):
        print(f"{len(items) - len(todo)} of {len(items)} pages were read before", file=sys.stderr)
    if args.dry_run:
        from ocrlab.workspace.estimate import estimate

        estimate(settings, items, todo, engine.workers)
        return 0
    if not todo:
        return 0
    tally = Tally(len(todo))
    with stop_politely(engine.stop) as stopped, _bar(todo) as bar:
        for item, told in read_items(engine, settings, todo, make_batches(todo, settings.batch_size)):
            if shelf:
                shelf.put(item, told)
            tally.add(item.page, told)
            show(item.page, told, as_json=args.json, quiet=keep)
            bar.set_postfix_str(tally.pace(), refresh=False)
            bar.update(item.image_tokens or 1)
    for trouble in engine.troubles:
        print(f"a worker was lost: {trouble}", file=sys.stderr)
    return tally.summary(engine.workers, stopped(), as_json=args.json, where=shelf.file.file if shelf else None)


def _bar(todo: Sequence[Any]) -> Any:
    # Time left is told by image tokens: with batches, the largest pages come first.
    form = "{percentage:3.0f}%|{bar}| {elapsed}<{remaining} {postfix}"
    total = sum(item.image_tokens or 1 for item in todo)
    return tqdm(total=total, file=sys.stderr, disable=not sys.stderr.isatty(), bar_format=form, dynamic_ncols=True)
