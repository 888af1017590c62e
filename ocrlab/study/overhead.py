"""What the workspace itself costs: `reader.read` against a bare transformers loop on the same model and pages."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from PIL import Image

from ocrlab.pages import Page
from ocrlab.reading.inputs import IMAGE_TOKEN

if TYPE_CHECKING:
    import pandas as pd

    from ocrlab.reading.reader import Reader


def measure_overhead(reader: Reader, pages: Sequence[Page], repeats: int = 3, seed: int = 0) -> pd.DataFrame:
    """Return one line a page and repetition: bare_s, reader_s and their ratio; pages once before as warm-up.

    The two take turns on every page, in an order drawn by seed, so that drift of the machine hits both alike.
    Raises RuntimeError where the two do not give the same text.
    """
    import pandas as pd

    rng = random.Random(seed)
    for page in pages:
        if reader.read(page).text != _bare(reader, page):
            raise RuntimeError(f"{page.id}: the bare loop reads another text, so their times cannot be compared")
    lines = []
    for repeat in range(repeats):
        for page in pages:
            line: dict[str, float | int | str] = {"page": page.id, "repeat": repeat}
            for who in rng.sample(["bare_s", "reader_s"], 2):
                started = time.perf_counter()
                _ = _bare(reader, page) if who == "bare_s" else reader.read(page)
                line[who] = time.perf_counter() - started
            lines.append(line)
    table = pd.DataFrame(lines)
    return table.assign(ratio=table["reader_s"] / table["bare_s"])


def _bare(reader: Reader, page: Page) -> str:
    """The loop one would write by hand."""
    import torch

    builder = reader.builder
    with Image.open(page.file) as opened:
        processed = builder.image_processor(images=[opened.convert("RGB")], return_tensors="pt")
    count = int(processed["image_grid_thw"].prod() // builder.image_processor.merge_size**2)
    text = builder.text(reader.settings.prompt).replace(IMAGE_TOKEN, IMAGE_TOKEN * count)
    tokens = builder.tokenizer([text], return_tensors="pt")
    kinds = (tokens["input_ids"] == builder.image_token_id).long()
    inputs = {**tokens, **processed, "mm_token_type_ids": kinds}
    with torch.inference_mode():
        output = reader.model.generate(**{name: tensor.to(reader.device) for name, tensor in inputs.items()})
    new = output[0, tokens["input_ids"].shape[1] :]
    return str(builder.tokenizer.decode(new, skip_special_tokens=True)).strip()
