"""What runs on this machine and how fast it is: probed in spare moments, kept for the versions that it holds for."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ocrlab import paths
from ocrlab.machine.cards import Machine, UnknownCard, card, measured_machine
from ocrlab.machine.describe import choose_device, choose_dtype, describe_machine
from ocrlab.machine.probes import Case, Probe, run_probes
from ocrlab.reading.address import is_endpoint
from ocrlab.reading.dialects import refusal
from ocrlab.reading.quantization import missing_library
from ocrlab.reading.settings import SettingError, Settings
from ocrlab.study.canary import held_in_quarantine

CACHE = paths.BUILD / "playground-machine.json"
CASES: tuple[Case, ...] = ("vision", "decode")
"""The shapes that kernels are tried with: those of a page's two longest phases."""
_REFUSED_FOR = ("model_id", "attn_implementation", "sdpa_kernel", "dtype", "quantization", "device")


@dataclass
class Here:
    """What is known of this machine and stack; `probed` says that every kernel was tried.

    `against` has a reason for each (attention, kernel, dtype, device) that a probe ruled out, `learned` one for each
    model and way that a reading ruled out, `machines` what bounds a reading by device and dtype.
    """

    stack: str = ""
    against: dict[tuple[str, str | None, str, str], str] = field(default_factory=dict)
    learned: dict[tuple[Any, ...], str] = field(default_factory=dict)
    machines: dict[tuple[str, str], Machine] = field(default_factory=dict)
    probed: bool = False

    def learn(self, settings: Settings, reason: str) -> None:
        """Remember what a reading showed: that this model does not run in this way here."""
        self.learned[tuple(getattr(settings, name) for name in _REFUSED_FOR)] = reason

    def reason(self, settings: Settings) -> str:
        """Return why settings cannot run here, as far as is known before a model is loaded; empty for no reason."""
        told = self.learned.get(tuple(getattr(settings, name) for name in _REFUSED_FOR))
        if is_endpoint(settings.model_id):
            return told or refusal(settings)
        try:
            device = choose_device(settings.device).value
        except ValueError as error:
            return str(error)
        dtype = choose_dtype(settings.dtype, device).value
        if missing := missing_library(settings):
            return missing
        if (held := held_in_quarantine(settings)) is not None:
            return held
        way = (settings.attn_implementation, settings.sdpa_kernel, dtype, device.split(":")[0])
        return told or self.against.get(way, "")

    def reasons(self, settings: Settings, name: str, choices: tuple[Any, ...]) -> dict[Any, str]:
        """Return for each choice of one setting why it cannot run beside the others; empty for those that may."""
        if is_endpoint(settings.model_id):  # a server refuses a setting whatever the others are
            settings = Settings(model_id=settings.model_id)
        found = {}
        for value in choices:
            change = {name: value} | ({"sdpa_kernel": None} if name == "attn_implementation" else {})
            try:
                found[value] = self.reason(replace(settings, **change))
            except SettingError as error:
                found[value] = str(error)
        return found

    def machine(self, settings: Settings) -> Machine | None:
        """Return what bounds a reading here: the card by its datasheet, else as measured before; None for not yet."""
        device, dtype = resolved(settings)
        if device.startswith("cuda"):
            try:
                return card(str(describe_machine()["gpu"]))
            except UnknownCard:
                pass
        return self.machines.get((device, dtype))

    def try_kernels(
        self, probes: Sequence[Probe], wait: Callable[[], None], told: Callable[[str], None]
    ) -> None:  # fmt: skip
        """Launch kernels in a process that may die and remember which fail; `wait` comes before each, `told` after."""
        wait()
        with closing(run_probes(probes)) as results:  # type: ignore[type-var]  # a generator
            for count, result in enumerate(results, 1):
                if result.verdict != "works":
                    probe = result.probe
                    way = (probe.attention, probe.kernel, probe.dtype, probe.device)
                    self.against.setdefault(way, f"{result.verdict}: {result.reason}")
                told(f"trying which kernels run here, in spare moments: {count} of {len(probes)}")
                wait()
        self.probed = True

    def save(self, file: Path) -> None:
        """Keep it for the next sitting; where the disk refuses, that one finds it out again."""
        kept = {
            "stack": self.stack, "probed": self.probed,
            "against": [[list(way), reason] for way, reason in self.against.items()],
            "machines": [[*way, asdict(machine)] for way, machine in self.machines.items()],
        }  # fmt: skip
        part = file.with_suffix(".part")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps(kept), encoding="utf-8")
            part.replace(file)
        except OSError:
            return


def remembered(file: Path, stack: str) -> Here:
    """Return what an earlier sitting on the same stack kept; nothing where there is no such file."""
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept["stack"] != stack:
            return Here(stack)
        against = {(a, kernel, dtype, device): reason for (a, kernel, dtype, device), reason in kept["against"]}
        machines = {(device, dtype): Machine(**m) for device, dtype, m in kept["machines"]}
        return Here(stack, against, {}, machines, bool(kept["probed"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Here(stack)


def measured_here(settings: Settings) -> tuple[tuple[str, str], Machine] | None:
    """Return device, dtype and what bounds a reading there, measured now; None where it cannot be measured."""
    device, dtype = resolved(settings)
    try:
        return (device, dtype), measured_machine(dtype, device)
    except (ValueError, RuntimeError):
        return None


def resolved(settings: Settings) -> tuple[str, str]:
    """Return the device and dtype that the settings come to here; `cpu` where theirs is not here."""
    try:
        device = choose_device(settings.device).value
    except ValueError:
        device = "cpu"
    return device, choose_dtype(settings.dtype, device).value
