"""Time settings against each other: a fixed length, settings in random turns, warm-up apart; quality is another run."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from ocrlab.pages import Page
from ocrlab.reading.inputs import in_batches
from ocrlab.reading.isolated import Refused
from ocrlab.reading.pool import ReaderPool
from ocrlab.reading.settings import Settings, same_load
from ocrlab.study.experiment import Job, Store, plan_jobs, read_jobs
from ocrlab.study.records import setting_label

if TYPE_CHECKING:
    import pandas as pd


def run_speed(
    name: str,
    runs: Sequence[Settings],
    pages: Sequence[Page],
    *,
    new_tokens: int = 64,
    repeats: int = 3,
    seed: int = 0,
    folder: Path | None = None,
    page_timeout_s: float | None = 1800,
) -> pd.DataFrame:
    """Return the rows of every setting × page × repetition, each of exactly `new_tokens` tokens.

    In every repetition all settings read all pages (a batch at a time) in one order drawn by seed, so that drift of the
    machine hits all alike. Each setting reads its first batch once before, unrecorded; one that is compiled, all
    batches. Models of different loads stay loaded side by side, each in its own process. Quality columns stay empty: a
    fixed length is no reading.

    Raises:
        RecordError: the folder cannot be written; what was measured is kept.
    """
    fixed = [replace(s, min_new_tokens=new_tokens, max_new_tokens=new_tokens) for s in runs]
    store = Store(name, folder)
    jobs = plan_jobs(fixed, pages, repeats, read_quarantined=False)
    todo = store.missing(jobs)
    with ExitStack() as stack, tqdm(total=len(todo), desc=name, unit="page", disable=not todo) as bar:
        pools = _Pools(stack, page_timeout_s)
        for record in _records(name, todo, pools, random.Random(seed), bar):
            store.readings.append(record)
            bar.update()
    return store.table(jobs)


class _Pools:
    """One process for each load, started when it is first needed; a setting that cannot run keeps its reason."""

    def __init__(self, stack: ExitStack, page_timeout_s: float | None) -> None:
        self.stack, self.page_timeout_s = stack, page_timeout_s
        self.readers: list[ReaderPool] = []
        self.refused: dict[Settings, Refused] = {}
        self.warm: set[Settings] = set()

    def reader(self, settings: Settings, warming: list[Page]) -> ReaderPool:
        """Return the process with these settings in force, `warming` read once; raise Refused where they cannot be."""
        if settings in self.refused:
            raise self.refused[settings]
        try:
            found = next((r for r in self.readers if same_load(r.settings, settings)), None)
            if found is None:
                found = self.stack.enter_context(ReaderPool(settings, page_timeout_s=self.page_timeout_s))
                self.readers.append(found)
            if settings not in self.warm or found.settings != settings:
                found.apply(settings)
            if settings not in self.warm:
                list(found.read(warming))
                self.warm.add(settings)
        except Refused as error:
            self.refused[settings] = error
            raise
        return found


def _records(name: str, todo: Sequence[Job], pools: _Pools, rng: random.Random, bar: Any) -> Iterator[dict[str, Any]]:
    # What is compiled for one shape is compiled again for another: such a setting warms up with all its pages.
    compiled = {job.settings for job in todo if job.settings.compile}
    every = {s: list({job.page.id: job.page for job in todo if job.settings == s}.values()) for s in compiled}
    for repeat in sorted({job.repeat for job in todo}):
        batches = _batches([job for job in todo if job.repeat == repeat])
        rng.shuffle(batches)
        for batch in batches:
            settings = batch[0].settings
            bar.set_postfix_str(setting_label(settings.as_dict())[-60:])
            warming = every.get(settings) or [job.page for job in batch]
            yield from read_jobs(name, batch, partial(pools.reader, settings, warming))


def _batches(jobs: Sequence[Job]) -> list[Sequence[Job]]:
    """Return the jobs of each setting in batches of its own size."""
    every = dict.fromkeys(job.settings for job in jobs)
    return [batch for s in every for batch in in_batches([j for j in jobs if j.settings == s], s.batch_size)]
