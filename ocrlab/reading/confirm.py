"""Ask, apply, confirm: read every setting back from the loaded model, and refuse a difference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ocrlab.machine.attention import pinned
from ocrlab.reading.quantization import quantization_of
from ocrlab.reading.settings import GENERATION, Settings

if TYPE_CHECKING:
    from ocrlab.reading.inputs import InputBuilder

SDPA_KERNELS = {"flash": "flash_sdp_enabled", "efficient": "mem_efficient_sdp_enabled", "math": "math_sdp_enabled",
                "cudnn": "cudnn_sdp_enabled"}  # fmt: skip


class SettingNotApplied(RuntimeError):
    """A setting did not arrive in the model; the message names what was asked and what is in force."""


def generation_config(own: Any, settings: Settings) -> Any:
    """Return the checkpoint's generation config with the asked settings laid over it.

    When greedy, the checkpoint's sampling values are dropped: they would be ignored, and look as if in force.
    """
    import copy

    config = copy.deepcopy(own)
    config.update(**settings.generate_kwargs())
    if not config.do_sample:
        config.temperature = config.top_p = config.top_k = None
    config.max_length = None
    config.compile_config, config.disable_compile = None, not settings.compile
    if settings.compile:
        from transformers.generation.configuration_utils import CompileConfig

        config.compile_config = CompileConfig()
        config.compile_config._compile_all_devices = True
    return config


def confirm(settings: Settings, model: Any, builder: InputBuilder, device: str, dtype: str) -> dict[str, Any]:
    """Return every setting in force as `actual_*`, read from the model, its configs and the image processor.

    Raises:
        SettingNotApplied: one differs from what was asked.
    """
    actual = _model_state(model) | _pixel_state(builder) | _generation_state(model) | _kernel_state(settings)
    wanted: dict[str, Any] = {
        "device": "cuda:0" if device == "cuda" else device, "dtype": dtype, "quantization": settings.quantization,
        "attn_implementation": settings.attn_implementation, "vision_attn_implementation": settings.attn_implementation,
        "min_pixels": settings.min_pixels, "max_pixels": settings.max_pixels, "compile": settings.compile,
        **{name: getattr(settings, name) for name in GENERATION},
    }  # fmt: skip
    if settings.sdpa_kernel:
        wanted["sdpa_kernels"] = [settings.sdpa_kernel]
    for name, value in wanted.items():
        if value is not None and actual[f"actual_{name}"] != value:
            raise SettingNotApplied(
                f"{name}: asked for {value!r}, but {actual[f'actual_{name}']!r} is in force; "
                f"nothing was read. Ask for a value that {settings.model_id} can take"
            )
    return actual


def _model_state(model: Any) -> dict[str, Any]:
    dtypes = {str(p.dtype).removeprefix("torch.") for p in model.parameters() if p.is_floating_point()}
    devices = {str(p.device) for p in model.parameters()}
    return {
        "actual_dtype": "+".join(sorted(dtypes)),
        "actual_device": "+".join(sorted(devices)),
        "actual_quantization": quantization_of(model),
        "actual_attn_implementation": model.model.language_model.config._attn_implementation,
        "actual_vision_attn_implementation": model.model.visual.config._attn_implementation,
    }


def _pixel_state(builder: InputBuilder) -> dict[str, Any]:
    low, high = builder.limits()
    return {"actual_min_pixels": low, "actual_max_pixels": high}


def _generation_state(model: Any) -> dict[str, Any]:
    config = model.generation_config
    state = {f"actual_{name}": getattr(config, name, None) for name in GENERATION}
    return state | {"actual_compile": config.compile_config is not None and not config.disable_compile}


def _kernel_state(settings: Settings) -> dict[str, Any]:
    """Which SDPA kernels torch may choose from inside the reading's own context."""
    if settings.attn_implementation != "sdpa":
        return {"actual_sdpa_kernels": []}
    import torch

    with pinned(settings.sdpa_kernel):
        enabled = [name for name, flag in SDPA_KERNELS.items() if getattr(torch.backends.cuda, flag)()]
    return {"actual_sdpa_kernels": enabled}
