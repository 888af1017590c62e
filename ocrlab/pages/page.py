"""One page: its file and its number inside it, what it says if that is known, and what is wrong with it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Self

from PIL import Image

from ocrlab.pages.documents import PDF_DPI, Resized, open_inside, open_whole, size_inside
from ocrlab.pages.images import PageError, image_size
from ocrlab.scoring.content import Fact

#: Where truths come from: files beside and manifests, or these and the text layers of PDFs.
Truth = Literal["beside", "pdf"]
#: What is done to a page once it is opened.
Degrade = Literal["", "scan"]


@dataclass(frozen=True)
class Page:
    """A page and its truth; None is no score. `truth_source` is "file", "pdf" or "hub", "" where there is none.

    `page_number` is the page's number, from 1, inside a PDF, multipage TIFF or GIF, None for an image; `dpi` is the
    resolution at which a PDF page is drawn, None as large as its reader takes it. Such a page's `sha256` is its own: of
    the file's, the number and, in a PDF, a dpi. With `degrade="scan"` the opened page looks scanned or photographed,
    and its `sha256` is another. `facts` are a second sort of truth, beside the text or without it
    (`scoring.content.fact_holds`).

    `stamp` is the file's when it was listed: one that was changed since then is not read in place of the other.

    `problem` is empty, or a sentence for the user. With `refused` it forbids reading the image (its hash is not the
    manifest's, it lies outside the manifest's folder, it is missing); without, only the truth is unusable.
    """

    id: str
    file: Path
    sha256: str
    set: str
    language: str = ""
    kind: str = ""
    degradation: str = ""
    font: str = ""
    truth: str | None = None
    licence: str = ""
    problem: str = ""
    refused: bool = False
    page_number: int | None = None
    dpi: int | None = None
    truth_source: str = ""
    degrade: Degrade = ""
    facts: tuple[Fact, ...] = field(default=(), hash=False)
    stamp: tuple[int, int] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "truth_source", "" if self.truth is None else self.truth_source or "file")

    def degraded(self, degrade: Degrade) -> Self:
        """Return the page as it is degraded when it is opened; its own sha256 is the seed."""
        sha256 = hashlib.sha256(f"{self.sha256}~{degrade}".encode()).hexdigest()
        return replace(self, degrade=degrade, sha256=sha256) if degrade and self.sha256 else self

    def open(self, max_pixels: int | None = None, resized: Resized | None = None) -> Image.Image:
        """Return the page's image as upright 8-bit RGB, in any thread or process.

        A PDF page without a dpi is drawn to fill `max_pixels`, at 200 dots per inch at most, or else at 150; `resized`
        gives of that size the one that its reader makes of it, at which it is drawn. A degraded page is one of 150.

        Raises:
            PageError: the page is refused, or its file cannot be read as an image or was changed since it was listed.
        """
        if self.refused:
            raise PageError(self.problem)
        with self.local() as file:
            number = self.page_number
            if self.stamp and file.exists() and stamp_of(file) != self.stamp:
                raise PageError(f"{file}: was changed after it was listed; give the same command again")
            wanted = (PDF_DPI,) if self.degrade and not self.dpi else (self.dpi, max_pixels, resized)
            image = open_whole(file) if number is None else open_inside(file, number, *wanted)
        if not self.degrade:
            return image
        from ocrlab.pages.degrade import scanned

        return scanned(image, self.sha256)

    def size(self, max_pixels: int | None = None) -> tuple[int, int]:
        """Return width and height in pixels, as `page_size` does."""
        number, wanted = self.page_number, (PDF_DPI,) if self.degrade and not self.dpi else (self.dpi, max_pixels)
        with self.local() as file:
            return image_size(file) if number is None else size_inside(file, number, *wanted)

    @contextmanager
    def local(self) -> Iterator[Path]:
        """Give the page's file on this machine, for as long as the block lasts."""
        yield self.file

    @property
    def where(self) -> str:
        """The page's file as a person names it: a path, or the URL of an object in a store."""
        return str(self.file)


def stamp_of(file: Path) -> tuple[int, int]:
    """Return a file's time of change in nanoseconds and its length in bytes; raises OSError where there is none."""
    stat = file.stat()
    return stat.st_mtime_ns, stat.st_size


def page_size(page: Page, max_pixels: int | None = None) -> tuple[int, int]:
    """Return a page's width and height in pixels without decoding it; a quarter turn by EXIF is not counted.

    An image's and a TIFF page's are in the header; a PDF page's are its page box at the page's dpi, or
    without one as it fills `max_pixels` (`Page.open`).

    Raises:
        PageError: the page is refused, or its header cannot be read.
    """
    if page.refused:
        raise PageError(page.problem)
    return page.size(max_pixels)
