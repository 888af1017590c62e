"""`ocrlab read`: text per page as it comes, or a whole library into text files and one JSONL."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

from tqdm import tqdm

from ocrlab import paths
from ocrlab.commands import library
from ocrlab.commands.library import Item, Sourced, gather
from ocrlab.commands.parameters import CommandError, CommandFailed
from ocrlab.commands.setting_flags import refuse_held, settings_of
from ocrlab.machine.describe import choose_device, choose_dtype, machine_name
from ocrlab.pages import Page
from ocrlab.reading.checkpoints import CheckpointError
from ocrlab.reading.cluster import Cluster
from ocrlab.reading.limits import predict
from ocrlab.reading.pool import PoolDown, ReaderPool
from ocrlab.reading.settings import LOAD_SETTINGS, Settings, is_endpoint
from ocrlab.scoring.metrics import Edits, corpus_rate
from ocrlab.study.records import RecordError, flat_row, readings_in

#: From this many pages on, the summary says how much of the workers' time was spent in `generate`.
STEADY_PAGES = 100
_SPEED_DEPENDS_ON = ({*LOAD_SETTINGS} - {"device", "dtype"}) | {"batch_size", "compile", "num_beams"}


def read_pages(**options: Any) -> int:
    """Read what the command line's flags ask for; return 0 all read, 1 some failed, 130 stopped.

    Raises:
        CommandError, PageError, SettingError, Refused: something unusable was asked for.
        CommandFailed: the disk is full, or no worker is left; the same command resumes.
    """
    args = SimpleNamespace(**options)
    settings = settings_of(args.preset, args.given)
    refuse_held(settings, args.quarantined)
    if args.prepare < 0 or args.page_timeout <= 0:
        raise CommandError("--prepare takes 0 or more, --page-timeout more than 0")
    if args.engine == "ray" and args.workers and not (args.workers.isdigit() and int(args.workers)):
        raise CommandError(f"--workers {args.workers}: the engine ray takes a number of workers, from 1 on")
    given = {"dpi": args.dpi, "truth": args.truth, "degrade": args.degrade or "", "truth_encoding": args.truth_encoding}
    sources = gather(args.paths, limit=args.limit, **given)
    try:
        with _engine(args, settings, len(sources.pages)) as engine:
            return _plan_and_read(args, settings, engine, sources)
    except PoolDown as error:
        raise CommandFailed(f"{error}; the same command goes on") from error
    except RecordError as error:
        raise CommandFailed(str(error)) from error


def _engine(args: Any, settings: Settings, pages: int) -> ReaderPool | Cluster:
    options: dict[str, Any] = {"page_timeout_s": args.page_timeout, "fewer_pixels": args.fewer_pixels}
    options["processes"] = args.prepare if pages > settings.batch_size else 0
    if args.engine == "ray":
        return Cluster(settings, args.address, int(args.workers or 0) or None, **options)
    pool = ReaderPool(settings, _devices(args.workers, settings)[:pages], **options)
    if not args.dry_run:
        pool.warm()  # models load while the pages are planned
    return pool


def _devices(asked: str, settings: Settings) -> list[str]:
    """Return one device per worker: those named, so many of the one, or every GPU that `device` allows."""
    import torch

    names = [name.strip() for name in asked.split(",") if name.strip()]
    if names and not names[0].isdigit():
        return [replace(settings, device=name).device for name in names]
    if names and (len(names) > 1 or int(names[0]) < 1):
        raise CommandError(f"--workers {asked}: give a number from 1 on, or devices with commas between them")
    ours = settings.device in {"auto", "cuda"} and not is_endpoint(settings.model_id)
    all_gpus = ours and torch.cuda.is_available()
    here = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if all_gpus else [settings.device]
    return [here[i % len(here)] for i in range(int(names[0]))] if names else here


def _plan_and_read(args: Any, settings: Settings, engine: ReaderPool | Cluster, sources: Sourced) -> int:
    output = None
    files: Sequence[Path | None] = [None] * len(sources.pages)
    if args.out is not None or args.beside:
        files = library.target_files(sources.pages, sources.names, None if args.beside else args.out)
        output = library.Output((args.out or sources.root) / library.RECORDS, retry_failed=args.retry_failed)
    items = library.plan_items(settings, sources.pages, files)
    todo = output.missing(items) if output else items
    if len(todo) < len(items):
        print(f"{len(items) - len(todo)} of {len(items)} pages were read before", file=sys.stderr)
    if args.dry_run:
        estimate(settings, items, todo, engine.workers)
        return 0
    if not todo:
        return 0
    progress = Progress(len(todo))
    with stop_politely(engine.stop) as stopped, _bar(todo) as bar:
        for item, record in library.read_items(engine, settings, todo, library.make_batches(todo, settings.batch_size)):
            if output:
                output.put(item, record)
            progress.add(item.page, record)
            _show(item.page, record, as_json=args.as_json, quiet=output is not None)
            bar.set_postfix_str(progress.pace(), refresh=False)
            bar.update(item.image_tokens or 1)
    for trouble in engine.troubles:
        print(f"a worker was lost: {trouble}", file=sys.stderr)
    return progress.summary(engine.workers, stopped(), args.as_json, output.file.file if output else None)


def _bar(todo: Sequence[Item]) -> Any:
    # Time left goes by image tokens: with batches, the largest pages come first.
    form = "{percentage:3.0f}%|{bar}| {elapsed}<{remaining} {postfix}"
    total = sum(item.image_tokens or 1 for item in todo)
    return tqdm(total=total, file=sys.stderr, disable=not sys.stderr.isatty(), bar_format=form, dynamic_ncols=True)


def _show(page: Page, record: dict[str, Any], *, as_json: bool, quiet: bool) -> None:
    """Print one page's object or its text on standard output, and what went wrong on standard error."""
    name = f"{page.where}" + (f", page {page.page_number}" if page.page_number is not None else "")
    if as_json:
        print(json.dumps(record, ensure_ascii=False), flush=True)
        return
    if not quiet:
        tqdm.write("\n".join(filter(None, [f"── {name}", record["text"]])), file=sys.stdout)
    if record["status"] != "ok":
        tqdm.write(f"{name}: {record['status']}: {record['reason']}", file=sys.stderr)
    if page.problem and not page.refused:
        tqdm.write(f"{page.problem}; read without a score", file=sys.stderr)


class Progress:
    """Counts readings of `total` pages as they come."""

    def __init__(self, total: int) -> None:
        self.total, self.pages, self.bad = total, 0, 0
        self.edits: list[Edits] = []
        self.started = time.perf_counter()
        self.began: float | None = None
        self.generate_s = 0.0

    def add(self, page: Page, record: dict[str, Any]) -> None:
        """Count one page's object."""
        took = record.get("generate_s") or 0.0
        if self.began is None:  # loading is over
            self.began = time.perf_counter() - took
        self.generate_s += took / record.get("batch_pages", 1)
        self.pages += 1
        self.bad += record["status"] != "ok"
        if page.truth is not None and record["cer"] is not None:
            self.edits.append(Edits(record["cer_edits"], record["cer_length"]))

    def pace(self) -> str:
        """Return pages and pages per second, in words."""
        rate = self.pages / max(time.perf_counter() - self.started, 1e-9)
        return f"{self.pages}/{self.total} pages, {rate:.2f} pages/s"

    def summary(self, workers: int, stopped: bool, as_json: bool, where: Path | None) -> int:
        """Print what came of it and return the exit code: 0 all read, 1 some failed, 130 stopped."""
        now = time.perf_counter()
        if where is not None:
            part = self.generate_s / (workers * (now - (self.began or self.started)))
            # Above 1 where readings came in bulk, long after they were read (Ray): then it cannot be known.
            share = f"; {part:.0%} of it in generate" if self.pages > STEADY_PAGES and part <= 1 else ""
            print(f"{self.pace()}, {now - self.started:.0f} s with loading{share}; {where}", file=sys.stderr)
        if self.edits:
            rate = f"CER {corpus_rate(self.edits):.2%} over {len(self.edits)} pages with truth (white space collapsed)"
            print(rate, file=sys.stderr if as_json else sys.stdout)
        if self.bad:
            print(f"{self.bad} of {self.pages} pages were not read to their end", file=sys.stderr)
        if stopped:
            how = "the same command goes on from here" if where else "with --out it could go on from here"
            print(f"stopped: {self.total - self.pages} pages are not read; {how}", file=sys.stderr)
        return 130 if stopped else int(self.bad > 0)


@contextmanager
def stop_politely(stop: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """Call `stop` at the first Ctrl-C within the block; yield what says whether it came. The second one interrupts."""
    asked = threading.Event()

    def handle(*_: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        print("\nstopping after the pages in hand; Ctrl-C once more ends at once", file=sys.stderr)
        stop()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)


def estimate(settings: Settings, items: Sequence[Item], todo: Sequence[Item], workers: int) -> None:
    """Print what there is to read with these settings, the memory for a batch of the largest, and the time."""
    print(f"{len(items)} pages, {len(todo)} to read, by {workers} worker{'s' * (workers > 1)}")
    for page in (item.page for item in items if item.page.refused):
        print(f"  will be passed over: {page.problem}")
    sizes = sorted(item.image_tokens for item in todo if item.image_tokens)
    if not sizes:
        return
    print(f"image tokens per page: {sizes[0]:,} to {sizes[-1]:,}, median {round(median(sizes)):,}")
    here = choose_device(settings.device).value
    dtype = choose_dtype(settings.dtype, here).value
    try:
        memory = predict(replace(settings, device=here), sizes[-1], dtype=dtype).memory
        print(
            f"memory: {memory.peak_bytes / 2**30:.2f} GiB predicted for a batch of {settings.batch_size} of the "
            f"largest with all {settings.max_new_tokens} tokens, of it {memory.weights_bytes / 2**30:.2f} GiB weights"
        )
    except CheckpointError as error:
        print(f"memory: not predicted ({error})")
    paces = sorted(_seconds_per_token(settings, dtype))
    if not paces:
        print("time: no reading with such settings on this machine in results/ yet; read some pages first (--limit)")
        return
    total = sum(sizes) / workers
    low, middle, high = (_clock(total * paces[round(share * (len(paces) - 1))]) for share in (0.25, 0.5, 0.75))
    print(
        f"time: {middle} ({low} to {high}), by the seconds per image token of {len(paces)} readings here with such "
        "settings (median, and quartiles)"
    )


def _seconds_per_token(settings: Settings, dtype: str) -> list[float]:
    """Return page_s per image token of this machine's readings in results/ that share what speed depends on."""
    same = {name: getattr(settings, name) for name in _SPEED_DEPENDS_ON}
    same |= {"machine": machine_name(), "min_new_tokens": None, "actual_dtype": dtype}
    rows = [flat_row(record) for run in paths.runs_in(paths.RESULTS) for record in readings_in(run)]
    mine = [row for row in rows if all(row.get(name) == value for name, value in same.items())]
    return [row["page_s"] / row["image_tokens"] for row in mine if row.get("page_s") and row.get("image_tokens")]


def _clock(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
