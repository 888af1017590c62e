"""From images and a prompt to the tensors that Qwen2-VL takes: chat template, tokenizer, PIL image processor.

Built by hand because `AutoProcessor` insists on a video processor and so on torchvision; and so one image path gives
the same pixels on every machine.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from PIL import Image

from ocrlab.pages import Page, page_size
from ocrlab.reading.result import Reading, failed

if TYPE_CHECKING:
    import torch


IMAGE_TOKEN = "<|image_pad|>"


@dataclass(frozen=True)
class Inputs:
    """Tensors for `generate`, and each page's counts of image tokens and of all prompt tokens."""

    tensors: dict[str, torch.Tensor]
    image_tokens: tuple[int, ...]
    prompt_tokens: tuple[int, ...]


def count_image_tokens(image_processor: Any, width: int, height: int) -> int:
    """Return how many image tokens an image of this size in pixels takes under a processor's limits."""
    return int(image_processor.get_number_of_image_patches(height, width)) // image_processor.merge_size**2


def page_tokens(page: Page, count: Callable[[int, int], int]) -> int:
    """Return a page's image tokens from its header alone, as `count` tells them from width and height; 0: not told."""
    try:
        return count(*page_size(page))
    except (ValueError, OSError):
        return 0


class InputBuilder:
    """Holds a checkpoint's tokenizer and image processor; `build` turns pages into `Inputs`."""

    def __init__(self, tokenizer: Any, image_processor: Any, image_token_id: int) -> None:
        self.tokenizer, self.image_processor, self.image_token_id = tokenizer, image_processor, image_token_id
        tokenizer.padding_side = "left"  # decoding appends on the right (transformers#36100)

    @property
    def cell_pixels(self) -> int:
        """Pixels of the resized image behind one image token."""
        return int((self.image_processor.patch_size * self.image_processor.merge_size) ** 2)

    def limits(self) -> tuple[int, int]:
        """Return the pixel limits in force: (min_pixels, max_pixels) of the resized image."""
        size = self.image_processor.size
        return int(size["shortest_edge"]), int(size["longest_edge"])

    def count(self, width: int, height: int) -> int:
        """Return how many image tokens an image of this size in pixels will take."""
        return count_image_tokens(self.image_processor, width, height)

    def text(self, prompt: str) -> str:
        """Return the chat template's text for one image and a prompt, ready for the answer.

        Raises:
            ValueError: the prompt itself holds the image token.
        """
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        if text.count(IMAGE_TOKEN) != 1:
            raise ValueError(f"prompt={prompt!r} must not hold {IMAGE_TOKEN}; reword it")
        return str(text)

    def build(self, images: list[Image.Image], prompt: str) -> Inputs:
        """Return the tensors for a batch, padded on the left, all on CPU.

        `pixel_values` is (patches, features) float32; `input_ids`, `attention_mask` and `mm_token_type_ids` are
        (batch, tokens); `image_grid_thw` is (batch, 3) in patches.
        """
        processed = self.image_processor(images=images, return_tensors="pt")
        grid = processed["image_grid_thw"]
        counts = tuple(int(n) for n in grid.prod(-1) // self.image_processor.merge_size**2)
        template = self.text(prompt)
        texts = [template.replace(IMAGE_TOKEN, IMAGE_TOKEN * n) for n in counts]
        tokens = self.tokenizer(texts, padding=True, return_tensors="pt")
        ids, mask = tokens["input_ids"], tokens["attention_mask"]
        tensors = {
            "input_ids": ids, "attention_mask": mask, "mm_token_type_ids": (ids == self.image_token_id).to(ids.dtype),
            "pixel_values": processed["pixel_values"], "image_grid_thw": grid,
        }  # fmt: skip
        return Inputs(tensors, counts, tuple(int(n) for n in mask.sum(-1)))


@dataclass(frozen=True)
class Prepared:
    """A batch's pages and their tensors on the CPU; pages that could not be opened are `failures` already.

    `prepare_s` is the work of opening and building, `wait_s` what the model waited for it: the same where both are
    done by one process, near zero where it was done ahead.
    """

    pages: tuple[Page, ...]
    inputs: Inputs | None
    failures: tuple[Reading, ...]
    prepare_s: float
    wait_s: float


def prepare(builder: InputBuilder, prompt: str, pages: Sequence[Page]) -> Prepared:
    """Return the batch made ready; a page that cannot be opened or built costs itself only."""
    started = time.perf_counter()
    images, failures = {}, []
    for page in pages:
        try:
            images[page] = page.open()
        except (ValueError, OSError) as error:
            failures.append(failed(page.id, error))
    try:
        inputs = builder.build(list(images.values()), prompt) if images else None
    except (ValueError, RuntimeError, MemoryError) as error:
        if len(images) == 1:
            return _ended(started, (), None, [*failures, failed(next(iter(images)).id, error)])
        # One image spoils the batch: find it.
        alone = {page: prepare(builder, prompt, [page]) for page in images}
        failures += [failure for one in alone.values() for failure in one.failures]
        images = {page: image for page, image in images.items() if alone[page].pages}
        inputs = builder.build(list(images.values()), prompt) if images else None
    return _ended(started, tuple(images), inputs, failures)


def _ended(started: float, pages: tuple[Page, ...], inputs: Inputs | None, failures: list[Reading]) -> Prepared:
    seconds = time.perf_counter() - started
    return Prepared(pages, inputs, tuple(failures), seconds, seconds)


class Background:
    """Makes batches ready in `processes` processes of their own, which stay from one stream to the next; 0: here.

    The processes hold `builder` and `prompt` as they were at the first stream: `serves` tells whether they still are.
    """

    def __init__(self, builder: InputBuilder, prompt: str, processes: int) -> None:
        self._source = _Source(builder, prompt)
        self._held = self._key(builder, prompt, processes)
        self._batches = _Batches()
        self._loader: Any = self._load(processes) if processes else None

    def serves(self, builder: InputBuilder, prompt: str, processes: int) -> bool:
        """Return whether batches made ready here are what these would give."""
        return self._held == self._key(builder, prompt, processes)

    def stream(self, batches: Iterable[Sequence[Page]]) -> Iterator[Prepared]:
        """Yield the batches in order, made ready while the caller works; they are asked for two a process ahead.

        After a stream that did not end there is no other one. A process that dies ends it with a RuntimeError.
        """
        if self._loader is None:
            yield from map(self._source.__getitem__, batches)
            return
        self._batches.source = batches
        waiting = time.perf_counter()
        for prepared in self._loader:
            yield replace(prepared, wait_s=time.perf_counter() - waiting)
            waiting = time.perf_counter()

    def _load(self, processes: int) -> Any:
        from torch.utils.data import DataLoader

        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # or tokenizers warns in every forked process
        # A worker was spawned and would spawn in its turn, which imports torch again: seconds. Preparing needs no GPU.
        context = "fork" if sys.platform == "linux" else None
        source: Any = self._source
        return DataLoader(
            source, batch_size=None, sampler=self._batches, num_workers=processes, prefetch_factor=2,
            persistent_workers=True, multiprocessing_context=context,
        )  # fmt: skip

    @staticmethod
    def _key(builder: InputBuilder, prompt: str, processes: int) -> tuple[Any, ...]:
        return builder, builder.limits(), prompt, processes


class _Source:
    """What the background processes hold: the way from a batch of pages to its tensors."""

    def __init__(self, builder: InputBuilder, prompt: str) -> None:
        self.builder, self.prompt = builder, prompt

    def __getitem__(self, pages: Sequence[Page]) -> Prepared:
        return prepare(self.builder, self.prompt, pages)


class _Batches:
    """What the loader asks for batches: those of the stream that goes on."""

    source: Iterable[Sequence[Page]] = ()

    def __iter__(self) -> Iterator[Sequence[Page]]:
        return iter(self.source)
