"""One page: which file, what it says if that is known, and what is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ocrlab.pages.errors import PageError
from ocrlab.pages.images import open_image


@dataclass(frozen=True)
class Page:
    """A page and its truth; `truth` None means no score.

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

    def open(self) -> Image.Image:
        """Return the page's image as upright 8-bit RGB.

        Raises:
            PageError: the page is refused, or its file cannot be read as an image.
        """
        if self.refused:
            raise PageError(self.problem)
        return open_image(self.file)
