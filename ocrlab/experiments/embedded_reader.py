"""What the workspace itself costs: a bare transformers loop, `reader.read`, and the same in a worker's process."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from PIL import Image

from ocrlab.pages import Page
from ocrlab.reading.pool import ReaderPool
from ocrlab.reading.reader import Reader
from ocrlab.reading.settings import Settings

if TYPE_CHECKING:
    import pandas as pd


def measure_overhead(settings: Settings, pages: Sequence[Page], repeats: int = 3, seed: int = 0) -> pd.DataFrame:
    """Return one line per page and repetition: seconds in a bare loop, by a reader here, by one in a worker's process.

    The columns are bare_s, reader_s and worker_s, and the ratios reader_ratio (to the bare loop) and worker_ratio (to
    the reader here). The three take turns on every page, in an order drawn by seed, so that drift of the machine hits
    all alike; every page is read once before as warm-up.

    Raises:
        RuntimeError: the three read different texts, so their times cannot be compared.
    """
    import pandas as pd

    rng = random.Random(seed)
    lines = []
    with Reader(settings) as reader, ReaderPool(settings) as pool:
        readers: dict[str, Callable[[Page], str]] = {
            "bare_s": lambda page: _bare(reader, page),
            "reader_s": lambda page: reader.read(page).text,
            "worker_s": lambda page: "".join(result.reading.text for result in pool.read([page])),
        }
        for page in pages:
            if len({read(page) for read in readers.values()}) > 1:
                raise RuntimeError(f"{page.id}: the three read different texts, so their times cannot be compared")
        for repeat in range(repeats):
            for page in pages:
                line: dict[str, float | int | str] = {"page": page.id, "repeat": repeat}
                for name in rng.sample(list(readers), len(readers)):
                    started = time.perf_counter()
                    readers[name](page)
                    line[name] = time.perf_counter() - started
                lines.append(line)
    table = pd.DataFrame(lines)
    return table.assign(
        reader_ratio=table["reader_s"] / table["bare_s"], worker_ratio=table["worker_s"] / table["reader_s"]
    )


def _bare(reader: Reader, page: Page) -> str:
    """The loop one would write by hand."""
    import torch

    builder = reader.builder
    with page.local() as file, Image.open(file) as opened:
        processed = builder.image_processor(images=[opened.convert("RGB")], return_tensors="pt")
    count = int(processed["image_grid_thw"].prod() // builder.image_processor.merge_size**2)
    token = reader.family.image_token
    text = builder.text(reader.settings.prompt).replace(token, token * count)
    tokens = builder.tokenizer([text], return_tensors="pt")
    kinds = (tokens["input_ids"] == builder.image_token_id).long()
    inputs = {**tokens, **processed, "mm_token_type_ids": kinds}
    with torch.inference_mode():
        output = reader.model.generate(**{name: tensor.to(reader.device) for name, tensor in inputs.items()})
    new = output[0, tokens["input_ids"].shape[1] :]
    return str(builder.tokenizer.decode(new, skip_special_tokens=True)).strip()
