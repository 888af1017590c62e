"""Joules that a GPU spends while something runs, by NVIDIA's management library; elsewhere the reason why not."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

_EVERY_S = 0.1


@dataclass(frozen=True)
class Energy:
    """What a GPU spent: joules, over so many seconds, and how they were read; None with the reason where not."""

    joules: float | None
    seconds: float
    how: str = ""
    reason: str = ""

    @property
    def watts(self) -> float | None:
        """The mean power in watts; None where no joules are known."""
        return self.joules / self.seconds if self.joules is not None and self.seconds > 0 else None


class PowerMeter:
    """A context that fills `energy` at its end: the whole card's joules, other programs' share and rest included.

    The card's own energy counter is read where it has one (Volta and later), else its power every tenth of a second,
    joined by straight lines. `device` is a device of torch's, such as `cuda:1`.
    """

    def __init__(self, device: str) -> None:
        self.energy = Energy(None, 0.0, reason="not ended yet")
        self._device = device
        self._samples: list[tuple[float, float]] = []
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._library, self._handle, self._reason = _open(self._device)
        self._counter = self._read("nvmlDeviceGetTotalEnergyConsumption")
        if not self._reason and self._counter is None:
            self._thread = threading.Thread(target=self._sample, daemon=True)
            self._thread.start()
        self._started = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        seconds = time.perf_counter() - self._started
        if self._reason:
            self.energy = Energy(None, seconds, reason=self._reason)
        elif self._counter is not None:
            spent = self._read("nvmlDeviceGetTotalEnergyConsumption")
            self.energy = Energy(None, seconds, reason="the card's energy counter could not be read at the end")
            if spent is not None and spent >= self._counter:
                self.energy = Energy((spent - self._counter) / 1000, seconds, "the card's energy counter")
        else:
            self._ended.set()
            assert self._thread is not None
            self._thread.join()
            self.energy = _joined(self._samples, seconds)
        if self._library is not None:
            self._library.nvmlShutdown()

    def _sample(self) -> None:
        while True:
            last = self._ended.is_set()
            if (power := self._read("nvmlDeviceGetPowerUsage")) is not None:
                self._samples.append((time.perf_counter(), power / 1000))
            if last:
                return
            self._ended.wait(_EVERY_S)

    def _read(self, name: str) -> Any:
        if self._library is None:
            return None
        try:
            return getattr(self._library, name)(self._handle)
        except self._library.NVMLError:
            return None  # this card or driver does not tell it


def _joined(samples: list[tuple[float, float]], seconds: float) -> Energy:
    if len(samples) < 2:
        return Energy(None, seconds, reason="the card reports neither its energy nor its power")
    joules = sum((t1 - t0) * (watts0 + watts1) / 2 for (t0, watts0), (t1, watts1) in pairwise(samples))
    return Energy(joules, samples[-1][0] - samples[0][0], f"power read every {_EVERY_S} s")


def _open(device: str) -> tuple[Any, Any, str]:
    """Return the library and the device's handle, or why there is none."""
    if not device.startswith("cuda"):
        return None, None, f"not measured: {device} reports no power; only NVIDIA's GPUs do here"
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception as error:  # the library raises its own kinds for every way of not being there
        return None, None, f"not measured: NVIDIA's management library does not answer ({error})"
    import torch

    # By its UUID: CUDA_VISIBLE_DEVICES may count otherwise than the library.
    uuid = str(torch.cuda.get_device_properties(int(device.partition(":")[2] or 0)).uuid)
    try:
        return pynvml, pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid.removeprefix('GPU-')}"), ""
    except pynvml.NVMLError as error:
        pynvml.nvmlShutdown()
        return None, None, f"not measured: the card does not answer ({error})"
