"""Every setting as a flag of the same name, for the commands that read pages."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from ocrlab import paths
from ocrlab.commands.parameters import Yaml
from ocrlab.reading.settings import SettingError, Settings, field_types, is_endpoint, load_preset, make_settings


def takes_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command a flag per setting; both `--max_pixels` and `--max-pixels` are known.

    The command gets the texts of those that were given as `given`.
    """
    settings = field_types()

    @functools.wraps(command)
    def with_flags(**options: Any) -> None:
        texts = {name: options.pop(name) for name in settings}
        command(**options, given={name: text for name, text in texts.items() if text is not None})

    own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "given"]
    signature = inspect.Signature(own + [_flag(name, *kind) for name, kind in settings.items()])
    with_flags.__signature__ = signature  # type: ignore[attr-defined]  # where typer reads the flags
    return with_flags


def _flag(name: str, kind: type, default: Any) -> inspect.Parameter:
    spellings = dict.fromkeys([f"--{name}", f"--{name.replace('_', '-')}"])
    option = typer.Option(*spellings, metavar=kind.__name__, help=f"setting; default {default!r}")
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, option]
    )


def settings_of(preset: str | None, given: dict[str, str]) -> Settings:
    """Return the settings that a preset and flags ask for; raise SettingError where they cannot be."""
    kinds = field_types()
    changes = {name: _value(text, kinds[name][0]) for name, text in given.items()}
    if preset is None and is_endpoint(str(changes.get("model_id"))):
        return make_settings(changes)  # dtype and the like, which a preset holds, are the server's own
    return load_preset(_recommended() if preset == "recommended" else preset or "tiny", **changes)


def _value(text: str, kind: type) -> Any:
    """Return the value of a flag's text; what is not of the setting's kind stays text, which Settings refuses."""
    if text.lower() == "none":
        return None
    try:
        return text if kind is str or not text.strip() else yaml.load(text, Loader=Yaml)  # a SafeLoader
    except yaml.YAMLError:
        return text


def _recommended() -> Path:
    """Return the newest recommendation that a run on this machine wrote."""
    from ocrlab.study.provenance import runs_here

    for run in runs_here(paths.RESULTS):
        if (run / "recommended.yaml").is_file():
            return run / "recommended.yaml"
    raise SettingError(
        "recommended: no run on this machine in results/ has a recommendation yet; `make reproduce` makes one"
    )


def refuse_held(settings: Settings, quarantined: bool) -> None:
    """Raise Refused for a setting that the canary holds, unless it was asked for all the same."""
    from ocrlab.reading.isolated import Refused
    from ocrlab.reading.page_reader import held_in_quarantine

    if not quarantined and (reason := held_in_quarantine(settings)):
        raise Refused("unsupported", f"{reason}; use another setting, or --quarantined to read all the same")
