"""Joules by a planted management library: its counter where it has one, else its power joined over time."""

from __future__ import annotations

import sys
import time
from types import ModuleType, SimpleNamespace

import pytest
import torch

from ocrlab.machine import energy as energy_module
from ocrlab.machine.energy import PowerMeter


class NVMLError(Exception):
    """As the library's own."""


def library(**answers: object) -> ModuleType:
    """A management library whose functions give these answers; an exception is raised."""
    planted = ModuleType("pynvml")
    planted.NVMLError = NVMLError  # type: ignore[attr-defined]
    planted.calls = []  # type: ignore[attr-defined]

    def function(name: str) -> object:
        def call(*args: object) -> object:
            planted.calls.append((name, *args))
            answer = answers.get(name)
            answer = answer.pop(0) if isinstance(answer, list) else answer() if callable(answer) else answer
            if isinstance(answer, Exception):
                raise answer
            return answer

        return call

    for name in (
        "nvmlInit",
        "nvmlShutdown",
        "nvmlDeviceGetHandleByUUID",
        "nvmlDeviceGetTotalEnergyConsumption",
        "nvmlDeviceGetPowerUsage",
    ):
        setattr(planted, name, function(name))
    return planted


@pytest.fixture(autouse=True)
def card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=f"uuid-{index}"))
    monkeypatch.setattr(energy_module, "_EVERY_S", 0.01)


def measured(monkeypatch: pytest.MonkeyPatch, planted: ModuleType, device: str = "cuda:1", seconds: float = 0.0):  # type: ignore[no-untyped-def]
    monkeypatch.setitem(sys.modules, "pynvml", planted)
    with PowerMeter(device) as meter:
        time.sleep(seconds)
    return meter.energy


def test_the_cards_counter_in_joules(monkeypatch: pytest.MonkeyPatch) -> None:
    planted = library(nvmlDeviceGetTotalEnergyConsumption=[5_000, 12_500], nvmlDeviceGetHandleByUUID="handle")
    energy = measured(monkeypatch, planted)
    assert energy.joules == 7.5 and energy.how == "the card's energy counter" and energy.reason == ""
    assert energy.watts == pytest.approx(7.5 / energy.seconds)
    assert ("nvmlDeviceGetHandleByUUID", "GPU-uuid-1") in planted.calls  # torch's number, not the library's
    assert planted.calls[-1] == ("nvmlShutdown",)


def test_power_joined_where_the_card_has_no_counter(monkeypatch: pytest.MonkeyPatch) -> None:
    started = time.perf_counter()
    rising = library(
        nvmlDeviceGetTotalEnergyConsumption=lambda: NVMLError("not supported"),
        nvmlDeviceGetPowerUsage=lambda: 100_000 + 1_000_000 * (time.perf_counter() - started),
    )
    energy = measured(monkeypatch, rising, seconds=0.3)
    assert energy.how.startswith("power read every") and energy.joules is not None
    # Power rises by 1000 W a second from 100 W: over 0.3 s the mean is some 250 W.
    assert 200 < (energy.watts or 0) < 400 and energy.seconds == pytest.approx(0.3, abs=0.15)


def test_a_constant_power_gives_its_watts(monkeypatch: pytest.MonkeyPatch) -> None:
    planted = library(
        nvmlDeviceGetTotalEnergyConsumption=lambda: NVMLError("no"), nvmlDeviceGetPowerUsage=lambda: 80_000
    )
    assert measured(monkeypatch, planted, seconds=0.05).watts == pytest.approx(80)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({"nvmlInit": NVMLError("no driver")}, "does not answer (no driver)"),
        ({"nvmlDeviceGetHandleByUUID": NVMLError("lost")}, "the card does not answer (lost)"),
        ({"nvmlDeviceGetTotalEnergyConsumption": [9, NVMLError("gone")]}, "could not be read at the end"),
        ({"nvmlDeviceGetTotalEnergyConsumption": [9, 3]}, "could not be read at the end"),
        (
            {
                "nvmlDeviceGetTotalEnergyConsumption": lambda: NVMLError("no"),
                "nvmlDeviceGetPowerUsage": lambda: NVMLError("no"),
            },
            "neither its energy nor its power",
        ),
    ],
)
def test_what_cannot_be_read_is_a_reason_not_a_number(
    monkeypatch: pytest.MonkeyPatch, answers: dict[str, object], expected: str
) -> None:
    energy = measured(monkeypatch, library(**answers))
    assert energy.joules is None and energy.watts is None and expected in energy.reason


def test_a_cpu_tells_no_power(monkeypatch: pytest.MonkeyPatch) -> None:
    planted = library()
    energy = measured(monkeypatch, planted, device="cpu", seconds=0.01)
    assert "cpu reports no power" in energy.reason and energy.seconds >= 0.01 and planted.calls == []
