"""What a reading in progress shows: each page's text or object, the pace, and at the end what came of it."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ocrlab.pages import Page
from ocrlab.scoring.metrics import Edits, character_edits, corpus_rate

STEADY_PAGES = 100
"""From this many pages on, the summary tells how much of the workers' time was spent in `generate`."""


class Tally:
    """Counts readings of `total` pages as they come."""

    def __init__(self, total: int) -> None:
        self.total, self.pages, self.bad = total, 0, 0
        self.edits: list[Edits] = []
        self.started = time.perf_counter()
        self.began: float | None = None
        self.generate_s = 0.0

    def add(self, page: Page, told: dict[str, Any]) -> None:
        """Count one page's object."""
        took = told.get("generate_s") or 0.0
        if self.began is None:  # loading is over
            self.began = time.perf_counter() - took
        self.generate_s += took / told.get("batch_pages", 1)
        self.pages += 1
        self.bad += told["status"] != "ok"
        if page.truth is not None and told["cer"] is not None:
            self.edits.append(character_edits(told["text"], page.truth))

    def pace(self) -> str:
        """Return pages and pages a second, in words."""
        rate = self.pages / max(time.perf_counter() - self.started, 1e-9)
        return f"{self.pages}/{self.total} pages, {rate:.2f} pages/s"

    def summary(self, workers: int, stopped: bool, *, as_json: bool, where: Path | None) -> int:
        """Print what came of it and return the exit code: 0 all read, 1 some failed, 130 stopped."""
        seconds = time.perf_counter() - self.started
        steady = time.perf_counter() - (self.began or self.started)
        if where is not None:
            part = self.generate_s / (workers * steady)
            # Above 1 where readings came in bulk, long after they were read (Ray): then it cannot be told.
            share = f"; {part:.0%} of it in generate" if self.pages > STEADY_PAGES and part <= 1 else ""
            print(f"{self.pace()}, {seconds:.0f} s with loading{share}; {where}", file=sys.stderr)
        if self.edits:
            rate = corpus_rate(self.edits)
            told = f"CER {rate:.2%} over {len(self.edits)} pages with truth (white space collapsed)"
            print(told, file=sys.stderr if as_json else sys.stdout)
        if self.bad:
            print(f"{self.bad} of {self.pages} pages were not read to their end", file=sys.stderr)
        if stopped:
            goes_on = (
                "the same command goes on from here" if where is not None else "with --out it could go on from here"
            )
            print(f"stopped: {self.total - self.pages} pages are not read; {goes_on}", file=sys.stderr)
            return 130
        return 1 if self.bad else 0


def show(page: Page, told: dict[str, Any], *, as_json: bool, quiet: bool) -> None:
    """Print one page's object or its text on standard output, and what went wrong on standard error."""
    name = f"{page.where}" + (f", page {page.leaf}" if page.leaf is not None else "")
    if as_json:
        print(json.dumps(told, ensure_ascii=False), flush=True)
        return
    if not quiet:
        tqdm.write(f"── {name}", file=sys.stdout)
        if told["text"]:
            tqdm.write(told["text"], file=sys.stdout)
    if told["status"] != "ok":
        tqdm.write(f"{name}: {told['status']}: {told['reason']}", file=sys.stderr)
    if page.problem and not page.refused:
        tqdm.write(f"{page.problem}; read without a score", file=sys.stderr)
