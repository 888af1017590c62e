"""Run an experiment: settings × pages → rows on disk, resumable, one load for all settings that share a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from ocrlab import paths
from ocrlab.pages import Page
from ocrlab.reading.checkpoints import locate
from ocrlab.reading.cluster import connect, engine_is_ray, spread
from ocrlab.reading.isolated import PageResult, Refused
from ocrlab.reading.page_reader import held_in_quarantine
from ocrlab.reading.pool import ReaderPool
from ocrlab.reading.result import failed
from ocrlab.reading.server_reader import revision_at
from ocrlab.reading.settings import Settings, is_endpoint, same_load
from ocrlab.study.records import RecordFile, reading_record, row_key, rows_of, setting_label

if TYPE_CHECKING:
    import pandas as pd


def run_experiment(
    name: str,
    runs: Sequence[Settings],
    pages: Sequence[Page],
    *,
    repeats: int = 1,
    folder: Path | None = None,
    page_timeout_s: float | None = 1800,
    memory_limit_bytes: int | None = None,
    read_quarantined: bool = False,
) -> pd.DataFrame:
    """Return the rows of every setting × page × repetition, reading only what the run's folder does not have yet.

    Models live in a process of their own: a crash, an assert, a time-out (`page_timeout_s` for a batch) or too much
    memory (`memory_limit_bytes` beyond the start) costs one page's row. Readings go to `readings/<name>.jsonl`;
    rows are scored from them, against the truth that each page has now. A setting that cannot run gives a row per page
    with status and reason; so does one that the canary put into quarantine, unless `read_quarantined`.

    Raises:
        RecordError: the folder cannot be written; what was measured is kept.
    """
    store = Store(name, folder)
    jobs = plan_jobs(runs, pages, repeats, read_quarantined)
    limits = {"page_timeout_s": page_timeout_s, "memory_limit_bytes": memory_limit_bytes}
    todo = store.missing(jobs)
    with tqdm(total=len(todo), desc=name, unit="page", disable=not todo) as bar:
        read = (_spread(name, todo, limits) if engine_is_ray() else _read(todo, name, limits, bar)) if todo else ()
        for record in read:
            if record["key"] not in store.readings.by_key:  # a lost machine's task begins again
                store.readings.append(record)
                bar.update()
    return store.table(jobs)


def readings_of(name: str, folder: Path | None = None) -> pd.DataFrame:
    """Return an experiment's saved readings with text and truth, one line per reading."""
    import pandas as pd

    return pd.DataFrame(Store(name, folder).readings.records)


def _spread(name: str, jobs: Sequence[Job], limits: dict[str, Any]) -> Iterable[dict[str, Any]]:
    """Yield records from the machines of a Ray cluster; what a task that failed for good left over says so."""
    connect(None)
    left = _groups(jobs)
    for index, value in spread(_read, list(left), name, limits):
        if not isinstance(value, BaseException):
            left[index] = [job for job in left[index] if job.key != value["key"]]
            yield value
            continue
        for job in left[index]:
            yield record_of(name, job, PageResult(failed(job.page.id, value)))


def _read(jobs: Sequence[Job], name: str, limits: dict[str, Any], bar: Any = None) -> Iterable[dict[str, Any]]:
    """Yield a record of every job as it is read; `bar` shows the setting."""
    with ReaderPool(jobs[0].settings, **limits) as pool:
        for settings in dict.fromkeys(job.settings for group in _groups(jobs) for job in group):
            mine = [job for job in jobs if job.settings == settings]
            if bar is not None:
                bar.set_postfix_str(setting_label(settings.as_dict())[-60:])
            pool.apply(settings)
            for repeat in sorted({job.repeat for job in mine}):
                yield from read_jobs(name, [job for job in mine if job.repeat == repeat], lambda: pool)


def read_jobs(name: str, jobs: Sequence[Job], open_pool: Callable[[], ReaderPool]) -> Iterable[dict[str, Any]]:
    """Yield a record of every job, all of one setting and of different pages; where it is refused, records say so."""
    left = {job.page.id: job for job in jobs}
    try:
        if jobs[0].refused:
            raise Refused("unsupported", jobs[0].refused)
        for result in open_pool().read([job.page for job in jobs]):
            yield record_of(name, left.pop(result.reading.page), result)
    except Refused as error:
        for job in left.values():
            yield record_of(name, job, PageResult(failed(job.page.id, error)))


def record_of(name: str, job: Job, result: PageResult) -> dict[str, Any]:
    """Return the record of a job's reading, ready for JSON."""
    return reading_record(name, job.key, job.settings, job.page, result, job.repeat)


def _groups(jobs: Sequence[Job]) -> list[list[Job]]:
    """Return the jobs whose settings share a loaded model together, in the order of their first appearance."""
    groups: dict[Settings, list[Job]] = {}
    for job in jobs:
        first = next((first for first in groups if same_load(first, job.settings)), job.settings)
        groups.setdefault(first, []).append(job)
    return list(groups.values())


# An experiment's place on the disk: its readings; what is there already is not read again.


@dataclass(frozen=True)
class Job:
    """One page to read with one setting, and why it is refused, if it is."""

    settings: Settings
    page: Page
    key: str
    repeat: int
    refused: str | None


class Store:
    """The readings of one experiment in a run's folder."""

    def __init__(self, name: str, folder: Path | None = None) -> None:
        folder = folder or paths.run_folder()
        self.readings = RecordFile(folder / "readings" / f"{name}.jsonl")

    def missing(self, jobs: Sequence[Job]) -> list[Job]:
        """Return the jobs that have not been read yet."""
        return [job for job in jobs if job.key not in self.readings.by_key]

    def table(self, jobs: Sequence[Job]) -> pd.DataFrame:
        """Return the jobs' rows, in the jobs' order; truth and facts that came after their page are saved first."""
        import pandas as pd

        known = self.readings.by_key
        jobs = [job for job in jobs if job.key in known]
        for page, record in [(job.page, known[job.key]) for job in jobs]:
            named: dict[str, Any] = {"facts": page.facts} if page.facts else {}
            named |= {} if page.truth is None else {"truth": page.truth, "truth_source": page.truth_source}
            if page.truth not in (None, record["truth"]) or page.facts not in ((), tuple(record.get("facts", ()))):
                self.readings.append(record | named)
        return pd.DataFrame(rows_of(known[job.key] for job in jobs))


def pinned_revision(settings: Settings) -> str:
    """Return what pins the weights that the settings name, or `absent` where they cannot be had: a row will say why."""
    try:
        return revision_at(settings) if is_endpoint(settings.model_id) else locate(settings).revision
    except RuntimeError:
        return "absent"


def plan_jobs(runs: Sequence[Settings], pages: Sequence[Page], repeats: int, read_quarantined: bool) -> list[Job]:
    """Return every setting × repetition × page once, with its key."""
    jobs = {}
    for settings in runs:
        refused = None if read_quarantined else held_in_quarantine(settings)
        checkpoint = pinned_revision(settings)
        for repeat in range(repeats):
            for page in pages:
                # A refused row must not count as the reading once the quarantine is over.
                key = row_key(settings, page, checkpoint + (" refused" if refused else ""), repeat)
                jobs[key] = Job(settings, page, key, repeat, refused)
    return list(jobs.values())
