"""The settings as a form: a preset fills it, what does not run here is marked, and it says which Settings it holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, get_args

import ipywidgets as w

from ocrlab import paths
from ocrlab.playground.html import block, note
from ocrlab.reading import settings
from ocrlab.reading.settings import GENERATION, SettingError, Settings, field_types, load_preset, preset_names

#: Settings whose choices may not run on a machine.
MARKED = ("dtype", "quantization", "attn_implementation", "sdpa_kernel", "device")
_MODELS = ("tiny", "Qwen/Qwen2-VL-2B-Instruct", "Qwen/Qwen2-VL-7B-Instruct")
_CHOICES: dict[str, tuple[Any, ...]] = {
    "weights": get_args(settings.Weights),
    "dtype": get_args(settings.Dtype),
    "attn_implementation": get_args(settings.Attention),
    "quantization": (None, *get_args(settings.Quantization)),
    "sdpa_kernel": (None, *get_args(settings.SdpaKernel)),
    "device": ("auto", "cpu", "cuda", "mps"),
    "do_sample": (False, True, None),
    "cache_implementation": (None, *get_args(settings.CacheImplementation)),
}
_LABELS = {
    ("sdpa_kernel", None): "torch chooses",
    ("quantization", None): "none",
    ("do_sample", True): "sampling",
    ("do_sample", False): "greedy",
}
_NOTHING = ""  # a dropdown takes None for "nothing chosen"
_OPEN = ("model_id", "weights", *MARKED, "max_pixels", "max_new_tokens")
_FOLDED = ("prompt", "system_prompt", "min_pixels", *(name for name in GENERATION if name not in _OPEN), "seed")


def wide(**more: Any) -> w.Layout:
    """Return a layout that fills its place and never pushes it wider."""
    return w.Layout(**{"width": "auto", "min_width": "0", "margin": "0"} | more)


def labelled(name: str, widget: w.DOMWidget) -> w.VBox:
    """Return a widget under its name."""
    return w.VBox([w.HTML(block(name, "ocr-label"), layout=wide()), widget], layout=wide(overflow="hidden"))


def side_by_side(children: Iterable[Any], least_px: int, gap: str = "10px") -> w.GridBox:
    """Return a grid with as many columns as fit at that width, and one on a phone."""
    columns = f"repeat(auto-fit, minmax(min(100%, {least_px}px), 1fr))"
    layout = wide(grid_template_columns=columns, grid_gap=gap, align_items="flex-start")
    return w.GridBox(list(children), layout=layout)


def folded(title: str, widget: w.DOMWidget) -> w.Accordion:
    """Return a widget that opens with a click on its title."""
    return w.Accordion([widget], titles=(title,), selected_index=None, layout=wide())


def card(title: str, *children: w.Widget) -> w.VBox:
    """Return widgets below each other under a title, in a frame."""
    return w.VBox([w.HTML(f"<h2>{title}</h2>"), *children], layout=wide()).add_class("ocr-card")


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
        written = (str(file.relative_to(paths.RESULTS)) for file in sorted(paths.RESULTS.glob("*/*.yaml")))
        names = list(dict.fromkeys([*preset_names(), *written, preset]))
        self.preset = w.Dropdown(options=names, value=preset, layout=wide()).add_class("ocr-preset")
        self.fields = {name: self._widget(name) for name in (*_OPEN, *_FOLDED)}
        self.problem = w.HTML()
        first, more = (side_by_side([labelled(n, self.fields[n]) for n in part], 150) for part in (_OPEN, _FOLDED))
        parts = [labelled("preset", self.preset), first, folded("prompt and generation", more), self.problem]
        self.box = w.VBox(parts, layout=wide())
        self._fill(self._base)
        self.preset.observe(self._take_preset, "value")
        for widget in self.fields.values():
            widget.observe(self._take_change, "value")

    def settings(self) -> Settings:
        """Return what the form holds.

        Raises:
            SettingError: a value that is no number where one is wanted, or settings that cannot be together.
        """
        return replace(self._base, **{name: self._value(name) for name in self.fields})

    def choices(self, name: str) -> tuple[Any, ...]:
        """Return what can be chosen for a setting of few values: the usual ones, and the preset's own (`cuda:1`)."""
        return tuple(dict.fromkeys([*_CHOICES[name], getattr(self._base, name)]))

    def mark(self, reasons: Mapping[str, Mapping[Any, str]]) -> None:
        """Mark the choices that do not run here; each stays open to choose, and `reasons` are shown elsewhere."""
        self._quiet = True
        for name in MARKED:
            field, bad = self.fields[name], reasons.get(name, {})
            options = self._options(name, {value for value, reason in bad.items() if reason})
            if field.options != tuple(options):
                kept = field.value
                field.options = options
                field.value = kept
        self._quiet = False

    def _options(self, name: str, bad: Iterable[Any] = ()) -> list[tuple[str, Any]]:
        options = []
        for value in self.choices(name):
            label = _LABELS.get((name, value), "the checkpoint's" if value is None else str(value))
            options.append((label + "  ✗ not here" * (value in bad), _NOTHING if value is None else value))
        return options

    def _widget(self, name: str) -> Any:
        if name in _CHOICES:
            widget: Any = w.Dropdown(options=self._options(name), layout=wide())
        elif name == "model_id":
            widget = w.Combobox(options=_MODELS, continuous_update=False, layout=wide())
        elif name == "prompt":
            widget = w.Textarea(rows=2, continuous_update=False, layout=wide())
        else:
            widget = w.Text(placeholder="the checkpoint's", continuous_update=False, layout=wide())
        return widget.add_class(f"ocr-{name}")

    def _value(self, name: str) -> Any:
        value = self.fields[name].value
        if name in _CHOICES:
            return None if value == _NOTHING else value
        if name in {"model_id", "prompt"}:
            return value
        text, kind = str(value).strip(), field_types()[name][0]
        try:
            return kind(text.replace(",", "").replace("_", "") if kind is int else text) if text else None
        except ValueError:
            raise SettingError(f"{name}={text!r} is not a number; give one, or leave it empty") from None

    def _fill(self, settings: Settings) -> None:
        self._quiet = True
        for name, widget in self.fields.items():
            value = getattr(settings, name)
            if name in _CHOICES:
                widget.options = self._options(name)
            widget.value = _NOTHING if value is None else value if name in _CHOICES else str(value)
        self._quiet = False

    def _take_preset(self, _: Any) -> None:
        try:
            self._base = find_preset(self.preset.value)
        except SettingError as error:
            self.problem.value = note(error, "bad")
            return
        self.problem.value = ""
        self._fill(self._base)
        self._changed()

    def _take_change(self, _: Any) -> None:
        if not self._quiet:
            kernel, other = self.fields["sdpa_kernel"], self.fields["attn_implementation"].value != "sdpa"
            kernel.disabled, self._quiet = other, True
            kernel.value = _NOTHING if other else kernel.value  # only sdpa has kernels to choose from
            self._quiet = False
            self._changed()
