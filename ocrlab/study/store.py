"""An experiment's place on the disk: its readings; what is there already is not read again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ocrlab import paths
from ocrlab.pages import Page
from ocrlab.reading.checkpoints import locate
from ocrlab.reading.quarantine import held_in_quarantine
from ocrlab.reading.server_reader import revision_at
from ocrlab.reading.settings import Settings, is_endpoint
from ocrlab.study.records import RecordFile, row_key, row_of

if TYPE_CHECKING:
    import pandas as pd


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

    def append(self, record: dict[str, Any]) -> None:
        """Save a reading; raises RecordError where the folder cannot be written."""
        self.readings.append(record)

    def missing(self, jobs: Sequence[Job]) -> list[Job]:
        """Return the jobs that have not been read yet."""
        return [job for job in jobs if job.key not in self.readings.keys]

    def table(self, jobs: Sequence[Job]) -> pd.DataFrame:
        """Return the jobs' rows, in the jobs' order."""
        import pandas as pd

        wanted = {job.key: i for i, job in enumerate(jobs)}
        chosen = [record for record in self.readings.records if record["key"] in wanted]
        return pd.DataFrame([row_of(record) for record in sorted(chosen, key=lambda record: wanted[record["key"]])])


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
                # A refused row must not stand for the reading once the quarantine is over.
                key = row_key(settings, page, checkpoint + (" refused" if refused else ""), repeat)
                jobs[key] = Job(settings, page, key, repeat, refused)
    return list(jobs.values())
