"""Tesseract on the same pages, as a yardstick: its rows stand beside ours where it is installed."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from tqdm.auto import tqdm

from ocrlab.pages import Page, load_pages
from ocrlab.pages.documents import PDF_DPI
from ocrlab.pages.images import PageError
from ocrlab.pages.load import OWN_SETS
from ocrlab.reading.pool import ReaderPool
from ocrlab.reading.reader import Reader
from ocrlab.reading.settings import Settings
from ocrlab.scoring.metrics import score

if TYPE_CHECKING:
    import pandas as pd


# What suits each of our sets best: one line, one block, one column of lines of any size; else fully automatic.
_SEGMENTATION = {"lines": "7", "sizes": "7", "labels": "6", "documents": "4"}


def tesseract_version() -> str | None:
    """Return the installed version, or None where `tesseract` is not on the path or lacks eng or rus."""
    if shutil.which("tesseract") is None:
        return None
    languages = subprocess.run(["tesseract", "--list-langs"], capture_output=True, text=True, check=True).stdout
    if not {"eng", "rus"} <= set(languages.split()):
        return None
    first = subprocess.run(["tesseract", "--version"], capture_output=True, text=True, check=True).stdout.split("\n")[0]
    return first.split()[-1]


def read_with_tesseract(pages: Sequence[Page]) -> pd.DataFrame:
    """Return one row a page: cer, wer, exact, text, page_s in seconds; page segmentation told whether it is one line.

    `page_s` includes the start of the process, as a user of the command would meet it. One thread a process
    (OMP_THREAD_LIMIT): with its own choice of threads a line took 2.5 times as long on two cores (LOG.md).
    """
    import pandas as pd

    environment = os.environ | {"OMP_THREAD_LIMIT": "1"}
    rows = []
    for page in tqdm(pages, desc="tesseract", unit="page"):
        mode = _SEGMENTATION.get(page.set, "3" if page.truth is None or "\n" in page.truth else "7")
        started = time.perf_counter()
        done = subprocess.run(
            ["tesseract", str(page.file), "stdout", "-l", "eng+rus", "--psm", mode],
            capture_output=True, check=False, env=environment,
        )  # fmt: skip
        page_s = time.perf_counter() - started
        text = done.stdout.decode("utf-8", "replace").strip()
        row = {"page": page.id, "set": page.set, "kind": page.kind, "text": text, "page_s": page_s}
        row |= {
            "status": "ok" if done.returncode == 0 else "error",
            "reason": done.stderr.decode("utf-8", "replace")[-200:],
        }
        rows.append(row | (score(text, page.truth) if page.truth is not None else {}))
    return pd.DataFrame(rows)


# What the workspace itself costs: a bare transformers loop, `reader.read`, and the same in a worker's process.


def measure_overhead(settings: Settings, pages: Sequence[Page], repeats: int = 3, seed: int = 0) -> pd.DataFrame:
    """Return one line a page and repetition: seconds in a bare loop, by a reader here, by one in a worker's process.

    The columns are bare_s, reader_s and worker_s, and the ratios reader_ratio (to the bare loop) and worker_ratio (to
    the reader here). The three take turns on every page, in an order drawn by seed, so that drift of the machine hits
    all alike; every page is read once before as warm-up. Raises RuntimeError where they do not give the same text.
    """
    import pandas as pd

    rng = random.Random(seed)
    lines = []
    with Reader(settings) as reader, ReaderPool(settings) as pool:
        ways: dict[str, Callable[[Page], str]] = {
            "bare_s": lambda page: _bare(reader, page),
            "reader_s": lambda page: reader.read(page).text,
            "worker_s": lambda page: "".join(result.reading.text for result in pool.read([page])),
        }
        for page in pages:
            if len({read(page) for read in ways.values()}) > 1:
                raise RuntimeError(f"{page.id}: the ways read different texts, so their times cannot be compared")
        for repeat in range(repeats):
            for page in pages:
                line: dict[str, float | int | str] = {"page": page.id, "repeat": repeat}
                for name in rng.sample(list(ways), len(ways)):
                    started = time.perf_counter()
                    ways[name](page)
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


# Where the pages of readings lie on this machine: found by the sha256 that each reading carries.


def pages_by_hash(sources: Iterable[str | Path] = OWN_SETS, dpis: Iterable[int] = ()) -> dict[str, Page]:
    """Return the pages of sets, folders with those below, or files by sha256, absent and refused ones left out.

    Where the same bytes lie in several sources the first is taken. A PDF's pages are drawn, and so hashed, at the
    default resolution and at `dpis`.
    """
    found: dict[str, Page] = {}
    for page in _pages(sources, dpis):
        if page.sha256 and not page.refused:
            found.setdefault(page.sha256, page)
    return found


def absent_pages(
    readings: Collection[Mapping[str, Any]], here: Mapping[str, Page], sources: Iterable[str | Path]
) -> dict[str, str]:
    """Return the pages of readings that are not here with the same bytes, by id, each with what is known of it."""
    by_name = {(page.set, page.id, page.dpi): page for page in _pages(sources, dpis_of(readings))}
    absent = {}
    for reading in readings:
        if reading["page_sha256"] not in here:
            now = by_name.get((reading["set"], reading["page"], reading.get("dpi", PDF_DPI)))
            absent[reading["page"]] = (
                "not found here; name the folder it lies in" if now is None
                else f"its file has changed since (sha256 {reading['page_sha256'][:12]}… then, {now.sha256[:12]}… now)"
            )  # fmt: skip
    return absent


def dpis_of(readings: Iterable[Mapping[str, Any]]) -> set[int]:
    """Return the resolutions at which readings say that their pages were drawn."""
    told = (reading.get("dpi") for reading in readings)
    return {dpi for dpi in told if isinstance(dpi, int) and dpi > 0}


def _pages(sources: Iterable[str | Path], dpis: Iterable[int]) -> Iterator[Page]:
    further = sorted(set(dpis) - {PDF_DPI})
    for source in sources:
        try:
            pages = load_pages(source, recursive=True)
            inside = any(page.page_number is not None for page in pages)
            others = [load_pages(source, recursive=True, dpi=dpi) for dpi in further] if inside else []
        except PageError:
            continue
        yield from chain(pages, *others)
