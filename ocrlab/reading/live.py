"""One page read while somebody looks on: its text as it comes, a stop that is obeyed, a process that may die."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from ocrlab.machine.progress import report, stop_asked
from ocrlab.machine.worker import Outcome, Worker
from ocrlab.pages import Page
from ocrlab.reading.endpoint import EndpointReader
from ocrlab.reading.outcome import Reading, status_of
from ocrlab.reading.reader import Reader, same_load
from ocrlab.reading.served import ending, reader_here
from ocrlab.reading.settings import Settings
from ocrlab.scoring.outcomes import Status

PATIENCE_S = 0.7
"""Seconds in which a reading has to obey a stop before its process is ended."""
_TOLD_EVERY_S = 0.03


@dataclass(frozen=True)
class Seen:
    """What came of a page that was looked at: the reading, every setting in force, seconds of loading.

    `died` says that the process is gone; the next reading starts a fresh one.
    """

    reading: Reading
    actual: dict[str, Any] = field(default_factory=dict)
    load_s: float | None = None
    died: bool = False


class LiveReader:
    """A reader in a process of its own for one person: `read` tells the text as it comes, `stop` ends it early.

    Nothing is tried twice: what happened to the page is what the person wants to see.
    """

    def __init__(self) -> None:
        self.worker = Worker()
        self.loaded: Settings | None = None

    def close(self) -> None:
        """End the process, and with it everything the model held."""
        self.worker.close()

    def prepare(self, settings: Settings) -> None:
        """Load the model that the settings need, so that the first page does not wait for it; a failure shows there."""
        outcome = self.worker.call(_load, settings)
        self.loaded = settings if outcome.ok else None

    def has(self, settings: Settings) -> bool:
        """Return whether the model that the settings need is loaded now."""
        alive = self.loaded is not None and self.worker.pid is not None
        return alive and same_load(self.loaded, settings)  # type: ignore[arg-type]

    def read(self, settings: Settings, page: Page, on_text: Callable[[str], None]) -> Seen:
        """Return what came of the page; `on_text` gets the text in pieces, in this thread.

        With beams there are no pieces: which beam wins is known at the end.
        """
        outcome = self.worker.call(_read, settings, page, on_progress=on_text)
        if outcome.ok:
            self.loaded = settings if outcome.value.actual else None
            return outcome.value
        self.loaded = None if outcome.fatal else self.loaded
        return Seen(Reading(page.id, "", *_ending(outcome)), died=outcome.fatal)

    def stop(self) -> None:
        """From another thread: end the reading, after the next token or, after PATIENCE_S, with its process."""
        self.worker.stop(PATIENCE_S)


def _ending(outcome: Outcome) -> tuple[Status, str]:
    if outcome.kind == "stopped":
        return "error", f"cancelled; {outcome.reason}"
    return ending(outcome), outcome.reason


def _load(settings: Settings) -> None:
    reader_here(settings)


def _read(settings: Settings, page: Page) -> Seen:
    try:
        reader = reader_here(settings)
    except (RuntimeError, ValueError, MemoryError) as error:
        return Seen(Reading(page.id, "", *status_of(error)))
    reader.followers = _followers(reader)
    try:
        reading = reader.read(page)
    finally:
        reader.followers = {}
    if stop_asked() and reading.tokens:
        words = f"cancelled after {reading.tokens} tokens; the text is what had come by then"
        reading = replace(reading, status="error", reason=words)
    return Seen(reading, reader.actual, reader.load_s)


def _followers(reader: Reader) -> dict[str, Any]:
    """Return what is called at every token: what reports the text, and what asks whether to stop."""
    if isinstance(reader, EndpointReader):
        return {"on_text": report, "stop": stop_asked}
    import torch
    from transformers import StoppingCriteria, StoppingCriteriaList, TextStreamer

    class Told(TextStreamer):
        waiting, told = "", 0.0

        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            self.waiting += text
            if self.waiting and (stream_end or time.perf_counter() - self.told > _TOLD_EVERY_S):
                report(self.waiting)
                self.waiting, self.told = "", time.perf_counter()

    class Asked(StoppingCriteria):
        def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.BoolTensor:
            ended = torch.full((input_ids.shape[0],), stop_asked(), dtype=torch.bool, device=input_ids.device)
            return ended  # type: ignore[return-value]

    followers: dict[str, Any] = {"stopping_criteria": StoppingCriteriaList([Asked()])}
    if reader.model.generation_config.num_beams == 1:
        followers["streamer"] = Told(reader.builder.tokenizer, skip_prompt=True, skip_special_tokens=True)
    return followers
