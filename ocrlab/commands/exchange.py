"""`make report`, `make share`, `make add`, `make verify`: a run's site, and runs that travel between machines."""

from __future__ import annotations

import os
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ocrlab import paths
from ocrlab.commands.parameters import CommandError
from ocrlab.commands.plan import checked_name, find_run
from ocrlab.pages.load import OWN_SETS, is_url
from ocrlab.report.share import pack_run, unpack_run
from ocrlab.report.site import build_overview, build_site
from ocrlab.study.provenance import now, read_record, readings_record, write_record
from ocrlab.study.records import pack_records, readings_in
from ocrlab.study.rereading import Again, absent_pages, dpis_of, draw, pages_by_hash, repeatable, reread

_NAMED = 8


def rebuild_site(run: str) -> int:
    """Build a run's site again, print where, and return 0; raise CommandError where there is no such run."""
    folder = find_run(run)
    write_record(folder, read_record(folder) | readings_record(folder))
    print(build_site(folder))
    if folder.parent == paths.RESULTS:
        build_overview(paths.RESULTS)
    return 0


def share_run(run: str, with_images: str | None = None, to: str | None = None, results: Path | None = None) -> int:
    """Write a run's zip, print where, and return 0.

    Raises:
        CommandError: no such run, or the zip cannot be written; ShareError: the run cannot be shared.
    """
    folder = find_run(run, results)
    target = Path(to) if to else Path.cwd() / f"{folder.name}.zip"
    try:
        file = pack_run(folder, target, Path(with_images).expanduser() if with_images else None)
    except OSError as error:
        where = error.filename or run
        raise CommandError(f"{where}: cannot be written ({error.strerror or error}); choose --to") from error
    print(
        f"{file}: {file.stat().st_size / 1e6:.1f} MB. Home folders, user and host names were taken out; texts that "
        "were read from pages, and their truth, are inside. Look before you send it."
    )
    return 0


def add_run(file: str, name: str | None = None, results: Path | None = None) -> int:
    """Check a zip, put its run into `results/`, print where, and return 0.

    Raises:
        ShareError: the zip is refused; CommandError: a run of that name is there, or no folder can have the name.
    """
    results = results or paths.RESULTS
    if name:
        _target(results, name)
    results.mkdir(exist_ok=True)
    # One deeper, so that what a killed process leaves behind is no run.
    with tempfile.TemporaryDirectory(prefix=".adding-", dir=results) as place:
        folder = Path(place) / "run"
        folder.mkdir()
        run, passed_over = unpack_run(Path(file), folder)
        target = _target(results, name or run)
        pack_records(folder)
        added = {"run": target.name, "added": {"file": Path(file).name, "time": now()}}
        write_record(folder, read_record(folder) | added)
        folder.rename(target)
    index = build_site(target)
    build_overview(results)
    if passed_over:
        print(f"Passed over, as the site is drawn from the records: {len(passed_over)} files of notebooks and pictures")
    print(f"{index}\nNext: `make verify RUN={target.name}` reads some of its pages here; 09-compare compares runs")
    return 0


def _target(results: Path, name: str) -> Path:
    target = results / checked_name("--as ", name)
    if target.exists():
        raise CommandError(
            f"{target}: is there already and stays as it is; add this one under another name: "
            f"--as {name}-2 (with make: AS_NAME={name}-2)"
        )
    return target


def verify(
    run: str | None, share: float = 0.1, seed: int = 0, only: str = "", pages: str = "", results: Path | None = None
) -> int:
    """Read pages again and print what changed; return 0 all the same, 1 some differ, 2 nothing could be compared.

    `only` names experiments with commas between them, `pages` a folder where the run's own pages lie. Nothing is
    fetched from a network and nothing is written.

    Raises:
        CommandError: no such run or experiment, no page of it here, or a reading that lacks something; RecordError:
            damaged readings.
    """
    if not 0 < share <= 1:
        raise CommandError(f"--share {share}: give a share of the pages above 0 and at most 1")
    os.environ["HF_HUB_OFFLINE"] = "1"
    folder = find_run(run, results)
    wanted = {name.strip() for name in only.split(",") if name.strip()}
    readings = readings_in(folder)
    if unknown := wanted - {reading["experiment"] for reading in readings}:
        raise CommandError(f"{folder}: has no readings of {', '.join(sorted(unknown))}")
    try:
        usable = repeatable([r for r in readings if not wanted or r["experiment"] in wanted])
    except KeyError as error:
        raise CommandError(f"{folder}: a reading lacks {error}") from error
    sources = [*([pages] if pages else []), *OWN_SETS, *_asked_sources(read_record(folder))]
    here = pages_by_hash(sources, dpis_of(usable))
    _print_left_out("page", absent_pages(usable, here, sources))
    drawn = set(draw([r["page_sha256"] for r in usable if r["page_sha256"] in here], share, seed))
    chosen = [reading for reading in usable if reading["page_sha256"] in drawn]
    if not chosen:
        raise CommandError(f"{folder.name}: no greedy reading of a page that is here: nothing to compare")
    print(f"{folder.name}: {len(drawn)} pages (seed {seed}), {len(chosen)} readings", flush=True)
    done = []
    bar = tqdm(reread(chosen, here), total=len(chosen), unit="page", disable=not sys.stderr.isatty())
    for again in bar:
        done.append(again)
        if again.outcome == "different":
            where = "; ".join(filter(None, [str(again.difference or ""), again.reason]))
            tqdm.write(f"{again.page} ({again.experiment}: {again.setting}): {where}", file=sys.stdout)
    return _summary(done)


def _summary(done: list[Again]) -> int:
    _print_left_out("setting", {again.setting: again.reason for again in done if again.outcome == "left out"})
    counts = Counter(again.outcome for again in done)
    print(f"{counts['same']} same text, {counts['different']} different, {counts['left out']} left out")
    if counts["different"]:
        return 1
    return 0 if counts["same"] else 2


def _print_left_out(what: str, reasons: Mapping[str, str]) -> None:
    """Print each reason once with what it concerns."""
    for reason in dict.fromkeys(reasons.values()):
        names = [name for name, why in reasons.items() if why == reason]
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        print(f"left out, {what} {'; '.join(names[:_NAMED])}{more}: {reason}", file=sys.stderr)


def _asked_sources(record: Mapping[str, Any]) -> list[str]:
    """Return the page sets and folders that the run's notebooks were given."""
    given = [entry.get("parameters") or {} for entry in record.get("notebooks", {}).values()]
    values = [one[name] for one in given for name in ("page_set", "page_sets") if one.get(name)]
    sources = [source for value in values for source in (value if isinstance(value, list) else [value])]
    return [s if is_url(s) else str(Path(s).expanduser()) for s in dict.fromkeys(sources) if s not in OWN_SETS]
