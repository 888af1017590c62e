"""Settings as something to take along: a preset's YAML, or the cell of a notebook."""

from __future__ import annotations

from ocrlab.reading.settings import Settings


def preset_text(settings: Settings) -> str:
    """Return the text of a preset file that `load_preset` turns into the same settings."""
    return f"# Saved from the playground; read with it: python -m ocrlab read PATH --preset FILE\n{settings.to_yaml()}"


def cell_source(settings: Settings) -> str:
    """Return the source of a notebook cell that makes the same settings."""
    fields = "".join(f"    {name}={value!r},\n" for name, value in settings.changed().items())
    return f"from ocrlab import Settings\n\nsettings = Settings({f'{chr(10)}{fields}' if fields else ''})\n"
