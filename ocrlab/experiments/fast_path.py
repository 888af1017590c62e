"""Where one step of decoding spends its time: operators called and seconds, part by part of model and `generate`."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import wraps
from itertools import chain
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from ocrlab.machine.attention import pinned
from ocrlab.machine.worker import Worker
from ocrlab.pages import Page
from ocrlab.reading.isolated import attempt, reader_here
from ocrlab.reading.reader import Reader, in_this_process
from ocrlab.reading.settings import GENERATION, Settings, make_settings
from ocrlab.scoring.outcomes import WITH_TEXT

if TYPE_CHECKING:
    import pandas as pd


PARTS = ("layers", "output head", "rotary", "mask", "rest of the model", "inputs", "rest of generate")


def measure_step(
    settings: Settings, page: Page, *, new_tokens: int = 24, timeout_s: float = 900, worker: Worker | None = None
) -> pd.DataFrame:
    """Return one line per part of a decode step: operators called and seconds per token, and their share.

    Operators are what torch dispatches without views: on CUDA each is about one kernel to launch. Seconds are the
    host's, not waiting for a device: where their sum comes near to the time of a step, the device waits for Python. A
    compiled step has no parts. One line with status and reason stands for a setting that cannot run.

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

    with _parts(reader, tally):
        _generate(reader, page, new_tokens, tally)  # for the time; the first also warms up
        _generate(reader, page, new_tokens, tally)
        seconds = tally.per_step(tally.seconds)
        with Count():
            _generate(reader, page, new_tokens, tally)
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


def _generate(reader: Reader, page: Page, new_tokens: int, tally: _Tally) -> None:
    import torch

    tensors = reader.tensors(page.open())
    tally.steps, tally.since = -1, time.perf_counter()
    with torch.inference_mode(), pinned(reader.settings.sdpa_kernel):
        reader.model.generate(**tensors, min_new_tokens=new_tokens, max_new_tokens=new_tokens, logits_processor=[tally])


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


# From one preset to another, one change at a time: which of them gained what.


_GENERATION = tuple(n for n in GENERATION if n not in ("cache_implementation", "max_new_tokens", "min_new_tokens"))
#: What is changed together, in an order in which every step is a valid setting.
STEPS: dict[str, tuple[str, ...]] = {
    "generation settings": _GENERATION,
    "dtype": ("dtype",),
    "quantization": ("quantization",),
    "attention": ("attn_implementation", "sdpa_kernel"),
    "batch": ("batch_size",),
    "cache": ("cache_implementation",),
    "compile": ("compile",),
}


def steps_between(start: Settings, goal: Settings) -> list[tuple[str, Settings]]:
    """Return (label, settings) from `start` towards `goal`; what STEPS does not name (model, pixels) stays."""
    found = [("start", start)]
    for label, names in STEPS.items():
        before = found[-1][1]
        changed = replace(before, **{name: getattr(goal, name) for name in names})
        values = [f"{n}={getattr(goal, n)}" for n in names if getattr(changed, n) != getattr(before, n)]
        if values:
            found.append((values[0] if len(values) == 1 else label, changed))
    return found


def gains(rows: pd.DataFrame, steps: Sequence[tuple[str, Settings]]) -> pd.DataFrame:
    """Return one line per step: medians over its rows, and how many times as fast as the start.

    `page_s` is the time per page, batch shared out; `pages_per_s` its inverse, `times` their ratio to the start, with
    quartiles over pages and repetitions, `step_times` to the last step that ran. Lines that could not run carry status
    and reason.
    """
    import pandas as pd

    lines: list[dict[str, Any]] = []
    first = before = 0.0
    for label, settings in steps:
        mine = rows[_same(rows, settings)]
        ok = mine[mine["status"] == "ok"]
        line: dict[str, Any] = {"step": label, "status": "ok", "reason": ""}
        if ok.empty:
            bad = mine.iloc[0] if len(mine) else {"status": "error", "reason": "no rows"}
            lines.append(line | {"status": bad["status"], "reason": bad["reason"]})
            continue
        low, median, high = ok["page_s"].quantile([0.25, 0.5, 0.75])
        first, before = first or median, before or median
        line |= {"page_s": median, "pages_per_s": 1 / median, "step_times": before / median}
        line |= {"times": first / median, "times_low": first / high, "times_high": first / low}
        line |= {name: ok[name].median() for name in ("tpot_s", "vision_s")}
        lines.append(line | {"peak_memory_bytes": ok["peak_memory_bytes"].max(), "rows": len(ok)})
        before = median
    return pd.DataFrame(lines)


def _same(rows: pd.DataFrame, settings: Settings) -> pd.Series:
    mask = rows["status"].notna()
    for name in chain(*STEPS.values()):
        value = getattr(settings, name)
        mask &= rows[name].isna() if value is None else rows[name] == value
    return mask


def same_texts(readings: pd.DataFrame, labels: Sequence[str], runs: Sequence[Settings]) -> pd.DataFrame:
    """Return one line per step: pages that the start read, and how many of them read so again; `runs` are in order."""
    import pandas as pd

    readings = readings[readings["status"].isin(WITH_TEXT)]
    settings = readings["asked"].map(make_settings)
    texts = [readings[settings == run].groupby("page")["text"].last() for run in runs]
    same = [int((mine.reindex(texts[0].index) == texts[0]).sum()) for mine in texts]
    return pd.DataFrame({"step": labels, "pages": len(texts[0]), "same": same})
