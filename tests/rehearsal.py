"""A server that answers as Qwen2-VL-2B does on whole documents: `python -m tests.rehearsal --port 8765`.

It knows the pages, finds the one that an image shows in spite of its size, and writes its truth with the errors, loops
and words around the text that such a model makes. All figures are options, so that a test plants a best and a worst
setting; the same request always gets the same answer.
"""

from __future__ import annotations

import argparse
import math
import random
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ocrlab.pages import Page, load_pages
from ocrlab.pages.page import Truth
from tests.reading.fake_server import Fake, begin, cells, end, event, fake_server, send

LOOK_ALIKES = dict(zip("АВЕКМНОРСТХаеорсух", "ABEKMHOPCTXaeopcyx", strict=True))
PREAMBLES = {
    "en": ("The text in the image is as follows:", "Here is the text extracted from the image:",
           "Sure! Here's the transcription:", "The image contains the following text:"),
    "ru": ("Текст на изображении:", "На изображении представлен следующий текст:", "Вот текст с изображения:"),
}  # fmt: skip
CLOSINGS = {
    "en": ("Let me know if you need anything else.", "Note: some parts of the text are not legible."),
    "ru": ("Если нужна дополнительная информация, дайте знать.",),
}
# Grey levels between the thumbnails of one page at two sizes, at most; other pages are further away.
NEAR = 12.0
# About what a token holds: up to four letters, one digit, one sign.
TOKEN = re.compile(r"\s*(?:[^\W\d_]{1,4}|\d|[^\w\s]|_)|\s+")


@dataclass(frozen=True)
class Manner:
    """What a prompt that `prompt` is found in brings: times the errors, and shares of answers with words around."""

    prompt: str
    errors: float = 1.0
    preamble: float = 0.0
    closing: float = 0.0
    fence: float = 0.0
    markdown: bool = False


MANNERS = (
    Manner("markdown", preamble=0.1, closing=0.05, fence=0.4, markdown=True),
    Manner(r"\bonly\b|nothing else|text alone|verbatim|только|^(free )?ocr\b", preamble=0.02, fence=0.02),
    Manner("", preamble=0.5, closing=0.15, fence=0.33),
)


@dataclass(frozen=True)
class Rehearsal:
    """The figures. `rates` and `loops` hold shares by image tokens, between which they are interpolated.

    The model knows the first `limit` pages of each source. `rates` are edits per letter, `loops` the share of pages
    that repeat a line up to the cap: the first of a fixed order, so that a page that loops at a low share loops at a
    higher one. `reordered` pages come with their second half first. `shared` is the share of a page's errors that are
    the page's own: what is misread of more pixels is misread of fewer, too. `spread` is the standard deviation of a
    page's difficulty, as a logarithm. Temperature and repetition penalty add edits per letter and unit. `seconds` are
    for 1,000 image tokens, `token_seconds` for a token.
    """

    pages: Sequence[str | Path] = ("documents",)
    limit: int | None = None
    truth: Truth = "beside"
    name: str = "Qwen/Qwen2-VL-2B-Instruct"
    rates: dict[int, float] = field(default_factory=lambda: {256: 0.08, 576: 0.03, 1280: 0.015, 2560: 0.014})
    loops: dict[int, float] = field(default_factory=lambda: {256: 1 / 60})
    manners: tuple[Manner, ...] = MANNERS
    reordered: int = 1
    look_alikes: float = 0.6
    shared: float = 0.9
    spread: float = 0.3
    temperature_errors: float = 0.01
    penalty_errors: float = 0.2
    seconds: float = 0.0
    token_seconds: float = 0.0

    def manner(self, prompt: str) -> Manner:
        """Return the first manner whose pattern is found in the prompt."""
        return next(one for one in self.manners if re.search(one.prompt, prompt, re.IGNORECASE))


class Writer:
    """What the model writes; pages are loaded once."""

    def __init__(self, figures: Rehearsal) -> None:
        self.figures = figures
        loaded = (load_pages(source, limit=figures.limit, truth=figures.truth) for source in figures.pages)
        self.pages = [page for pages in loaded for page in pages if page.truth]
        self.thumbnails = np.stack([thumbnail_of(page) for page in self.pages])
        ids = sorted((page.id for page in self.pages), key=lambda page: random.Random(f"order {page}").random())
        self.place = {page: place for place, page in enumerate(ids)}
        hard = {page: math.exp(random.Random(f"hard {page}").gauss(0, figures.spread)) for page in ids}
        self.hard = {page: value * len(hard) / sum(hard.values()) for page, value in hard.items()}

    def page_of(self, image: Image.Image) -> Page | None:
        """Return the page that an image shows at whatever size; None for an image of something else."""
        seen = thumbnail(image)
        if np.ptp(seen) < 1:
            return None
        distances = np.abs(self.thumbnails - seen).mean(axis=1)
        return self.pages[int(distances.argmin())] if distances.min() <= NEAR else None

    def looping(self, tokens: int) -> int:
        """Return how many pages repeat themselves at so many image tokens: the first ones by `place`."""
        return math.ceil(at(self.figures.loops, tokens) * len(self.pages) - 1e-9)

    def write(self, image: Image.Image, prompt: str, body: dict[str, Any]) -> tuple[list[str], bool]:
        """Return an answer as tokens without end token, and whether it goes on without end."""
        page = self.page_of(image)
        if page is None:
            return TOKEN.findall(f"A picture, {thumbnail(image).mean():.2f}"), False
        tokens, temperature = cells(image), float(body.get("temperature", 0))
        dice = random.Random(f"{page.id} {tokens} {prompt} {body.get('seed') if temperature else None}")
        manner, lines = self.figures.manner(prompt), (page.truth or "").splitlines()
        if 0 <= self.place[page.id] - max(map(self.looping, self.figures.loops)) < self.figures.reordered:
            lines = lines[len(lines) // 2 :] + lines[: len(lines) // 2]
        rate = at(self.figures.rates, tokens) * manner.errors * self.hard[page.id]
        rate += temperature * self.figures.temperature_errors
        rate += max(0.0, float(body.get("repetition_penalty", 1)) - 1) * self.figures.penalty_errors
        page_dice, own = random.Random(f"errors {page.id}"), rate * (1 - self.figures.shared)
        text = misread("\n".join(lines), rate - own, self.figures.look_alikes, page_dice)
        text = misread(text, own, self.figures.look_alikes, dice)
        text = in_markdown(text) if manner.markdown else text
        if self.place[page.id] < self.looping(tokens):
            kept = text.splitlines()[: max(1, text.count("\n") // 2)]
            return TOKEN.findall("\n".join(kept) + f"\n{kept[-1]}" * 6000), True
        return TOKEN.findall(framed(text, manner, "ru" if re.search("[а-я]", prompt) else "en", dice)), False

    def turn(self, handler: Any) -> None:
        """Answer a request as the model does, cut at `max_tokens`, no shorter than `min_tokens`."""
        body, cap = handler.body, handler.body["max_tokens"]
        written, endless = self.write(handler.image, handler.prompt, body)
        if body.get("min_tokens"):
            written = (written * math.ceil(cap / max(1, len(written))))[:cap]
        ends = not endless and len(written) < cap
        time.sleep(self.figures.seconds * cells(handler.image) / 1000)
        begin(handler, written[: min(1, cap)])
        for start in range(1, min(len(written), cap), 8):  # eight tokens at once, as a busy server sends them
            piece = written[start : min(start + 8, cap)]
            time.sleep(self.figures.token_seconds * len(piece))
            send(handler, event("".join(piece)))
        end(handler, "stop" if ends else "length", len(written) + 1 if ends else cap)


def at(shares: dict[int, float], tokens: int) -> float:
    """Return the share at so many image tokens, interpolated over their logarithm."""
    known = sorted(shares)
    return float(np.interp(math.log(max(1, tokens)), [math.log(one) for one in known], [shares[one] for one in known]))


def thumbnail(image: Image.Image) -> np.ndarray:
    """Return an image as 32 × 32 grey levels, one after another."""
    return np.asarray(image.convert("L").resize((32, 32), Image.Resampling.BOX), dtype=np.float32).ravel()


@cache
def thumbnail_of(page: Page) -> np.ndarray:
    """Return a page's thumbnail; there are hundreds of pages, so each is made once in a process."""
    return thumbnail(page.open())


def misread(text: str, rate: float, look_alikes: float, dice: random.Random) -> str:
    """Return the text with `rate` edits per letter: look-alikes for this share where there are any, else another
    letter, a letter left out or one more. With dice alike, a lower rate makes some of a higher one's edits.
    """
    letters = list(text)
    places = [i for i, letter in enumerate(letters) if not letter.isspace()]
    places.sort(key=lambda _: dice.random())
    kinds = [dice.random() for _ in places]
    others = [dice.choice("aeionrstаеинорст0123456789") for _ in places]
    alike, free = ([i for i in places if (letters[i] in LOOK_ALIKES) == kind] for kind in (True, False))
    wanted, fraction = int(rate * len(letters)), dice.random()
    wanted = min(wanted + (rate * len(letters) - wanted > fraction), len(places))
    first = alike[: round(wanted * look_alikes)]
    for i in first:
        letters[i] = LOOK_ALIKES[letters[i]]
    for i, kind, other in zip(free[: wanted - len(first)], kinds, others, strict=False):
        other = other if other != letters[i] else "z"
        letters[i] = other if kind < 1 / 3 else "" if kind < 2 / 3 else letters[i] + other
    return "".join(letters)


def in_markdown(text: str) -> str:
    """Return a text with a heading, rows of numbers as a table, and what ends in a colon in bold."""
    first, *lines = text.splitlines()
    out, before = [f"# {first}"], 1
    for line in lines:
        found = re.split(r" (?=[\d.,]+$)", line)
        if len(found) > 1:
            out.append(f"| {' | '.join(found)} |")
            if before == 1:
                out.append("|" + "---|" * len(found))
        else:
            out.append(f"**{line}**" if line.endswith(":") else line)
        before = len(found)
    return "\n".join(out)


def framed(text: str, manner: Manner, language: str, dice: random.Random) -> str:
    """Return a text with what the model says before it and after it, and the fence around it."""
    if dice.random() < manner.fence:
        text = f"```{'markdown' if manner.markdown else dice.choice(['', 'plaintext'])}\n{text}\n```"
    if dice.random() < manner.preamble:
        text = f"{dice.choice(PREAMBLES[language])}\n\n{text}"
    return f"{text}\n\n{dice.choice(CLOSINGS[language])}" if dice.random() < manner.closing else text


@contextmanager
def rehearsal(port: int = 0, **figures: Any) -> Iterator[Fake]:
    """Serve the model with these figures; `model_id` of what is given is what notebooks take."""
    shown = Rehearsal(**figures)
    with fake_server(port=port, name=shown.name, keep=False, always=Writer(shown).turn) as fake:
        yield fake


def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--pages", nargs="+", default=["documents"], help="page sets or folders with truths")
    parser.add_argument("--truth", choices=["beside", "pdf"], default="beside", help="pdf: pages' text layers")
    parser.add_argument("--seconds", type=float, default=0.0, help="seconds for 1,000 image tokens")
    parser.add_argument("--token-seconds", type=float, default=0.0, help="seconds for a new token")
    parser.add_argument("--loops", type=float, default=1 / 60, help="share of pages that loop")
    given = parser.parse_args()
    figures = {"seconds": given.seconds, "token_seconds": given.token_seconds, "loops": {256: given.loops}}
    with rehearsal(given.port, pages=tuple(given.pages), truth=given.truth, **figures) as fake:
        print(f"make reproduce MODEL={fake.model_id} ONLY=04-pixels", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
