"""An experiment over time, in one process: does memory grow, does a text change, does anything fail?"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ocrlab import paths
from ocrlab.pages import Page
from ocrlab.reading.isolated import PageResult
from ocrlab.reading.pool import ReaderPool
from ocrlab.reading.settings import Settings
from ocrlab.scoring.outcomes import WITHOUT_TEXT
from ocrlab.scoring.statistics import Interval, growth_rate, median_spread
from ocrlab.study.experiment import Store, plan_jobs, record_of
from ocrlab.study.records import keep_findings

#: Growth in MB (of 10^6 bytes) per 1,000 pages that does not matter: some 1 GB after a day of 100,000 pages.
LIMIT_MB = 10.0
#: Growth in MB in all that is no leak yet: allocators and libraries go on settling for a while after the first pass.
SETTLES_MB = 20.0
_PAGE_TIMEOUT_S = 1800
_PARTS, _FEWEST = 30, 6  # what follows the first pass is cut into so many; fewer have no interval to speak of
_ENDS = {"mb": "point", "low": "low", "high": "high"}
_HELD = (("resident_bytes", "", "memory"), ("reserved_memory_bytes", "device_", "device memory"))


def run_soak(
    settings: Settings, pages: Sequence[Page], *, minutes: float, count: int = 0, folder: Path | None = None
) -> dict[str, Any]:
    """Read the pages in turn for so many minutes, `count` readings and one whole pass at least; return finding `soak`.

    The time is from the end of the first reading, so that loading the model is no part of it. The first reading of
    every page becomes a row of the experiment `soak`. Ctrl-C ends it early with a verdict on what was read.

    Raises:
        Refused: the settings cannot be put in force here.
        RecordError: the folder cannot be written.
    """
    folder = folder or paths.run_folder()
    began = datetime.now(UTC).isoformat(timespec="seconds")
    store, rows, texts = Store("soak", folder), list[dict[str, Any]](), dict[str, str]()
    new = {job.page.id: job for job in store.missing(plan_jobs([settings], pages, 1, read_quarantined=True))}
    with ReaderPool(settings, page_timeout_s=_PAGE_TIMEOUT_S) as pool:
        try:
            for passed, result in _over_time(pool, pages, minutes * 60, max(count, len(pages))):
                one = result.reading
                changed = one.status not in WITHOUT_TEXT and texts.setdefault(one.page, one.text) != one.text
                own = {"page": one.page, "status": one.status, "reason": one.reason, "changed": changed}
                rows.append(one.measured() | own | {"minutes": passed / 60})
                if job := new.pop(one.page, None):
                    store.readings.append(record_of("soak", job, result))
        except KeyboardInterrupt:
            print("stopped: the verdict is on what was read", file=sys.stderr)
        found = judge_soak(rows, len(pages), len(pool.troubles))
    about = {"set": pages[0].set, "different_pages": len(texts), "time_utc": began}
    line = settings.as_dict() | about | found
    keep_findings("soak", [line], folder)
    return line


def _over_time(
    pool: ReaderPool, pages: Sequence[Page], seconds: float, count: int
) -> Iterator[tuple[float, PageResult]]:
    """Yield seconds since the first result with each result, pass after pass."""
    began, passed, done = None, 0.0, 0
    every = 0.5 if sys.stderr.isatty() else 60
    shape = "{l_bar}{bar}| {n:.0f} of {total} s{postfix}"
    with tqdm(total=max(1, round(seconds)), desc="soak", bar_format=shape, mininterval=every) as bar:
        while passed < seconds or done < count:
            for result in pool.read(pages):
                began = began or time.monotonic()
                passed, done = time.monotonic() - began, done + 1
                held = f"{done} pages, {(result.reading.resident_bytes or 0) / 2**20:.0f} MiB"
                bar.set_postfix_str(held, refresh=False)
                bar.update(min(passed, seconds) - bar.n)
                yield passed, result


def judge_soak(rows: Sequence[dict[str, Any]], first_pass: int, restarts: int) -> dict[str, Any]:
    """Return the verdict of a soak with its numbers and `words`: pass, fail, or open where growth is not settled.

    `growth_mb` is that of the process in MB per 1,000 pages after the first pass, `growth_low` and `growth_high` its
    95 % interval; `device_growth_mb` and so on that of a CUDA device. It fails where the whole interval is above
    `LIMIT_MB` and the growth in all above `SETTLES_MB`, a text differs from the page's first, a reading failed or a
    process was restarted.
    """
    failed = [row for row in rows if row["status"] in WITHOUT_TEXT]  # what is cut off or loops does so each time
    changed = sorted({row["page"] for row in rows if row["changed"]})
    seconds = [row["page_s"] for row in rows if row["page_s"] is not None]
    found: dict[str, Any] = {
        "pages": len(rows),
        "minutes": rows[-1]["minutes"] if rows else 0.0,
        "restarts": restarts,
        "failed": len(failed),
        "changed": len(changed),
        "page_s": median_spread(seconds).median if seconds else None,
        "limit_mb": LIMIT_MB,
    }
    first = "".join(f" ({row['page']}: {row['status']}: {row['reason']})" for row in failed[:1])
    pages = f" ({', '.join(changed[:3])})" if changed else ""
    words = [f"{len(rows)} pages in {found['minutes']:.1f} min", f"{len(failed)} failed{first}"]
    words += [f"{len(changed)} pages' texts changed{pages}", f"{restarts} restarts"]
    kinds = ["fail"] if failed or changed or restarts else []
    for name, prefix, what in _HELD:
        rate, total = _growth(rows, name, first_pass)
        found |= {f"{prefix}growth_{end}": getattr(rate, key, None) for end, key in _ENDS.items()}
        if rate is not None:
            leaks = rate.low > LIMIT_MB and total > SETTLES_MB
            kinds.append("fail" if leaks else "pass" if rate.high <= LIMIT_MB else "open")
            words.append(
                f"{what} grows by {rate.point:.1f} MB per 1,000 pages ({rate.low:.1f} to {rate.high:.1f}; limit "
                f"{LIMIT_MB:g}), {total:.1f} MB in all" + (", not settled" if kinds[-1] == "open" else "")
            )
    if found["growth_mb"] is None:
        kinds.append("open")
        words.append(f"growth of memory not settled: fewer than {_FEWEST} readings after the first pass")
    verdict = next((kind for kind in ("fail", "open") if kind in kinds), "pass")
    return found | {"verdict": verdict, "words": ", ".join(words)}


def _growth(rows: Sequence[dict[str, Any]], name: str, first_pass: int) -> tuple[Interval | None, float]:
    """Return growth in MB per 1,000 pages with its interval, from medians of equal parts, and MB in all."""
    known = [(i / 1000, row[name] / 1e6) for i, row in enumerate(rows) if i >= first_pass and row[name] is not None]
    if len(known) < _FEWEST:
        return None, 0.0
    work, held = zip(*(np.median(part, axis=0) for part in np.array_split(known, min(_PARTS, len(known)))), strict=True)
    return growth_rate(work, held), held[-1] - held[0]
