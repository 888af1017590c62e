"""Where one step of decoding spends its time: operators called and seconds, part by part of model and `generate`."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import wraps
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from ocrlab.machine.worker import Worker
from ocrlab.pages import Page
from ocrlab.reading.isolated import attempt, reader_here
from ocrlab.reading.reader import Reader, in_this_process
from ocrlab.reading.settings import Settings

if TYPE_CHECKING:
    import pandas as pd


PARTS = ("layers", "output head", "rotary", "mask", "rest of the model", "inputs", "rest of generate")


def measure_step(
    settings: Settings, page: Page, *, new_tokens: int = 24, timeout_s: float = 900, worker: Worker | None = None
) -> pd.DataFrame:
    """Return one line per part of a decode step: operators called and seconds per token, and their share.

    Operators are what torch dispatches without views: on CUDA each is about one kernel to launch. Seconds are the
    host's, not waiting for a device: where their sum is close to the time of a step, the device waits for Python. A
    compiled step has no parts. A setting that cannot run gives one line with status and reason.

    Raises:
        ValueError: `compile` is asked for.
    """
    import pandas as pd

    if settings.compile:
        raise ValueError("a compiled step has no parts to tell apart: give compile=False")
    with nullcontext(worker) if worker else Worker() as process:
        found, status, reason = attempt(process, _parts_here, settings, page, new_tokens, timeout_s=timeout_s)
    if not found or "status" in found:
        return pd.DataFrame([{"part": "", "status": status, "reason": reason} | (found or {})])
    table = pd.DataFrame({"part": PARTS, **{name: [found[name][part] for part in PARTS] for name in found}})
    return table.assign(share=table["host_s"] / table["host_s"].sum(), status="ok", reason="")


def _parts_here(settings: Settings, page: Page, new_tokens: int) -> dict[str, dict[str, float]]:
    from torch.utils._python_dispatch import TorchDispatchMode

    reader = in_this_process(reader_here(settings))
    tally = _Tally()

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if not any(a.alias_info and not a.alias_info.is_write for a in func._schema.arguments):
                tally.operators[tally.part] += 1
            return func(*args, **(kwargs or {}))

    def generate() -> None:
        tally.steps, tally.since = -1, time.perf_counter()
        reader.generate(page, min_new_tokens=new_tokens, max_new_tokens=new_tokens, logits_processor=[tally])

    with _parts(reader, tally):
        generate()  # for the time; the first also warms up
        generate()
        seconds = tally.per_step(tally.seconds)
        with Count():
            generate()
    return {"operators": tally.per_step(tally.operators), "host_s": seconds}


class _Tally:
    """Which part is at work now, and what each has used since the first token."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.operators: defaultdict[str, float] = defaultdict(float)
        self.stack = ["rest of generate"]
        self.steps, self.since = -1, time.perf_counter()

    @property
    def part(self) -> str:
        return self.stack[-1]

    def turn(self) -> None:
        now = time.perf_counter()
        self.seconds[self.part] += now - self.since
        self.since = now

    @contextmanager
    def inside(self, part: str) -> Iterator[None]:
        self.turn()
        self.stack.append(part)
        try:
            yield
        finally:
            self.turn()
            self.stack.pop()

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """As a logits processor: counts steps, and forgets what came before the first token."""
        self.turn()
        if self.steps < 0:
            self.seconds.clear()
            self.operators.clear()
        self.steps += 1
        return scores

    def per_step(self, amounts: defaultdict[str, float]) -> dict[str, float]:
        return {part: amounts[part] / max(self.steps, 1) for part in PARTS}


@contextmanager
def _parts(reader: Reader, tally: _Tally) -> Iterator[None]:
    """Put the parts' functions behind the tally, and back."""
    model = reader.model
    text = model.model.language_model
    places: list[tuple[Any, str, str]] = [
        (model, "forward", "rest of the model"),
        (model, "prepare_inputs_for_generation", "inputs"),
        (text.rotary_emb, "forward", "rotary"),
        (model.lm_head, "forward", "output head"),
        (sys.modules[type(text).__module__], "create_causal_mask", "mask"),
        *((layer, "forward", "layers") for layer in text.layers),
    ]
    with ExitStack() as stack:
        for owner, name, part in places:
            stack.enter_context(patch.object(owner, name, _behind(getattr(owner, name), part, tally)))
        yield


def _behind(function: Callable[..., Any], part: str, tally: _Tally) -> Callable[..., Any]:
    @wraps(function)
    def counted(*args: Any, **kwargs: Any) -> Any:
        with tally.inside(part):
            return function(*args, **kwargs)

    return counted
