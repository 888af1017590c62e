"""What cannot run on this machine and why, and what a reading will take: by static rules and 01-machine's findings."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from ocrlab.machine.describe import choose_device, choose_dtype, describe_machine, machine_name, versions
from ocrlab.machine.hardware import Machine, card_here
from ocrlab.machine.worker import Worker
from ocrlab.playground.html import chips, duration, note, size
from ocrlab.reading.checkpoints import CheckpointError
from ocrlab.reading.limits import predict
from ocrlab.reading.loading import Unsupported, refuse_before_loading, token_counter
from ocrlab.reading.page_reader import held_in_quarantine
from ocrlab.reading.server_reader import refusal
from ocrlab.reading.settings import LOAD_SETTINGS, SettingError, Settings, is_endpoint
from ocrlab.study.provenance import runs_here
from ocrlab.study.records import read_records, record_files

#: The probes of 01-machine that a page read alone depends on.
CASES = ("vision", "decode")
_REFUSED_FOR = ("model_id", "attn_implementation", "sdpa_kernel", "dtype", "quantization", "device")


@dataclass
class Capabilities:
    """What is known of this machine and its stack, which `stack` names in words.

    `source` is the run whose 01-machine found `failed` (reasons by attention, kernel, dtype and device) and `bounds`
    (what limits a reading, by device and dtype); it is empty where none did. `refused` is what readings showed since.
    """

    stack: str = ""
    source: str = ""
    failed: dict[tuple[str, str | None, str, str], str] = field(default_factory=dict)
    bounds: dict[tuple[str, str], Machine] = field(default_factory=dict)
    refused: dict[tuple[Any, ...], str] = field(default_factory=dict)

    def refuse(self, settings: Settings, reason: str) -> None:
        """Remember that a reading showed these settings to be unsupported, and why."""
        self.refused[_key(settings)] = reason

    def reason(self, settings: Settings) -> str:
        """Return why settings cannot run here, as far as is known before a model is loaded; empty for no reason."""
        if is_endpoint(settings.model_id):
            return self.refused.get(_key(settings)) or refusal(settings)
        try:
            device, dtype = resolve(settings)
            refuse_before_loading(settings, device, dtype)
        except (ValueError, Unsupported) as error:
            return str(error)
        kind = device.split(":")[0]
        if settings.sdpa_kernel in {"efficient", "cudnn"} and kind != "cuda":
            return f"SDPA's {settings.sdpa_kernel} kernel needs CUDA, and the device is {kind}; let torch choose"
        computation = (settings.attn_implementation, settings.sdpa_kernel, dtype, kind)
        known = held_in_quarantine(settings) or self.refused.get(_key(settings))
        return known or self.failed.get(computation, "")

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

    def machine(self, device: str, dtype: str) -> Machine | None:
        """Return what bounds a reading: the card by its datasheet, else as 01-machine measured it; None if unknown."""
        if device.startswith("cuda") and (listed := card_here()):
            return listed
        return self.bounds.get((device.split(":")[0], dtype))


def find_capabilities(results: Path, *own: Path) -> Capabilities:
    """Return what the newest 01-machine of this machine found with this torch and transformers.

    Searched are the runs in `results` that were made here, and the folders `own`, which no other machine writes.

    Raises:
        RecordError: a file of findings is damaged; the message names it.
    """
    stack = {"machine": machine_name()} | {name: versions().get(name) for name in ("torch", "transformers")}
    known = Capabilities(f"{stack['machine']} · torch {stack['torch']} · transformers {stack['transformers']}")
    files = {file for run in (*runs_here(results), *own) for file in record_files(run / "findings", "probes")}
    for file in sorted(files, key=lambda file: file.stat().st_mtime, reverse=True):
        if probes := [line for line in read_records(file) if stack.items() <= line.items()]:
            known.source = file.parent.parent.name
            known.stack += f" · findings of 01-machine in {known.source}"
            known.bounds = _bounds(file.parent, probes[0]["device"], known.source)
            for line in probes:
                if line["verdict"] != "works" and line["case"] in CASES:
                    computation = (line["attention"], line["kernel"], line["dtype"], line["device"])
                    known.failed.setdefault(computation, f"{line['verdict']}: {line['reason']} (01-machine)")
            break
    return known


def _bounds(findings: Path, device: str, run: str) -> dict[tuple[str, str], Machine]:
    lines = [line for file in record_files(findings, "ceilings") for line in read_records(file)]
    medians = {(line["ceiling"], line["dtype"]): line["median"] for line in lines if line.get("median")}
    memory = describe_machine()["gpu_memory_bytes" if device == "cuda" else "memory_bytes"]
    return {
        (device, dtype): Machine(machine_name(), memory, rate * 1e9, medians["matmul", dtype] * 1e12, run, device)
        for (ceiling, dtype), rate in medians.items()
        if ceiling == "gemv" and ("matmul", dtype) in medians
    }


def resolve(settings: Settings) -> tuple[str, str]:
    """Return the device and dtype that the settings come to here; raises ValueError where the device is not here."""
    device = choose_device(settings.device).value
    return device, choose_dtype(settings.dtype, device).value


@dataclass(frozen=True)
class Forecast:
    """HTML to show, why the settings cannot run (empty where they may), and each choice's reason by setting."""

    html: str
    against: str = ""
    reasons: dict[str, dict[Any, str]] = field(default_factory=dict)


def forecast(
    settings: Settings,
    page_size: tuple[int, int] | None,
    known: Capabilities,
    choices: Mapping[str, tuple[Any, ...]],
    before: Sequence[dict[str, Any]],
) -> Forecast:
    """Return what the settings will take for a page of this size in pixels, and which `choices` do not run beside them.

    `before` holds earlier rows: those of the same model say how long a token took.
    """
    against = known.reason(settings)
    reasons = {name: known.reasons(settings, name, values) for name, values in choices.items()}
    if page_size is None or against:
        return Forecast("", against, reasons)
    try:
        return Forecast(_costs(settings, token_counter(settings)(*page_size), known, before), "", reasons)
    except CheckpointError as error:
        return Forecast(note(f"no forecast: {error}"), "", reasons)


def _costs(settings: Settings, tokens: int, known: Capabilities, before: Sequence[dict[str, Any]]) -> str:
    device, dtype = resolve(settings)
    machine = known.machine(device, dtype)
    found = predict(replace(settings, device=device), tokens, machine, dtype)
    memory, floors, warning = found.memory, found.floors, ""
    values = {
        "image tokens": f"{tokens:,}",
        "predicted peak": size(memory.peak_bytes),
        "of that for weights": size(memory.weights_bytes),
    }
    if machine is not None and floors is not None and found.margin_bytes is not None:
        values["to the first token, at best"] = duration(floors.vision_s + floors.prefill_s)
        values["per token, at best"] = duration(floors.tpot_s)
        if found.margin_bytes < 0:
            missing = size(-found.margin_bytes)
            warning = f"it needs {missing} more than {machine.name} has: lower max_pixels, or use sdpa"
    same_model = [row for row in before if all(row[name] == getattr(settings, name) for name in LOAD_SETTINGS)]
    if times := [row["tpot_s"] for row in same_model if row.get("tpot_s")]:
        values[f"per token, median of {len(times)} here"] = duration(median(times))
    return chips(values) + note(warning, "bad")


def _key(settings: Settings) -> tuple[Any, ...]:
    return tuple(getattr(settings, name) for name in _REFUSED_FOR)


class HelperError(RuntimeError):
    """The helper's function failed; the message says how."""


class Helper:
    """A second process for all that needs torch but no model; it runs one function at a time, for any thread.

    The page's own process stays light: torch cannot be imported by two threads at once, and callbacks, readings and
    forecasts are threads.
    """

    def __init__(self) -> None:
        self._worker, self._turn, self.closed = Worker(), threading.Lock(), False

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Return what the function returns there; it and its arguments must be picklable.

        Raises:
            HelperError: it raised, or its process died twice; the next call starts another.
        """
        with self._turn:
            if self.closed:
                raise HelperError("it was closed")
            outcome = self._worker.call(_offline, function, *args)
            if outcome.fatal and not self.closed:  # a person or the system killed it, not the function
                outcome = self._worker.call(_offline, function, *args)
        if not outcome.ok:
            raise HelperError(outcome.reason)
        return outcome.value

    def close(self) -> None:
        """End the process and whatever it does; later calls raise."""
        self.closed = True
        self._worker.stop(patience_s=0)
        with self._turn:
            self._worker.close()


def _offline(function: Callable[..., Any], *args: Any) -> Any:
    """Run a function in a process that fetches nothing: a forecast must not download the model that it is for."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # in time: the Hub's client is imported where it is used
    return function(*args)
