"""Settings kept as YAML: the package's own by name, a person's by path; a file may hold variants by size of card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ocrlab.reading.settings import SettingError, Settings, make_settings

PRESETS = Path(__file__).resolve().parent.parent / "presets"


def load_preset(name: str | Path, **changes: Any) -> Settings:
    """Return the settings of a preset: a name that `preset_names` gives, or a path; `changes` are laid over it.

    Raises:
        SettingError: no such preset, or a field that is not a setting; the message names the file.
    """
    file, variant = _find(name)
    values = _read(file)
    variants = values.pop("variants", {})
    if variants:
        if variant not in variants:
            names = ", ".join(f"{file.stem}-{v}" for v in variants)
            raise SettingError(f"{file}: this preset is for cards of several sizes; give one of {names}")
        values |= variants[variant]
    return make_settings(values | changes, where=str(file))


def preset_names() -> list[str]:
    """Return the names of the package's presets, variants as `blackwell-12gb`."""
    names = []
    for file in sorted(PRESETS.glob("*.yaml")):
        variants = _read(file).get("variants", {})
        names += [f"{file.stem}-{variant}" for variant in variants] or [file.stem]
    return names


def _find(name: str | Path) -> tuple[Path, str]:
    """Return a preset's file and the variant that its name asks for, or an empty text."""
    if Path(name).suffix in {".yaml", ".yml"}:
        file, variant = Path(name), ""
    else:
        file, variant = PRESETS / f"{name}.yaml", ""
        stem, _, last = str(name).rpartition("-")
        if not file.is_file() and stem and (PRESETS / f"{stem}.yaml").is_file():
            file, variant = PRESETS / f"{stem}.yaml", last
    if not file.is_file():
        known = ", ".join(preset_names())
        raise SettingError(f"{file}: no such preset; the package has {known}, or give a path to a .yaml file")
    return file, variant


def _read(file: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingError(f"{file}: not a YAML file ({error}); write one `name: value` a line") from error
    if not isinstance(values, dict):
        raise SettingError(f"{file}: a preset holds `name: value` lines, not a {type(values).__name__}")
    return values
