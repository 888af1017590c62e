"""What one reading is asked to be: a frozen value with Hugging Face's names, checked when it is made."""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

import yaml

PREFIX = "endpoint:"


@dataclass(frozen=True)
class Address:
    """Where a server answers, and the name that it has for the model."""

    base_url: str
    model: str

    @property
    def loopback(self) -> bool:
        """Whether the server is on this computer."""
        host = urlsplit(self.base_url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"


def is_endpoint(model_id: str) -> bool:
    """Return whether a model_id names a server's model."""
    return model_id.startswith(PREFIX)


def parse_address(model_id: str) -> Address:
    """Return where a model_id's server answers and what the model is called there.

    Raises:
        SettingError: no such form; a user name or password is refused, for a model_id stands in every row.
    """
    url, _, model = model_id.removeprefix(PREFIX).partition("#")
    try:
        parts = urlsplit(url)
        good = parts.scheme in {"http", "https"} and parts.hostname and not parts.query and parts.port != 0
    except ValueError:
        good = False
    if "@" in url:
        raise SettingError(
            "model_id: the address holds a user name or password, which would stand in every row; leave it out: "
            "a key is taken from the environment variable OPENAI_API_KEY"
        )
    if not good:
        raise SettingError(
            f"model_id={model_id!r}: not an address of the form {PREFIX}http://127.0.0.1:8000/v1#model "
            f"(http or https, no query)"
        )
    if not model.strip():
        raise SettingError(f"model_id={model_id!r}: name the model after a #; {url.rstrip('/')}/models lists them")
    return Address(url.rstrip("/"), model)


Weights = Literal["pretrained", "dummy"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Quantization = Literal["int8", "nf4"]
Attention = Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3", "flash_attention_4", "flex_attention"]
SdpaKernel = Literal["math", "flash", "efficient", "cudnn"]
CacheImplementation = Literal["dynamic", "static", "offloaded", "offloaded_static", "quantized"]

DEFAULT_PROMPT = "Read the text in the image."
#: Settings that `generate` takes.
GENERATION = (
    *("max_new_tokens", "min_new_tokens", "do_sample", "temperature", "top_p", "top_k"),
    *("num_beams", "repetition_penalty", "no_repeat_ngram_size", "cache_implementation"),
)
#: Settings that decide the load of a model; the others can be changed on a loaded one.
LOAD_SETTINGS = (
    *("model_id", "revision", "trust_remote_code", "weights"),
    *("device", "dtype", "quantization", "attn_implementation"),
)
_CHOICES: dict[str, tuple[Any, ...]] = {
    "weights": get_args(Weights),
    "dtype": get_args(Dtype),
    "quantization": get_args(Quantization),
    "attn_implementation": get_args(Attention),
    "sdpa_kernel": get_args(SdpaKernel),
    "cache_implementation": get_args(CacheImplementation),
}


_LOWEST = {
    **dict.fromkeys(("min_pixels", "max_pixels", "max_new_tokens", "min_new_tokens", "num_beams", "batch_size"), 1),
    **dict.fromkeys(("top_k", "no_repeat_ngram_size", "seed"), 0),
}
_ABOVE_ZERO = ("temperature", "repetition_penalty", "top_p")


class SettingError(ValueError):
    """A setting that cannot be; the message says what can."""


class SettingNotApplied(RuntimeError):
    """A setting did not arrive in the model; the message names what was asked and what is in force."""


@dataclass(frozen=True)
class Settings:
    """How to read a page. `None` leaves a value to the checkpoint, and the row records what was in force.

    Pixel limits are in pixels of the resized image; token limits count new tokens; `seed` is set before every batch.

    Raises:
        SettingError: a value or a pair of values that cannot be; the message gives the remedy.
    """

    model_id: str = "tiny"
    revision: str | None = None
    trust_remote_code: bool = False
    weights: Weights = "pretrained"
    device: str = "auto"
    dtype: Dtype = "auto"
    quantization: Quantization | None = None
    attn_implementation: Attention = "sdpa"
    sdpa_kernel: SdpaKernel | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None
    prompt: str = DEFAULT_PROMPT
    system_prompt: str | None = None
    max_new_tokens: int = 1024
    min_new_tokens: int | None = None
    do_sample: bool | None = False
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    num_beams: int | None = 1
    repetition_penalty: float | None = 1.0
    no_repeat_ngram_size: int | None = 0
    cache_implementation: CacheImplementation | None = None
    compile: bool = False
    batch_size: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value, annotation = getattr(self, field.name), str(field.type)
            if value is not None or "None" not in annotation:
                _check_value(field.name, value, annotation)
        _check_together(self)

    def generate_kwargs(self) -> dict[str, Any]:
        """Return the generation settings that were asked for; what is None stays the checkpoint's."""
        return {name: value for name in GENERATION if (value := getattr(self, name)) is not None}

    def as_dict(self) -> dict[str, Any]:
        """Return every field by name."""
        return asdict(self)

    def changed(self) -> dict[str, Any]:
        """Return the fields that differ from the defaults, which is what names a setting in a figure."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) != f.default}

    def to_yaml(self) -> str:
        """Return the settings as a preset's text."""
        return yaml.safe_dump(self.changed(), sort_keys=False, allow_unicode=True)


def same_load(one: Settings, other: Settings) -> bool:
    """Return whether two settings can share a loaded model."""
    return all(getattr(one, name) == getattr(other, name) for name in LOAD_SETTINGS)


def refuse_another_load(loaded: Settings, asked: Settings) -> None:
    """Raise ValueError where settings need another load than the one that there is."""
    if not same_load(loaded, asked):
        raise ValueError(f"{', '.join(LOAD_SETTINGS)} are fixed by the load: open another reader to change them")


def make_settings(values: dict[str, Any], where: str = "settings") -> Settings:
    """Return Settings from a mapping.

    Raises:
        SettingError: an unknown name (with the nearest known one) or a bad value.
    """
    known = [field.name for field in fields(Settings)]
    for name in values:
        if name not in known:
            raise SettingError(f"{where}: {name!r} is not a setting{_nearest(name, known)}")
    return Settings(**values)


def _nearest(name: Any, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(str(name), known, 1)
    return f"; did you mean {near[0]!r}?" if near else ""


def field_types() -> dict[str, tuple[type, Any]]:
    """Return each setting's plain type and default, for a command line or a form."""
    return {f.name: (_plain_type(str(f.type)), None if f.default is MISSING else f.default) for f in fields(Settings)}


def _plain_type(annotation: str) -> type:
    return {"int": int, "float": float, "bool": bool}.get(annotation.split(" |")[0], str)


def _check_value(name: str, value: Any, annotation: str) -> None:
    wanted = _plain_type(annotation)
    whole = wanted is float and type(value) is int
    if not (whole or isinstance(value, wanted)) or (isinstance(value, bool) and wanted is not bool):
        raise SettingError(f"{name}={value!r} is a {type(value).__name__}; it takes {annotation}")
    choices = _CHOICES.get(name, (value,))
    if value not in choices:
        hint = _nearest(value, choices)
        raise SettingError(f"{name}={value!r} is not known: use one of {', '.join(choices)}{hint}")
    low = _LOWEST.get(name)
    if low is not None and value < low:
        raise SettingError(f"{name}={value} is too small: give {low} or more")
    if name in _ABOVE_ZERO and (value <= 0 or (name == "top_p" and value > 1)):
        raise SettingError(
            f"{name}={value} is out of range: give above 0" + (", at most 1.0" if name == "top_p" else "")
        )


def _check_together(s: Settings) -> None:
    if not s.model_id.strip() or not s.prompt.strip():
        raise SettingError("model_id and prompt must not be empty")
    if s.system_prompt is not None and not s.system_prompt.strip():
        raise SettingError("system_prompt must not be empty: leave it out for the chat template's own")
    if is_endpoint(s.model_id):
        parse_address(s.model_id)
    if s.device.split(":")[0] not in {"auto", "cpu", "cuda", "mps"}:
        raise SettingError(f"device={s.device!r} is not known: use auto, cpu, cuda, cuda:N or mps")
    if s.trust_remote_code and not re.fullmatch(r"[0-9a-f]{40}", s.revision or ""):
        raise SettingError(
            f"trust_remote_code=True with revision={s.revision!r}: code from a repository is run for one commit only; "
            f"read that commit's *.py files, then set revision to its full 40-digit hash"
        )
    if s.min_pixels is not None and s.max_pixels is not None and s.min_pixels > s.max_pixels:
        raise SettingError(f"min_pixels={s.min_pixels} is above max_pixels={s.max_pixels}: swap or raise max_pixels")
    if s.min_new_tokens is not None and s.min_new_tokens > s.max_new_tokens:
        raise SettingError(f"min_new_tokens={s.min_new_tokens} is above max_new_tokens={s.max_new_tokens}")
    sampling = [n for n in ("temperature", "top_p", "top_k") if getattr(s, n) is not None]
    if s.do_sample is False and sampling:
        raise SettingError(f"{', '.join(sampling)} only acts on sampling: set do_sample=True, or leave it out")
    if s.sdpa_kernel is not None and s.attn_implementation != "sdpa":
        raise SettingError(f"sdpa_kernel={s.sdpa_kernel!r} needs attn_implementation='sdpa'")
    if s.attn_implementation.startswith("flash_attention") and s.dtype == "float32":
        raise SettingError(f"{s.attn_implementation} computes in bfloat16 or float16 only: set dtype='bfloat16'")
    if s.quantization is not None and s.weights == "dummy":
        raise SettingError(f"quantization={s.quantization!r} needs a checkpoint's weights: give weights='pretrained'")
    if s.compile and s.cache_implementation not in {"static", "offloaded_static"}:
        raise SettingError("compile=True needs cache_implementation='static': others recompile at every token")


PRESETS = Path(__file__).resolve().parent.parent / "presets"


def load_preset(name: str | Path, **changes: Any) -> Settings:
    """Return the settings of a preset: a name that `preset_names` gives, or a path; `changes` are laid over it.

    Raises:
        SettingError: no such preset, or a field that is not a setting; the message names it.
    """
    if Path(name).suffix in {".yaml", ".yml"}:
        values = _read(Path(name))
    elif name in (known := _presets()):
        values = known[str(name)]
    else:
        raise SettingError(
            f"{name}: no such preset; give one of {', '.join(known)}, which the package has, or a path to a .yaml file"
        )
    return make_settings(values | changes, where=str(name))


def preset_names() -> list[str]:
    """Return the names of the package's presets, variants as `blackwell-12gb`."""
    return list(_presets())


def _presets() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for file in sorted(PRESETS.glob("*.yaml")):
        values = _read(file)
        variants = values.pop("variants", {})
        found |= {f"{file.stem}-{variant}": values | more for variant, more in variants.items()} or {file.stem: values}
    return found


@dataclass(frozen=True)
class Prompt:
    """A prompt of the package: what it is for, and what it sets."""

    purpose: str
    prompt: str
    system_prompt: str | None = None


@cache
def load_prompts() -> dict[str, Prompt]:
    """Return the package's prompts by name."""
    return {name: Prompt(**entry) for name, entry in _read(Path(__file__).with_name("prompts.yaml")).items()}


def with_prompt(settings: Settings, asked: str) -> Settings:
    """Return the settings with a prompt of `load_prompts` by name; words that are no name are the prompt themselves.

    Raises:
        SettingError: a single word in small letters that is no name.
    """
    known = load_prompts()
    if asked not in known and re.fullmatch(r"[a-z_-]+", asked):
        raise SettingError(f"prompt {asked!r}: give words, or one of {', '.join(known)}{_nearest(asked, list(known))}")
    found = known.get(asked, Prompt("", asked))
    return replace(settings, prompt=found.prompt, system_prompt=found.system_prompt)


def _read(file: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingError(f"{file}: not a YAML file ({error}); write one `name: value` per line") from error
    if not isinstance(values, dict):
        raise SettingError(f"{file}: a preset holds `name: value` lines, not a {type(values).__name__}")
    return values
