"""What a reading would take, told before it: pages, image tokens, memory, time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import median

from ocrlab import paths
from ocrlab.machine.describe import choose_device, choose_dtype, machine_name
from ocrlab.reading.checkpoints import CheckpointError
from ocrlab.reading.limits import predict
from ocrlab.reading.reader import LOAD_SETTINGS
from ocrlab.reading.settings import Settings
from ocrlab.study.library import Item
from ocrlab.study.records import flat_row, readings_in

_SAME = ({*LOAD_SETTINGS} - {"device", "dtype"}) | {"batch_size", "compile", "num_beams"}


def estimate(settings: Settings, items: Sequence[Item], todo: Sequence[Item], workers: int) -> None:
    """Print what there is to read with these settings, the memory for a batch of the largest, and the time."""
    refused = [item.page for item in items if item.page.refused]
    print(f"{len(items)} pages, {len(todo)} to read, by {workers} worker{'s' * (workers > 1)}")
    for page in refused:
        print(f"  will be passed over: {page.problem}")
    sizes = sorted(item.image_tokens for item in todo if item.image_tokens)
    if not sizes:
        return
    print(f"image tokens a page: {sizes[0]:,} to {sizes[-1]:,}, median {round(median(sizes)):,}")
    here = choose_device(settings.device).value
    try:
        memory = predict(
            replace(settings, device=here), sizes[-1], dtype=choose_dtype(settings.dtype, here).value
        ).memory
    except CheckpointError as error:
        print(f"memory: not predicted ({error})")
    else:
        print(
            f"memory: {memory.peak_bytes / 2**30:.2f} GiB predicted for a batch of {settings.batch_size} of the "
            f"largest with all {settings.max_new_tokens} tokens, of it {memory.weights_bytes / 2**30:.2f} GiB weights"
        )
    found = _measured(settings)
    if not found:
        print("time: no reading with such settings on this machine in results/ yet; read some pages first (--limit)")
        return
    each = [seconds / tokens for seconds, tokens in found]
    low, middle, high = (sorted(each)[round(share * (len(each) - 1))] for share in (0.25, 0.5, 0.75))
    total = sum(sizes) / workers
    print(
        f"time: {_clock(total * middle)} ({_clock(total * low)} to {_clock(total * high)}), by the seconds an image "
        f"token of {len(found)} readings here with such settings (median, and quartiles)"
    )


def _measured(settings: Settings) -> list[tuple[float, int]]:
    """Return page_s and image tokens of this machine's readings in results/ that share what speed depends on."""
    same = {name: getattr(settings, name) for name in _SAME} | {"machine": machine_name(), "min_new_tokens": None}
    same["actual_dtype"] = choose_dtype(settings.dtype, choose_device(settings.device).value).value
    rows = [flat_row(record) for run in paths.runs_in(paths.RESULTS) for record in readings_in(run)]
    mine = [row for row in rows if all(row.get(name) == value for name, value in same.items())]
    return [(row["page_s"], row["image_tokens"]) for row in mine if row.get("page_s") and row.get("image_tokens")]


def _clock(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
