"""The settings as a form: a preset fills it, what does not run here is marked, and it says which Settings it holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, get_args

import ipywidgets as w

from ocrlab import paths
from ocrlab.playground.html import note
from ocrlab.playground.widgets import labelled, side_by_side, wide
from ocrlab.reading import presets
from ocrlab.reading.presets import load_preset
from ocrlab.reading.settings import (
    Attention,
    CacheImplementation,
    Dtype,
    Quantization,
    SdpaKernel,
    SettingError,
    Settings,
    Weights,
    field_types,
)

MARKED = ("attn_implementation", "sdpa_kernel", "dtype", "quantization", "device")
"""Settings whose choices may not run on a machine."""
_MODELS = ("tiny", "Qwen/Qwen2-VL-2B-Instruct", "Qwen/Qwen2-VL-7B-Instruct")
_CHOICES: dict[str, tuple[Any, ...]] = {
    "weights": get_args(Weights), "dtype": get_args(Dtype), "attn_implementation": get_args(Attention),
    "quantization": (None, *get_args(Quantization)), "sdpa_kernel": (None, *get_args(SdpaKernel)),
    "device": ("auto", "cpu", "cuda", "mps"),
    "do_sample": (False, True, None), "cache_implementation": (None, *get_args(CacheImplementation)),
}  # fmt: skip
_NONE = {"sdpa_kernel": "torch chooses", "quantization": "none"}
"""What None means where it is not the checkpoint's own value."""
_NOTHING = ""  # a dropdown takes None for "nothing chosen"
_FIRST = (
    "model_id", "weights", "dtype", "quantization", "attn_implementation", "sdpa_kernel", "device", "max_pixels",
    "max_new_tokens",
)  # fmt: skip
_FOLDED = (
    "prompt", "min_pixels", "min_new_tokens", "do_sample", "temperature", "top_p", "top_k", "num_beams",
    "repetition_penalty", "no_repeat_ngram_size", "cache_implementation", "seed",
)  # fmt: skip


def offered_presets() -> list[str]:
    """Return the package's presets, then those that runs in `results/` wrote, as paths from there."""
    written = sorted(paths.RESULTS.glob("*/*.yaml"))
    return [*presets.preset_names(), *(str(p.relative_to(paths.RESULTS)) for p in written)]


def find_preset(name: str) -> Settings:
    """Return the settings of a preset by the name that the form shows, or by path; raises SettingError."""
    written = paths.RESULTS / name
    return load_preset(written if written.suffix == ".yaml" and written.is_file() else name)


class SettingsForm:
    """Widgets for the settings that a person varies; all others stay the preset's. `changed` is called at each change.

    Raises:
        SettingError: no such preset.
    """

    def __init__(self, preset: str, changed: Callable[[], None]) -> None:
        self._base, self._changed, self._quiet = find_preset(preset), changed, False
        self._devices = _CHOICES["device"]
        names = offered_presets()
        self.preset = w.Dropdown(options=names if preset in names else [*names, preset], value=preset, layout=wide())
        self.fields = {name: self._widget(name) for name in (*_FIRST, *_FOLDED)}
        self.said = w.HTML()
        folded = w.Accordion(
            [side_by_side([labelled(name, self.fields[name]) for name in _FOLDED], 150)],
            titles=("prompt and generation",), selected_index=None, layout=wide(),
        )  # fmt: skip
        first = side_by_side([labelled(name, self.fields[name]) for name in _FIRST], 150)
        self.box = w.VBox([labelled("preset", self.preset), first, folded, self.said], layout=wide())
        self.preset.add_class("ocr-preset")
        self._fill(self._base)
        self.preset.observe(self._take_preset, "value")
        for widget in self.fields.values():
            widget.observe(self._note_change, "value")

    def settings(self) -> Settings:
        """Return what the form holds.

        Raises:
            SettingError: a value that is no number where one is wanted, or settings that cannot be together.
        """
        return replace(self._base, **{name: self._value(name) for name in self.fields})

    def choices(self, name: str) -> tuple[Any, ...]:
        """Return what can be chosen for a setting of few values."""
        return self._devices if name == "device" else _CHOICES[name]

    def mark(self, reasons: Mapping[str, Mapping[Any, str]]) -> None:
        """Mark the choices that do not run here; the chosen one's reason, and all others on demand, stand below."""
        self._quiet = True
        for name in MARKED:
            field, bad = self.fields[name], reasons.get(name, {})
            options = self._options(name, {v for v, reason in bad.items() if reason})
            if field.options != tuple(options):
                kept = field.value
                field.options = options
                field.value = kept
        self._quiet = False

    def _options(self, name: str, bad: set[Any]) -> list[tuple[str, Any]]:
        return [
            (_label(name, value) + "  ✗ not here" * (value in bad), _NOTHING if value is None else value)
            for value in self.choices(name)
        ]

    def _widget(self, name: str) -> Any:
        if name in _CHOICES:
            widget: Any = w.Dropdown(options=self._options(name, set()), layout=wide())
        elif name == "model_id":
            widget = w.Combobox(options=_MODELS, continuous_update=False, layout=wide())
        elif name == "prompt":
            widget = w.Textarea(rows=2, continuous_update=False, layout=wide())
        else:
            widget = w.Text(placeholder="the checkpoint's", continuous_update=False, layout=wide())
        widget.add_class(f"ocr-{name}")
        return widget

    def _value(self, name: str) -> Any:
        value = self.fields[name].value
        kind = field_types()[name][0]
        if name in _CHOICES:
            return None if value == _NOTHING else value
        if name in {"model_id", "prompt"}:
            return value
        text = str(value).strip()
        if not text:
            return None
        try:
            return kind(text.replace(",", "").replace("_", "") if kind is int else text)
        except ValueError:
            raise SettingError(f"{name}={text!r} is not a number; give one, or leave it empty") from None

    def _fill(self, settings: Settings) -> None:
        self._quiet = True
        for name, widget in self.fields.items():
            value = getattr(settings, name)
            if name == "device" and value not in self.choices(name):
                self._devices = (*self._devices, value)
                widget.options = self._options(name, set())
            widget.value = _NOTHING if value is None else value if name in _CHOICES else str(value)
        self._quiet = False

    def _take_preset(self, _: Any) -> None:
        try:
            self._base = find_preset(self.preset.value)
        except SettingError as error:
            self.said.value = note(error, "bad")
            return
        self.said.value = ""
        self._fill(self._base)
        self._changed()

    def _note_change(self, _: Any) -> None:
        if not self._quiet:
            if self.fields["attn_implementation"].value != "sdpa" and self.fields["sdpa_kernel"].value != _NOTHING:
                self._quiet = True
                self.fields["sdpa_kernel"].value = _NOTHING  # only sdpa has kernels to choose from
                self._quiet = False
            self.fields["sdpa_kernel"].disabled = self.fields["attn_implementation"].value != "sdpa"
            self._changed()


def _label(name: str, value: Any) -> str:
    if name == "do_sample" and value is not None:
        return "sampling" if value else "greedy"
    return _NONE.get(name, "the checkpoint's") if value is None else str(value)
