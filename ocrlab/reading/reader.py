"""Load a model with the asked settings, confirm them, and read pages; the only door to transformers."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Self, overload

from PIL import Image

from ocrlab.machine.describe import choose_device, choose_dtype
from ocrlab.machine.kernels import pinned
from ocrlab.machine.worker import sticky
from ocrlab.pages import Page
from ocrlab.reading.address import is_endpoint
from ocrlab.reading.checkpoints import locate
from ocrlab.reading.confirm import confirm, generation_config
from ocrlab.reading.inputs import Inputs, page_tokens
from ocrlab.reading.loading import Unsupported, load, refuse_missing_attention
from ocrlab.reading.meter import Memory, MemoryMeter, StepMeter
from ocrlab.reading.outcome import Reading, failed, status_of
from ocrlab.reading.prepared import Prepared, prepare
from ocrlab.reading.quantization import missing_library, stored_bytes
from ocrlab.reading.settings import Settings
from ocrlab.reading.trace import NotFinite, Trace, tracing
from ocrlab.scoring.failures import Status, StopReason, judge

FORCED: tuple[Status, str] = ("ok", "length forced by min_new_tokens: a speed row, not a reading")
STATIC = ("static", "offloaded_static")
CACHE_STEP = 256
"""Static caches are made for a multiple of this many tokens."""
LOAD_SETTINGS = ("model_id", "revision", "trust_remote_code", "weights", "device", "dtype", "quantization",
                 "attn_implementation")  # fmt: skip


def same_load(one: Settings, other: Settings) -> bool:
    """Return whether two settings can share a loaded model."""
    return all(getattr(one, name) == getattr(other, name) for name in LOAD_SETTINGS)


def in_batches(pages: Sequence[Page], batch_size: int, sizes: Sequence[int] | None = None) -> list[Sequence[Page]]:
    """Return the pages in batches as they come, or by `sizes` (image tokens): like together, the largest first."""
    if sizes is not None:
        by_size = sorted(zip(sizes, pages, strict=True), key=lambda pair: pair[0], reverse=True)
        pages = [page for _, page in by_size]
    return [pages[start : start + batch_size] for start in range(0, len(pages), batch_size)]


def open_reader(settings: Settings) -> Reader:
    """Return a loaded reader whose settings are confirmed; use it as a context manager to free the model.

    Raises:
        CheckpointError: the model cannot be had or must not be loaded.
        Unsupported: the device, dtype or attention cannot run here.
        SettingNotApplied: a setting did not arrive.
        EndpointError: the server that the model_id names does not answer.
    """
    if is_endpoint(settings.model_id):
        from ocrlab.reading.endpoint import EndpointReader

        return EndpointReader(settings)
    return Reader(settings)


class Reader:
    """A loaded model with its settings in force.

    `actual` holds every setting as read back, `load_s` the seconds from nothing to confirmed, `weight_bytes` the
    parameters' size.
    """

    def __init__(self, settings: Settings) -> None:
        started = time.perf_counter()
        self.settings = settings
        self.followers: dict[str, Any] = {}  # a streamer and stopping criteria, while somebody looks on
        try:
            self.device = choose_device(settings.device).value
        except ValueError as error:
            raise Unsupported(str(error)) from error
        self.dtype = choose_dtype(settings.dtype, self.device).value
        refuse_missing_attention(settings, self.device, self.dtype)
        if reason := missing_library(settings):
            raise Unsupported(reason)
        self.checkpoint = locate(settings)
        self.model, self.builder = load(settings, self.checkpoint, self.device, self.dtype)
        self._own = (self.model.generation_config, dict(self.builder.image_processor.size))
        self.weight_bytes = stored_bytes(self.model)
        self.apply(settings)
        self.load_s = time.perf_counter() - started
        self._warm_up()

    def apply(self, settings: Settings) -> None:
        """Put other settings in force on the loaded model: any but those that decide the load.

        Raises:
            ValueError: a setting that decides the load differs; open another reader.
            SettingNotApplied: a setting did not arrive.
        """
        if not same_load(self.settings, settings):
            raise ValueError(f"{', '.join(LOAD_SETTINGS)} are fixed by the load: open another reader to change them")
        generation, size = self._own
        self.settings = settings
        self.model.generation_config = generation_config(generation, settings)
        self.builder.image_processor.size = {**size, **settings.pixel_kwargs()}
        vars(self.model).pop("_previous_max_cache_length", None)  # or a static cache stays as long as the longest ever
        self.actual = confirm(settings, self.model, self.builder, self.device, self.dtype)
        self.actual |= {"actual_revision": self.checkpoint.revision, "actual_weights": settings.weights}
        self._memory = MemoryMeter(self.device)

    def _warm_up(self) -> None:
        """Read two tokens of a blank image, so that no page pays for what libraries set up once and keep."""
        import torch
        from transformers import GenerationConfig

        own = self.model.generation_config
        two = GenerationConfig(
            min_new_tokens=0,
            max_new_tokens=2,
            do_sample=False,
            eos_token_id=own.eos_token_id,
            pad_token_id=own.pad_token_id,
        )
        tensors = self.tensors(Image.new("RGB", (64, 64), "white"))
        with torch.inference_mode(), pinned(self.settings.sdpa_kernel):
            self.model.generate(**tensors, generation_config=two)
        self._memory = MemoryMeter(self.device)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the model and, on CUDA, the memory it held."""
        del self.model
        if self.device.startswith("cuda"):
            import torch

            torch.cuda.empty_cache()

    @overload
    def read(self, pages: Page) -> Reading: ...
    @overload
    def read(self, pages: Sequence[Page]) -> list[Reading]: ...
    def read(self, pages: Page | Sequence[Page]) -> Reading | list[Reading]:
        """Return the reading of a page, or of each page in the order given; a bad page is a reading that says so."""
        if isinstance(pages, Page):
            return next(self.stream([pages]))
        readings = {reading.page: reading for reading in self.stream(pages)}
        return [readings[page.id] for page in pages]

    def stream(self, pages: Sequence[Page]) -> Iterator[Reading]:
        """Yield readings as batches end; with a batch size above one, pages of like size together, the largest first.

        So what does not fit shows at once, and a static cache need not grow (and its step not be compiled) again.
        """
        size = self.settings.batch_size
        sizes = [self.size_of(page) for page in pages] if 1 < size < len(pages) else None
        for batch in in_batches(pages, size, sizes):
            yield from self.read_prepared(prepare(self.builder, self.settings.prompt, batch))

    def read_prepared(self, batch: Prepared) -> list[Reading]:
        """Return the readings of a batch that `prepared` made ready for this reader's settings."""
        return [*batch.failures, *(self._read_batch(batch) if batch.pages else ())]

    def trace_nonfinite(self, page: Page) -> Trace | None:
        """Read a page greedily and return where the first NaN or infinity arose, or None where all stayed finite.

        Slow: it waits for the device at every module. Raises what `page.open` raises for a bad page.
        """
        import torch

        tensors = self.tensors(page.open())
        with torch.inference_mode(), pinned(self.settings.sdpa_kernel), tracing(self.model):
            try:
                self.model.generate(**tensors, do_sample=False)
            except NotFinite as found:
                return found.trace
        return None

    def tensors(self, image: Image.Image) -> dict[str, Any]:
        """Return what `generate` takes for one image and the prompt in force, on the reader's device."""
        built = self.builder.build([image], self.settings.prompt)
        return {name: tensor.to(self.device) for name, tensor in built.tensors.items()}

    def size_of(self, page: Page) -> int:
        """Return a page's image tokens under the settings in force, from its header alone; 0 where that fails."""
        return page_tokens(page, self.builder.count)

    def _read_batch(self, batch: Prepared) -> list[Reading]:
        pages = batch.pages
        try:
            return self._generate(batch)
        except Exception as error:  # the boundary where any failure of a model becomes data
            if sticky(str(error)):
                raise  # this process can read nothing more: `pool` replaces it
            if self.device.startswith("cuda"):
                import torch

                torch.cuda.empty_cache()
            if len(pages) == 1:
                return [failed(pages[0].id, error)]
            status = status_of(error)[0]
        # Half the batch at a time: what does not fit at 16 may fit at 8, and one page at fault is found.
        middle = len(pages) // 2
        halves = [prepare(self.builder, self.settings.prompt, half) for half in (pages[:middle], pages[middle:])]
        note = f"{status} in a batch of {len(pages)}"
        again = [reading for half in halves for reading in self.read_prepared(half)]
        return [replace(r, retried=r.retried or f"{note}, read in one of {r.batch_pages}") for r in again]

    def _generate(self, batch: Prepared) -> list[Reading]:
        import torch

        inputs = batch.inputs
        assert inputs is not None
        if self.model.generation_config.do_sample:
            torch.manual_seed(self.settings.seed)  # some 0.2 ms, which a greedy reading need not pay
        started = time.perf_counter()
        with torch.inference_mode(), self._memory.measure() as memory:
            tensors = {name: tensor.to(self.device) for name, tensor in inputs.tensors.items()}
            if self.settings.cache_implementation in STATIC:
                self.model.generation_config.max_cache_len = self._cache_length(tensors["input_ids"].shape[1])
            meter = StepMeter(self.device)
            with meter.around(self.model.model.visual), pinned(self.settings.sdpa_kernel):
                output = self.model.generate(**tensors, logits_processor=[meter], **self.followers)
            new = output[:, tensors["input_ids"].shape[1] :].tolist()
        generate_s = time.perf_counter() - started
        pages = batch.pages
        finite = meter.finite(len(pages))
        costs = meter.phases(len(new[0])) | {
            "prepare_s": batch.prepare_s, "wait_s": batch.wait_s, "generate_s": generate_s,
            "page_s": (batch.wait_s + generate_s) / len(pages),
        }  # fmt: skip
        return [self._reading(page, new[i], inputs, i, costs, memory, finite[i]) for i, page in enumerate(pages)]

    def _cache_length(self, prompt_tokens: int) -> int:
        """Round up what a batch needs: a cache of another length makes torch compile the step again (7 s; LOG.md)."""
        needed = prompt_tokens + self.model.generation_config.max_new_tokens
        return -(-needed // CACHE_STEP) * CACHE_STEP

    def _reading(
        self, page: Page, ids: list[int], inputs: Inputs, index: int, costs: dict[str, Any], memory: Memory,
        finite: bool,
    ) -> Reading:  # fmt: skip
        ends = self.model.generation_config.eos_token_id
        ends = {ends} if isinstance(ends, int) else set(ends or ())
        length = next((i for i, token in enumerate(ids) if token in ends), None)
        stop_reason: StopReason = "length" if length is None else "eos"
        kept = ids[:length]  # a batch's padding may follow the end
        text = self.builder.tokenizer.decode(kept, skip_special_tokens=True).strip()
        if self.settings.min_new_tokens is not None and finite:
            status, reason = FORCED
        else:
            status, reason = judge(text, kept, stop_reason, finite)
        decode_s = costs["decode_s"]
        return Reading(
            page=page.id, text=text, status=status, reason=reason, stop_reason=stop_reason, tokens=len(kept),
            image_tokens=inputs.image_tokens[index], prompt_tokens=inputs.prompt_tokens[index],
            tokens_per_second=(len(kept) - 1) / decode_s if decode_s and len(kept) > 1 else None,
            peak_memory_bytes=memory.peak_memory_bytes, reserved_memory_bytes=memory.reserved_memory_bytes,
            batch_pages=len(inputs.image_tokens), token_ids=tuple(kept), **costs,
        )  # fmt: skip
