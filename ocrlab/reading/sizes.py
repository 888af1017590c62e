"""How many image tokens pages will take, told from their sizes without loading the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from ocrlab.pages import Page
from ocrlab.reading.checkpoints import CheckpointError, locate
from ocrlab.reading.inputs import count_image_tokens, page_tokens
from ocrlab.reading.loading import load_image_processor
from ocrlab.reading.settings import Settings


def image_tokens(settings: Settings, width: int, height: int) -> int:
    """Return how many image tokens a page of this size in pixels will take; errors as `token_counter` raises them."""
    return token_counter(settings)(width, height)


def token_counter(settings: Settings) -> Callable[[int, int], int]:
    """Return what tells a page's image tokens from its width and height in pixels, under these settings.

    The pixel limits of a model that is not here are taken to be Qwen2-VL's.

    Raises:
        CheckpointError: the model's shapes are not known.
    """
    try:
        folder = locate(settings).folder
    except CheckpointError:
        folder = locate(_shape_of(settings)).folder
    processor, own = _processor(folder, settings.model_id)

    def count(width: int, height: int) -> int:
        processor.size = {**own, **settings.pixel_kwargs()}
        return count_image_tokens(processor, width, height)

    return count


def image_tokens_of(settings: Settings, pages: Sequence[Page]) -> list[int]:
    """Return each page's image tokens from its header alone; 0 where a page or the model's sizes cannot be told."""
    try:
        count = token_counter(settings)
    except CheckpointError:
        return [0] * len(pages)
    return [page_tokens(page, count) for page in pages]


@lru_cache(maxsize=8)
def _processor(folder: Path, model_id: str) -> tuple[Any, dict[str, int]]:
    from ocrlab.reading.dummy import build_image_processor

    if (folder / "preprocessor_config.json").is_file():
        processor = load_image_processor(folder)
    else:
        processor = build_image_processor(locate(_shape_of(Settings(model_id=model_id))).config)
    return processor, dict(processor.size)


def _shape_of(settings: Settings) -> Settings:
    return Settings(model_id=settings.model_id, weights="dummy")
