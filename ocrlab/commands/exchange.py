"""`make report`, `make share`, `make add`, `make verify`: a run's site, and runs that travel between machines."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ocrlab import paths
from ocrlab.commands.plan import PlanError, find_run
from ocrlab.experiments.embedded_reader import absent_pages, dpis_of, pages_by_hash
from ocrlab.pages.load import OWN_SETS, is_url
from ocrlab.report.share import ShareError, pack_run, unpack_run
from ocrlab.report.site import build_overview, build_site
from ocrlab.study.provenance import now, read_record, readings_record, write_record
from ocrlab.study.records import RecordError, pack_records, readings_in
from ocrlab.study.rereading import Again, draw, repeatable, reread

_NAMED = 8


def rebuild_site(run: str) -> int:
    """Build a run's site again and print where; return 0, or 2 where there is no such run."""
    folder = Path(run) if Path(run).is_dir() else paths.RESULTS / run
    if not (folder / "run.json").is_file():
        known = [run.name for run in paths.runs_in(paths.RESULTS)]
        print(f"{folder}: no run.json there; the runs here are: {', '.join(known) or 'none yet'}", file=sys.stderr)
        return 2
    if record := read_record(folder):
        write_record(folder, record | readings_record(folder))
    print(build_site(folder))
    if folder.parent == paths.RESULTS:
        build_overview(paths.RESULTS)
    return 0


def share_run(run: str, images: str | None = None, to: str | None = None, results: Path | None = None) -> int:
    """Write a run's zip and print where; return 0, or 2 where it cannot be shared."""
    try:
        folder = find_run(run, results)
        target = Path(to) if to else Path.cwd() / f"{folder.name}.zip"
        file = pack_run(folder, target, Path(images).expanduser() if images else None)
    except (PlanError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{error.filename or run}: cannot be written ({error.strerror or error}); choose --to", file=sys.stderr)
        return 2
    print(
        f"{file}: {file.stat().st_size / 1e6:.1f} MB. Home folders, user and host names were taken out; texts that "
        "were read from pages, and their truth, are inside. Look before you send it."
    )
    return 0


def add_run(file: str, name: str | None = None, results: Path | None = None) -> int:
    """Check a zip, put its run into `results/` and print where; return 0, or 2 where it is refused."""
    results = results or paths.RESULTS
    results.mkdir(exist_ok=True)
    # One deeper, so that what a killed process leaves behind is no run.
    place = Path(tempfile.mkdtemp(prefix=".adding-", dir=results))
    folder = place / "run"
    folder.mkdir()
    try:
        if name:
            _target(results, name)
        run, passed_over = unpack_run(Path(file), folder)
        target = _target(results, name or run)
        _take_in(folder, target.name, Path(file).name)
        folder.rename(target)
        index = build_site(target)
        build_overview(results)
    except ShareError as error:
        print(error, file=sys.stderr)
        return 2
    finally:
        shutil.rmtree(place, ignore_errors=True)
    if passed_over:
        print(f"Passed over, as the site is drawn from the records: {len(passed_over)} files of notebooks and pictures")
    print(f"{index}\nNext: `make verify RUN={target.name}` reads some of its pages here; 09-compare compares runs")
    return 0


def _target(results: Path, name: str) -> Path:
    if not re.fullmatch(r"\w[\w.+-]{0,99}", name) or name.endswith("."):
        raise ShareError(f"--as {name}: not a folder name; use letters, digits, '-', '_' and '.'")
    if (results / name).exists():
        raise ShareError(
            f"{results / name}: is there already and stays as it is; add this one under another name: "
            f"--as {name}-2 (with make: AS_NAME={name}-2)"
        )
    return results / name


def _take_in(folder: Path, name: str, file: str) -> None:
    """Note in `run.json` that the run came from elsewhere, and pack its records."""
    pack_records(folder)
    write_record(folder, read_record(folder) | {"run": name, "added": {"file": file, "time": now()}})


def verify(
    run: str | None, share: float = 0.1, seed: int = 0, only: str = "", pages: str = "", results: Path | None = None
) -> int:
    """Read pages again and print what changed; return 0 all the same, 1 some differ, 2 nothing could be compared.

    `only` names experiments with commas between them, `pages` a folder where the run's own pages lie. Nothing is
    fetched from a network and nothing is written.
    """
    if not 0 < share <= 1:
        print(f"--share {share}: give a share of the pages above 0 and at most 1", file=sys.stderr)
        return 2
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        folder = find_run(run, results)
        wanted = {name.strip() for name in only.split(",") if name.strip()}
        readings = readings_in(folder)
        if unknown := wanted - {reading["experiment"] for reading in readings}:
            raise PlanError(f"{folder}: has no readings of {', '.join(sorted(unknown))}")
        usable = repeatable([r for r in readings if not wanted or r["experiment"] in wanted])
    except (PlanError, RecordError, ValueError, KeyError) as error:
        print(error if not isinstance(error, KeyError) else f"{run}: a reading lacks {error}", file=sys.stderr)
        return 2
    sources = [*([pages] if pages else []), *OWN_SETS, *_asked_sources(read_record(folder))]
    here = pages_by_hash(sources, dpis_of(usable))
    _tell("page", absent_pages(usable, here, sources))
    drawn = set(draw([r["page_sha256"] for r in usable if r["page_sha256"] in here], share, seed))
    chosen = [reading for reading in usable if reading["page_sha256"] in drawn]
    if not chosen:
        print(f"{folder.name}: no greedy reading of a page that is here: nothing to compare", file=sys.stderr)
        return 2
    print(f"{folder.name}: {len(drawn)} pages (seed {seed}), {len(chosen)} readings", flush=True)
    return _summary(_reread(chosen, here))


def _reread(chosen: list[Mapping[str, Any]], here: Mapping[str, Any]) -> list[Again]:
    done = []
    with tqdm(total=len(chosen), unit="page", file=sys.stderr, disable=not sys.stderr.isatty()) as bar:
        for again in reread(chosen, here):
            done.append(again)
            bar.update()
            if again.outcome == "different":
                where = "; ".join(filter(None, [str(again.difference or ""), again.reason]))
                tqdm.write(f"{again.page} ({again.experiment}: {again.setting}): {where}", file=sys.stdout)
    return done


def _summary(done: list[Again]) -> int:
    reasons = {again.setting: again.reason for again in done if again.outcome == "left out"}
    _tell("setting", reasons)
    counts = Counter(again.outcome for again in done)
    print(f"{counts['same']} same text, {counts['different']} different, {counts['left out']} left out")
    if counts["different"]:
        return 1
    return 0 if counts["same"] else 2


def _tell(what: str, reasons: Mapping[str, str]) -> None:
    """Print each reason once with what it concerns."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        by_reason.setdefault(reason, []).append(name)
    for reason, names in by_reason.items():
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        print(f"left out, {what} {'; '.join(names[:_NAMED])}{more}: {reason}", file=sys.stderr)


def _asked_sources(record: Mapping[str, Any]) -> list[str]:
    """Return the page sets and folders that the run's notebooks were given."""
    found: dict[str, None] = {}
    entries = record.get("notebooks")
    for entry in entries.values() if isinstance(entries, dict) else []:
        given = entry.get("parameters") if isinstance(entry, dict) else None
        for name, value in given.items() if isinstance(given, dict) else ():
            if name not in ("page_set", "page_sets"):
                continue
            given_sources = value if isinstance(value, list) else [value]
            wanted = (s for s in given_sources if isinstance(s, str) and s not in OWN_SETS)
            found |= {s if is_url(s) else str(Path(s).expanduser()): None for s in wanted}
    return list(found)
