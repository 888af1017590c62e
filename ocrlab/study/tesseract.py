"""Tesseract on the same pages, as a yardstick: its rows stand beside ours where it is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

from ocrlab.pages import Page
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
