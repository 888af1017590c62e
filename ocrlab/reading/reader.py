"""Open a reader wherever its model is; in this process: load a model, confirm its settings, and read pages."""

from __future__ import annotations

import copy
import time
from dataclasses import asdict, replace
from typing import Any

from PIL import Image

from ocrlab.machine.attention import pinned
from ocrlab.machine.describe import choose_device, choose_dtype
from ocrlab.machine.worker import sticky
from ocrlab.pages import Page
from ocrlab.reading import loading
from ocrlab.reading.checkpoints import locate
from ocrlab.reading.family import InputBuilder, Inputs
from ocrlab.reading.inputs import Prepared, open_for, prepare
from ocrlab.reading.limits import refuse_too_large
from ocrlab.reading.loading import Unsupported, load
from ocrlab.reading.meter import MemoryMeter, StepMeter
from ocrlab.reading.nonfinite import NotFinite, Trace, tracing
from ocrlab.reading.page_reader import PageReader
from ocrlab.reading.result import FIXED_LENGTH, Reading, failed, status_of
from ocrlab.reading.server_reader import ServerReader
from ocrlab.reading.settings import GENERATION, SettingNotApplied, Settings, is_endpoint, refuse_another_load
from ocrlab.scoring.outcomes import StopReason, judge

_INSIDE = "the model is on a server, and this looks inside a model in this process; give a model_id that is loaded here"
_SDPA_FLAGS = {"flash": "flash", "efficient": "mem_efficient", "math": "math", "cudnn": "cudnn"}
#: Static caches are made for a multiple of this many tokens.
CACHE_STEP = 256


class Reader(PageReader):
    """A model loaded in this process, with its settings in force.

    Raises:
        CheckpointError, Unsupported, SettingNotApplied: as `open_reader` does.
    """

    builder: InputBuilder

    def __init__(self, settings: Settings) -> None:
        started = time.perf_counter()
        self.settings = settings
        self.followers = {}  # a streamer and stopping criteria, while somebody looks on
        try:
            self.device = choose_device(settings.device).value
        except ValueError as error:
            raise Unsupported(str(error)) from error
        self.dtype = choose_dtype(settings.dtype, self.device).value
        loading.refuse_before_loading(settings, self.device, self.dtype)
        self.checkpoint = locate(settings)
        self.family = self.checkpoint.family
        self.model, self.builder = load(settings, self.checkpoint, self.device, self.dtype)
        self._own_generation = self.model.generation_config
        self.weight_bytes = loading.stored_bytes(self.model)
        self.apply(settings)
        self.load_s = time.perf_counter() - started
        self._warm_up()

    def apply(self, settings: Settings) -> None:
        """Put other settings in force on the loaded model: any but those that decide the load.

        Raises:
            ValueError: a setting that decides the load differs; open another reader.
            SettingNotApplied: a setting did not arrive.
            Unsupported: compiled batches that would give NaN on this card.
        """
        refuse_another_load(self.settings, settings)
        loading.refuse_compiled(settings, self.device)
        self.settings = settings
        self.model.generation_config = self._generation_config()
        self.builder.set_limits(settings.min_pixels, settings.max_pixels)
        self.builder.set_system_prompt(settings.system_prompt)
        vars(self.model).pop("_previous_max_cache_length", None)  # or a static cache stays as long as the longest ever
        self.actual = self._confirm()
        self._memory = MemoryMeter(self.device)

    def _generation_config(self) -> Any:
        """Return the checkpoint's generation config with the asked settings laid over it.

        When greedy, the checkpoint's sampling values are dropped: they would be ignored, and look as if in force.
        """
        config, settings = copy.deepcopy(self._own_generation), self.settings
        config.update(**settings.generate_kwargs())
        if self.family.stops:
            own = config.eos_token_id
            ends = self.builder.tokenizer.convert_tokens_to_ids(list(self.family.stops))
            config.eos_token_id = sorted({*ends, *([own] if isinstance(own, int) else own or ())})
        if config.pad_token_id is None:
            config.pad_token_id = self.builder.tokenizer.pad_token_id
        if not config.do_sample:
            config.temperature = config.top_p = config.top_k = None
        config.max_length = None
        config.compile_config, config.disable_compile = None, not settings.compile
        if settings.compile:
            from transformers.generation.configuration_utils import CompileConfig

            config.compile_config = CompileConfig()
            config.compile_config._compile_all_devices = True
        return config

    def _confirm(self) -> dict[str, Any]:
        """Return every setting in force as `actual_*`; SettingNotApplied where one is not what was asked."""
        settings = self.settings
        attention = settings.attn_implementation
        actual = self._in_force()
        low, high = self.family.nearest(self.builder.image_processor, settings.min_pixels, settings.max_pixels)
        wanted: dict[str, Any] = settings.as_dict() | {
            "device": "cuda:0" if self.device == "cuda" else self.device,
            "dtype": self.dtype,
            "quantization_left_out": settings.quantization
            and [self.family.vision] * (settings.quantization in loading.SPARES_VISION),
            "vision_attn_implementation": self.family.attention(attention),
            "min_pixels": low,
            "max_pixels": high,
            "sdpa_kernels": [settings.sdpa_kernel] if settings.sdpa_kernel else None,
        }
        for name, value in actual.items():
            asked = wanted[name]
            if asked is not None and value != asked:
                words = getattr(settings, name) if name.endswith("_pixels") else asked  # not what is nearest to it
                raise SettingNotApplied(
                    f"{name}: asked for {words!r}, but {value!r} is in force; "
                    f"nothing was read. Ask for a value that {settings.model_id} can take"
                )
        actual |= {"revision": self.checkpoint.revision, "weights": settings.weights}
        if (prompt := self.builder.prompt(settings.prompt)) != settings.prompt:
            actual["prompt"] = prompt
        if budget := self.family.budget(self.builder.image_processor):
            actual["budget"] = budget
        return {f"actual_{name}": value for name, value in actual.items()}

    def _in_force(self) -> dict[str, Any]:
        """Return the settings as the model, its configs, the image processor and torch have them."""
        model, generation = self.model, self.model.generation_config
        low, high = self.builder.limits()
        return {
            "dtype": _joined(p.dtype for p in model.parameters() if p.is_floating_point()),
            "device": _joined(p.device for p in model.parameters()),
            "quantization": loading.quantization_of(model),
            "quantization_left_out": loading.left_out(model, self.family),
            "attn_implementation": model.get_submodule(self.family.language).config._attn_implementation,
            "vision_attn_implementation": model.get_submodule(self.family.vision).config._attn_implementation,
            "min_pixels": low,
            "max_pixels": high,
            **{name: getattr(generation, name, None) for name in GENERATION},
            "compile": generation.compile_config is not None and not generation.disable_compile,
            "sdpa_kernels": self._kernels(),
        }

    def _kernels(self) -> list[str]:
        """Return the SDPA kernels that torch may choose from inside the reading's own context."""
        if self.settings.attn_implementation != "sdpa":
            return []
        import torch

        with pinned(self.settings.sdpa_kernel):
            enabled = {name: getattr(torch.backends.cuda, f"{flag}_sdp_enabled") for name, flag in _SDPA_FLAGS.items()}
            return [name for name, asked in enabled.items() if asked()]

    def _warm_up(self) -> None:
        """Read two tokens of a blank image, so that no page pays for what libraries set up once and keep."""
        import torch
        from transformers import GenerationConfig

        own = self.model.generation_config
        ends = {"eos_token_id": own.eos_token_id, "pad_token_id": own.pad_token_id}
        two = GenerationConfig(min_new_tokens=0, max_new_tokens=2, do_sample=False, **ends)
        tensors = self.tensors(Image.new("RGB", (64, 64), "white"))
        with torch.inference_mode(), pinned(self.settings.sdpa_kernel):
            self.model.generate(**tensors, generation_config=two)
        self._memory = MemoryMeter(self.device)

    def close(self) -> None:
        """Free the model and, on CUDA, the memory it held."""
        del self.model
        self._empty_cache()

    def _empty_cache(self) -> None:
        if self.device.startswith("cuda"):
            import torch

            torch.cuda.empty_cache()

    def tensors(self, image: Image.Image) -> dict[str, Any]:
        """Return what `generate` takes for one image and the prompt in force, on the reader's device."""
        built = self.builder.build([image], self.settings.prompt)
        return {name: tensor.to(self.device) for name, tensor in built.tensors.items()}

    def generate(self, page: Page, **options: Any) -> list[int]:
        """Return the tokens that the model writes for a page; `options` go to its `generate`, over the settings.

        Raises what `page.open` raises for a bad page.
        """
        import torch

        tensors = self.tensors(open_for(self.builder, page))
        with torch.inference_mode(), pinned(self.settings.sdpa_kernel):
            output = self.model.generate(**tensors, **options)
        return [int(token) for token in output[0, tensors["input_ids"].shape[1] :]]

    def trace_nonfinite(self, page: Page) -> Trace | None:
        """Read a page greedily and return where the first NaN or infinity arose, or None where all stayed finite.

        Slow: it waits for the device at every module. Raises what `page.open` raises for a bad page.
        """
        with tracing(self.model):
            try:
                self.generate(page, do_sample=False)
            except NotFinite as found:
                return found.trace
        return None

    def read_prepared(self, batch: Prepared) -> list[Reading]:
        """Return the readings of a batch that `prepare` made ready for the settings in force."""
        return [*batch.failures, *(self._read_batch(batch, batch.inputs) if batch.inputs else ())]

    def _read_batch(self, batch: Prepared, inputs: Inputs) -> list[Reading]:
        pages = batch.pages
        try:
            return self._generate(batch, inputs)
        except Exception as error:  # the boundary where any failure of a model becomes data
            if sticky(str(error)):
                raise  # this process can read nothing more and must be replaced
            self._empty_cache()
            if len(pages) == 1:
                return [failed(pages[0].id, error)]
            status = status_of(error)[0]
        # Half the batch at a time: what does not fit at 16 may fit at 8, and one page at fault is found.
        middle = len(pages) // 2
        halves = [prepare(self.builder, self.settings.prompt, half) for half in (pages[:middle], pages[middle:])]
        note = f"{status} in a batch of {len(pages)}"
        again = [reading for half in halves for reading in self.read_prepared(half)]
        return [replace(r, retried=r.retried or f"{note}, read in one of {r.batch_pages}") for r in again]

    def _generate(self, batch: Prepared, inputs: Inputs) -> list[Reading]:
        import torch

        if self.model.generation_config.do_sample:
            torch.manual_seed(self.settings.seed)  # some 0.2 ms, which a greedy reading need not pay
        batch_settings = replace(self.settings, batch_size=len(batch.pages))
        refuse_too_large(batch_settings, max(inputs.image_tokens), self.device, self.dtype, self.checkpoint)
        started = time.perf_counter()
        with torch.inference_mode(), self._memory.measure() as memory:
            tensors = {name: tensor.to(self.device) for name, tensor in inputs.tensors.items()}
            tensors |= self.family.positions(self.model, tensors)
            length = tensors["input_ids"].shape[1]
            if self.settings.cache_implementation in {"static", "offloaded_static"}:
                # Rounded up: a cache of another length makes torch compile the step again (7 s; LOG.md).
                needed = length + self.model.generation_config.max_new_tokens
                self.model.generation_config.max_cache_len = -(-needed // CACHE_STEP) * CACHE_STEP
            meter = StepMeter(self.device)
            with meter.around(self.model.get_submodule(self.family.vision)), pinned(self.settings.sdpa_kernel):
                output = self.model.generate(**tensors, logits_processor=[meter], **self.followers)
            new = output[:, length:].tolist()
        costs = meter.phases(len(new[0])) | batch.costs(time.perf_counter() - started) | asdict(memory)
        pages = batch.pages
        own = zip(inputs.image_tokens, inputs.prompt_tokens, batch.blank, strict=True)
        return [
            self._reading(
                page.id, ids, finite, costs | {"image_tokens": image, "prompt_tokens": prompt, "blank": blank}
            )
            for page, ids, finite, (image, prompt, blank) in zip(pages, new, meter.finite(len(pages)), own, strict=True)
        ]

    def _reading(self, page: str, ids: list[int], finite: bool, measured: dict[str, Any]) -> Reading:
        ends = self.model.generation_config.eos_token_id
        ends = {ends} if isinstance(ends, int) else set(ends or ())
        length = next((i for i, token in enumerate(ids) if token in ends), None)
        stop_reason: StopReason = "length" if length is None else "eos"
        kept = ids[:length]  # a batch's padding may follow the end
        bare = not self.family.keeps_special_tokens
        text = self.family.clean(self.builder.tokenizer.decode(kept, skip_special_tokens=bare))
        speed_row = self.settings.min_new_tokens is not None and finite
        status, reason = FIXED_LENGTH if speed_row else judge(text, kept, stop_reason, finite)
        decode_s, tokens = measured["decode_s"], len(kept)
        measured["tokens_per_second"] = (tokens - 1) / decode_s if decode_s and tokens > 1 else None
        return Reading(page, text, status, reason, stop_reason, tokens, token_ids=tuple(kept), **measured)


def open_reader(settings: Settings) -> PageReader:
    """Return a loaded reader whose settings are confirmed; use it as a context manager to free the model.

    Raises:
        CheckpointError: the model cannot be had or must not be loaded.
        Unsupported: the device, dtype or attention cannot run here.
        SettingNotApplied: a setting did not arrive.
        EndpointError: the server that the model_id names does not answer.
    """
    return ServerReader(settings) if is_endpoint(settings.model_id) else Reader(settings)


def try_reader(settings: Settings, *, inside: bool = False) -> tuple[PageReader | None, str]:
    """Return what `open_reader` gives, or None and why there is none; with `inside`, none for a model on a server."""
    try:
        if inside and is_endpoint(settings.model_id):
            raise Unsupported(_INSIDE)
        return open_reader(settings), ""
    except RuntimeError as error:  # those of open_reader, and a device that is out of memory
        return None, status_of(error)[1]


def in_this_process(reader: PageReader) -> Reader:
    """Return the reader, whose model can be looked into.

    Raises:
        Unsupported: its model is on a server.
    """
    if isinstance(reader, Reader):
        return reader
    raise Unsupported(_INSIDE)


def _joined(values: Any) -> str:
    return "+".join(sorted({str(value).removeprefix("torch.") for value in values}))
