"""How far the numbers inside a model are from float16's end: the largest magnitude at every module over a page.

The scores QK^T of eager attention are measured as eager computes them: before they are scaled, which is where float16
overflows (transformers#33294). Measured in a dtype of float32's range, where what would overflow keeps its true size.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ocrlab.experiments.attention import distance, teacher_forced_logits
from ocrlab.experiments.machine import Prepare
from ocrlab.machine.hardware import tf32
from ocrlab.pages import Page
from ocrlab.reading.isolated import reader_here
from ocrlab.reading.reader import in_this_process
from ocrlab.reading.settings import Settings
from ocrlab.scoring.statistics import median_spread

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor, nn


FLOAT16_END = 65504.0
#: What `largest_here` returns of a module and value; `bits` = log2(65504 / largest), negative beyond float16's end.
HEADROOM = ("module", "part", "value", "largest", "bits")


def first_to_overflow(headroom: pd.DataFrame, value: str | None = None) -> pd.Series | None:
    """Return the line where float16 would overflow first, of one kind of value where it is named, or None for no lines.

    The first in the order of use that is beyond float16's end; where none is, the one with the fewest bits left.
    """
    lines = headroom if value is None else headroom[headroom["value"] == value]
    lines = lines.dropna(subset=["bits"])
    beyond = lines[lines["bits"] < 0]
    if not beyond.empty:
        return beyond.iloc[0]
    return None if lines.empty else lines.sort_values("bits", kind="stable").iloc[0]


def largest_here(settings: Settings, page: Page, prepare: Prepare | None = None) -> list[dict[str, Any]]:
    """Return the largest magnitude at every module over a greedy reading of the page here, in the order of first use.

    `value` is output, input (of modules without parts: what arises between modules shows there) or scores (QK^T of an
    attention, unscaled); `part` is vision or text; `bits` says how often it may double before float16 ends.
    """
    reader = in_this_process(reader_here(settings))
    if prepare is not None:
        prepare()
    with _watched(reader.model) as largest:
        reader.generate(page, do_sample=False)
    lines = []
    for (module, value), tensor in largest.items():
        most: float | None = float(tensor) if bool(tensor.isfinite()) else None
        bits = math.log2(FLOAT16_END / most) if most else None
        part = "vision" if "visual" in module.split(".") else "text"
        lines.append(dict(zip(HEADROOM, (module, part, value, most, bits), strict=True)))
    return lines


@contextmanager
def _watched(model: nn.Module) -> Iterator[dict[tuple[str, str], Tensor]]:
    """Note the largest magnitude of every output, input (of modules without parts) and eager QK^T inside the block.

    The maxima stay on the device, so that no module waits for the host.
    """
    import torch

    largest: dict[tuple[str, str], Tensor] = {}
    names = {module: name for name, module in model.named_modules() if name}

    def note(name: str, value: str, tensor: Any) -> None:
        if isinstance(tensor, tuple | list) and tensor:
            tensor = tensor[0]  # an attention's output comes with its weights
        if isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and tensor.numel():
            most = tensor.detach().abs().amax()
            before = largest.get((name, value))
            largest[name, value] = most if before is None else torch.maximum(before, most)

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if next(module.children(), None) is None:
            note(names[module], "input", args)
        note(names[module], "output", output)

    handles = [module.register_forward_hook(after) for module in names]
    try:
        with _measuring_eager(lambda module, scores: note(names[module], "scores", scores)):
            yield largest
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _measuring_eager(note: Callable[[nn.Module, Tensor], None]) -> Iterator[None]:
    """Let eager attention report its QK^T, head by head, then compute as the model's own file does."""
    from transformers import AttentionInterface

    def measured(module: nn.Module, query: Tensor, key: Tensor, *rest: Any, **named: Any) -> Any:
        groups = query.shape[1] // key.shape[1]
        for head in range(query.shape[1]):  # one at a time: all heads of a large page would not fit beside eager's own
            note(module, query[:, head] @ key[:, head // groups].transpose(-1, -2))
        own = sys.modules[type(module).__module__].eager_attention_forward
        return own(module, query, key, *rest, **named)

    mapping = AttentionInterface._global_mapping
    before = mapping.get("eager")
    AttentionInterface.register("eager", measured)
    try:
        yield
    finally:
        mapping.pop("eager")
        if before is not None:
            AttentionInterface.register("eager", before)


# What TF32 changes: logits and time of one pass with it and without, in turns, for a float32 and a bfloat16 model.


#: What `tf32_here` returns: changes by KL in nats and by logit, then seconds of a pass and their ratio, on over off.
CHANGES = ("kl_mean", "logit_error")
TIMES = ("seconds_off", "seconds_on", "ratio", "ratio_low", "ratio_high")


def tf32_here(settings: Settings, page: Page, repeats: int) -> dict[str, Any]:
    """Return what TF32 changes for a page here: passes without and with it in turns, the first pair not timed."""
    reader = in_this_process(reader_here(settings))
    with tf32(False):
        tokens = reader.generate(page)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    logits = {}
    for _ in range(repeats + 1):
        for on in (False, True):
            with tf32(on):
                started = time.perf_counter()
                logits[on], _ = teacher_forced_logits(reader, page, tokens)  # on the CPU, so the device is done
                seconds[on].append(time.perf_counter() - started)
    off, on_s = seconds[False][1:], seconds[True][1:]
    ratio = median_spread([b / a for a, b in zip(off, on_s, strict=True)])
    times = (median_spread(off).median, median_spread(on_s).median, *ratio)
    changes = distance(logits[True], logits[False])
    kept = {name: value for name, value in changes.items() if name in (*CHANGES, "status", "reason")}
    return kept | dict(zip(TIMES, times, strict=True))
