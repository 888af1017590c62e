"""Every setting as a flag of the same name, for the commands that read pages."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ocrlab import paths
from ocrlab.reading.address import is_endpoint
from ocrlab.reading.presets import load_preset
from ocrlab.reading.settings import SettingError, Settings, field_types, make_settings

_NONE = object()


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Give a command `--preset` and a flag for each setting; both `--max_pixels` and `--max-pixels` are known."""
    parser.add_argument(
        "--preset", "--settings", dest="preset", metavar="NAME|FILE",
        help="a preset of the package, a YAML file, or recommended: what the newest run on this machine recommends "
        "(default: tiny; for a server, none)",
    )  # fmt: skip
    settings = parser.add_argument_group("settings (they change the preset's)")
    for name, (kind, default) in field_types().items():
        flags = dict.fromkeys([f"--{name}", f"--{name.replace('_', '-')}"])
        settings.add_argument(*flags, dest=name, type=_value(kind), metavar=kind.__name__, help=f"default {default!r}")


def settings_of(args: argparse.Namespace) -> Settings:
    """Return the settings that the flags ask for; raise SettingError where they cannot be."""
    given = {name: value for name in field_types() if (value := getattr(args, name)) is not None}
    changes = {name: None if value is _NONE else value for name, value in given.items()}
    if args.preset is None and is_endpoint(str(changes.get("model_id"))):
        return make_settings(changes)  # dtype and the like, which a preset holds, are the server's own
    return load_preset(_recommended() if args.preset == "recommended" else args.preset or "tiny", **changes)


def _recommended() -> Path:
    """Return the newest recommendation that a run on this machine wrote."""
    from ocrlab.machine.describe import describe_machine
    from ocrlab.workspace.provenance import read_record
    from ocrlab.workspace.runs import known_runs

    for run in known_runs(paths.RESULTS):
        if (run / "recommended.yaml").is_file() and read_record(run).get("machine") == describe_machine():
            return run / "recommended.yaml"
    raise SettingError(
        "recommended: no run on this machine in results/ has a recommendation yet; `make reproduce` makes one"
    )


def refuse_held(settings: Settings, quarantined: bool) -> None:
    """Raise Refused for a setting that the canary holds, unless it was asked for all the same."""
    from ocrlab.reading.isolated import Refused
    from ocrlab.study.canary import held_in_quarantine

    if not quarantined and (reason := held_in_quarantine(settings)):
        raise Refused("unsupported", f"{reason}; use another setting, or --quarantined to read all the same")


def _value(kind: type) -> Any:
    def parse(text: str) -> Any:
        if text.lower() == "none":
            return _NONE
        if kind is bool:
            if text.lower() not in {"true", "false"}:
                raise argparse.ArgumentTypeError(f"{text!r}: give true, false or none")
            return text.lower() == "true"
        return kind(text)

    parse.__name__ = kind.__name__
    return parse
