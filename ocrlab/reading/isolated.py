"""A reader in a process of its own: a crash, an assert or a time-out costs one page, and reading goes on.

The process keeps its model from call to call. `pool` puts one or several such readers on a queue.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import psutil

from ocrlab.machine.worker import Outcome, Worker, sticky
from ocrlab.machine.worker_process import ask, preload, report, stop_asked
from ocrlab.pages import Page
from ocrlab.reading.inputs import Background, Prepared
from ocrlab.reading.page_reader import PageReader
from ocrlab.reading.reader import in_this_process, open_reader
from ocrlab.reading.result import Reading, status_of
from ocrlab.reading.settings import Settings, is_endpoint, same_load
from ocrlab.scoring.outcomes import Status

#: Seconds in which a reading that somebody looks at has to obey a stop before its process is ended.
PATIENCE_S = 0.7
#: Divisors of a page's pixels, tried one after the other where it does not fit and fewer pixels are allowed.
FEWER_PIXELS = (2, 4)
_TEXT_EVERY_S = 0.03

#: What a worker that is copied has imported already.
PRELOADED = (__name__, "transformers.models.qwen2_vl.modeling_qwen2_vl")
preload(*PRELOADED)

# In the worker's process: the model that stays for the next call, and what prepares its pages.
_reader: PageReader | None = None
_background: Background | None = None


class Refused(RuntimeError):
    """A setting that cannot be put in force; `status` and the message go into its rows."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(status, reason)
        self.status = status

    def __str__(self) -> str:
        return str(self.args[1])


@dataclass(frozen=True)
class PageResult:
    """What came of a page: the reading, every setting that was in force for it, seconds of loading.

    `died` says that the process is gone; the next reading starts a fresh one.
    """

    reading: Reading
    actual: dict[str, Any] = field(default_factory=dict)
    load_s: float | None = None
    died: bool = False


class IsolatedReader:
    """A reader in a worker's process: `apply` settings, then `read` batches, or `look` at one page's text as it comes.

    `page_timeout_s` bounds a batch, `memory_limit_bytes` what the process may hold beyond its start, `threads` is the
    number of torch's threads on a CPU, where it is given. `actual` and `load_s` are of the settings applied last.
    """

    def __init__(self, *, page_timeout_s: float | None = None, memory_limit_bytes: int | None = None) -> None:
        self.worker = Worker(memory_limit_bytes)
        self.page_timeout_s = page_timeout_s
        self.threads: int | None = None
        self.settings: Settings | None = None
        self.actual: dict[str, Any] = {}
        self.load_s: float | None = None

    def close(self) -> None:
        """End the process, and with it everything the model held."""
        self.worker.close()

    def stop(self, patience_s: float = PATIENCE_S) -> None:
        """From another thread: end what is read, after the next token or batch or, after `patience_s`, the process."""
        self.worker.stop(patience_s)

    def has(self, settings: Settings) -> bool:
        """Return whether the model that the settings need is loaded now."""
        return self.settings is not None and self.worker.pid is not None and same_load(self.settings, settings)

    def apply(self, settings: Settings) -> None:
        """Put settings in force, loading a model only where they need another one.

        Raises:
            Refused: they cannot be put in force here, or the process died over them.
        """
        found, status, reason = attempt(self.worker, open_here, settings, self.threads)
        if found is None:
            self.settings = None
            raise Refused(status, reason)
        self.settings, (self.actual, self.load_s) = settings, found

    def read(
        self,
        first: Sequence[Page],
        take: Callable[[list[PageResult]], None],
        more: Callable[[Any], Sequence[Page] | None],
        processes: int = 0,
        fewer_pixels: bool = False,
    ) -> Outcome:
        """Read a batch, and what `more` returns until it returns None; `take` gets the results as batches end.

        `processes` prepare pages ahead of time. `fewer_pixels` allows a page that does not fit to be read at a half,
        then a quarter of its pixels.
        """
        call = (_read, self.settings, first, processes, fewer_pixels)
        return self.worker.call(*call, timeout_s=self.page_timeout_s, on_progress=take, on_question=more)

    def look(self, settings: Settings, page: Page, on_text: Callable[[str], None]) -> PageResult:
        """Return what came of the page; `on_text` gets the text in pieces, in this thread.

        With beams there are no pieces: which beam wins is known at the end. Nothing is tried twice: what happened to
        the page is what the person wants to see.
        """
        outcome = self.worker.call(_look, settings, page, on_progress=on_text)
        if outcome.ok:
            self.settings = settings if outcome.value.actual else None
            return outcome.value
        if outcome.fatal:
            self.settings = None
        return PageResult(Reading(page.id, "", *ending(outcome)), died=outcome.fatal)


def ending(outcome: Outcome) -> tuple[Status, str]:
    """Return the status and reason of a call that gave no value: its exception, or how its process ended."""
    if outcome.kind == "stopped":
        return "error", f"cancelled; {outcome.reason}"
    deaths: dict[str, Status] = {"exception": "error", "oom": "oom", "timeout": "timeout"}
    return deaths.get(outcome.kind, "crashed"), outcome.reason


def attempt(
    worker: Worker, function: Callable[..., Any], *args: Any, timeout_s: float | None = None
) -> tuple[Any, Status, str]:
    """Return what `function(*args)` gave in the worker with status ok, or None with status and reason."""
    outcome = worker.call(guarded, function, *args, timeout_s=timeout_s)
    return outcome.value if outcome.ok else (None, *ending(outcome))


def guarded(function: Callable[..., Any], *args: Any) -> tuple[Any, Status, str]:
    """Run a function here; what it raises becomes status and reason, but for what the process cannot outlive."""
    try:
        return function(*args), "ok", ""
    except Exception as error:
        if sticky(str(error)):
            raise
        return None, *status_of(error)


def reader_here(settings: Settings) -> PageReader:
    """Return this process's reader with settings in force; a model is loaded only where they need another one."""
    global _reader
    if _reader is not None and same_load(_reader.settings, settings):
        _reader.apply(settings)
    else:
        if _reader is not None:
            _reader.close()
            _reader = None
        _reader = open_reader(settings)
    return _reader


def open_here(settings: Settings, threads: int | None = None) -> tuple[dict[str, Any], float]:
    """Put settings in force in this process; return every setting as read back, and the seconds of loading."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    reader = reader_here(settings)
    return reader.actual, reader.load_s


def _read(settings: Settings, first: Sequence[Page], processes: int, fewer_pixels: bool) -> None:
    reader = reader_here(settings)

    def batches() -> Iterator[Sequence[Page]]:
        yield first
        while (batch := ask("next batch")) is not None:
            yield batch

    for prepared in _prepared(reader, processes, batches()):
        pages = {page.id: page for page in prepared.pages}
        readings = reader.read_prepared(prepared)
        held = psutil.Process().memory_info().rss
        readings = [replace(reading, resident_bytes=held) for reading in readings]
        too_large = [reading for reading in readings if fewer_pixels and reading.status == "oom"]
        report([PageResult(one, reader.actual, reader.load_s) for one in readings if one not in too_large])
        for reading in too_large:
            report([_smaller(reader, settings, pages[reading.page], reading)])
            reader.apply(settings)
        if stop_asked():
            return


def _prepared(reader: PageReader, processes: int, batches: Iterator[Sequence[Page]]) -> Iterator[Prepared]:
    """Yield batches made ready by the processes of the last call here, where it ended well and nothing changed."""
    global _background
    held = (reader.builder, reader.settings.prompt, processes)
    background, _background = _background, None
    if background is None or not background.serves(*held):
        background = Background(*held)
    yield from background.stream(batches)
    _background = background


def _smaller(reader: PageReader, settings: Settings, page: Page, reading: Reading) -> PageResult:
    """Read a page that did not fit again at fewer pixels; the settings in force then say how many."""
    most = min(reader.builder.limits()[1], reader.size_of(page) * reader.builder.cell_pixels)
    for part in FEWER_PIXELS:
        fewer = max(most // part, settings.min_pixels or 1)
        _, status, reason = guarded(reader.apply, replace(settings, max_pixels=fewer))
        if status != "ok":
            reading = replace(reading, reason=f"{reading.reason}; fewer pixels cannot be asked for: {reason}")
            break
        again = reader.read(page)
        if again.status != "oom":
            full = "too large for the server" if is_endpoint(settings.model_id) else "out of memory"
            note = f"{full} at {most} pixels, read at no more than {fewer}"
            return PageResult(replace(again, retried=note), reader.actual, reader.load_s)
    return PageResult(reading, reader.actual, reader.load_s)


def _look(settings: Settings, page: Page) -> PageResult:
    reader, status, reason = guarded(reader_here, settings)
    if reader is None:
        return PageResult(Reading(page.id, "", status, reason))
    reader.followers = _followers(reader)
    try:
        reading = reader.read(page)
    finally:
        reader.followers = {}
    if stop_asked() and reading.tokens:
        words = f"cancelled after {reading.tokens} tokens; the text is what had come by then"
        reading = replace(reading, status="error", reason=words)
    return PageResult(reading, reader.actual, reader.load_s)


def _followers(reader: PageReader) -> dict[str, Any]:
    """Return what is called at every token: what reports the text, and what asks whether to stop."""
    if is_endpoint(reader.settings.model_id):
        return {"on_text": report, "stop": stop_asked}
    import torch
    from transformers import StoppingCriteria, StoppingCriteriaList, TextStreamer

    class Reporter(TextStreamer):
        waiting, reported = "", 0.0

        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            self.waiting += text
            if self.waiting and (stream_end or time.perf_counter() - self.reported > _TEXT_EVERY_S):
                report(self.waiting)
                self.waiting, self.reported = "", time.perf_counter()

    class Stopped(StoppingCriteria):
        def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.BoolTensor:
            ended = torch.full((input_ids.shape[0],), stop_asked(), dtype=torch.bool, device=input_ids.device)
            return ended  # type: ignore[return-value]

    followers: dict[str, Any] = {"stopping_criteria": StoppingCriteriaList([Stopped()])}
    here = in_this_process(reader)
    if here.model.generation_config.num_beams == 1:
        followers["streamer"] = Reporter(here.builder.tokenizer, skip_prompt=True, skip_special_tokens=True)
    return followers
