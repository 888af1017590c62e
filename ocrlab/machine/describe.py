"""Which machine and software stack this is, and which device and dtype it should use, each with the reason."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import psutil

PACKAGES = (
    *("torch", "transformers", "accelerate", "tokenizers", "numpy", "pillow", "papermill", "nbconvert", "jupyterlab"),
    *("flash-attn", "kernels", "bitsandbytes", "torchao", "torchvision", "vllm"),  # optional
)
_WINDOWS_CPU = r"HARDWARE\DESCRIPTION\System\CentralProcessor\0"  # of HKEY_LOCAL_MACHINE


@dataclass(frozen=True)
class Choice:
    """A value and why it was chosen."""

    value: str
    reason: str

    def __str__(self) -> str:
        return f"{self.value} ({self.reason})"


@lru_cache(maxsize=1)  # it takes milliseconds, and every reading's key needs it
def versions() -> dict[str, str]:
    """Return the installed version of each package that bears on a reading; absent ones are left out."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def cpu_name() -> str:
    """Return the processor's name as the system gives it."""
    with suppress(OSError):
        if found := re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(errors="replace"), re.M | re.I):
            return found[1].strip()
    if sys.platform == "win32":
        import winreg

        with suppress(OSError), winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, _WINDOWS_CPU) as key:
            return str(winreg.QueryValueEx(key, "ProcessorNameString")[0]).strip()
    return platform.processor() or platform.machine()


@lru_cache(maxsize=1)
def describe_machine() -> dict[str, Any]:
    """Return what identifies this machine in a row: system, cores, memory in bytes, GPU; no host or user name."""
    import torch

    machine: dict[str, Any] = {
        "system": platform.system() + " (WSL)" * _wsl(),
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else psutil.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "torch_build": f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU",
        "gpu": None,
    }
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        machine |= {
            "gpu": gpu.name,
            "compute_capability": f"{gpu.major}.{gpu.minor}",
            "gpu_memory_bytes": gpu.total_memory,
            "multiprocessors": gpu.multi_processor_count,
        }
    return machine


def _wsl() -> bool:
    return "microsoft" in platform.release().lower()


def machine_name() -> str:
    """Return the machine in a few words, for figures and folders."""
    machine = describe_machine()
    if machine["gpu"]:
        return str(machine["gpu"])
    return f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_bytes'] / 2**30:.0f} GiB"


def cpu_abilities() -> list[str]:
    """Return which of avx2, avx512, avx512_bf16 and amx the processor has, as torch sees them."""
    import torch

    tests = {
        "avx2": "_is_avx2_supported",
        "avx512": "_is_avx512_supported",
        "avx512_bf16": "_is_avx512_bf16_supported",
        "amx": "_is_amx_tile_supported",
    }
    return [name for name, test in tests.items() if getattr(torch.cpu, test, lambda: False)()]


def laptop() -> bool | None:
    """Return whether this is a laptop, by its battery or its GPU's name; None where neither is known."""
    gpu = describe_machine()["gpu"] or ""
    battery = getattr(psutil, "sensors_battery", lambda: None)()
    if battery is not None or "laptop" in gpu.lower():
        return True
    return False if gpu or Path("/sys/class/power_supply").is_dir() else None


def gpu_details() -> dict[str, Any]:
    """Return driver, power limit in watts and clocks in MHz from NVIDIA's management library; empty without one."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # the library raises its own kinds for every way of not being there
        return {}
    details: dict[str, Any] = {}
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    for name, read in (
        ("driver", lambda: pynvml.nvmlSystemGetDriverVersion()),
        ("power_limit_w", lambda: pynvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000),
        ("sm_clock_mhz", lambda: pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_SM)),
        ("memory_clock_mhz", lambda: pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_MEM)),
        ("memory_free_bytes", lambda: pynvml.nvmlDeviceGetMemoryInfo(handle).free),
        ("memory_bytes", lambda: pynvml.nvmlDeviceGetMemoryInfo(handle).total),
        ("clock_reasons", lambda: pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)),
        ("others", lambda: ", ".join(f"process {p.pid}" for p in pynvml.nvmlDeviceGetComputeRunningProcesses(handle))),
    ):
        try:
            details[name] = read()
        except pynvml.NVMLError:
            details[name] = None  # laptops often hide their power limit
    pynvml.nvmlShutdown()
    return details


def describe_stack() -> dict[str, Any]:
    """Return the whole stack by name: system, versions, torch's build and its architecture list, CPU, GPU, laptop."""
    import torch

    return {
        "system": f"{platform.system()} {platform.release()}",
        "wsl": _wsl(),
        "versions": dict.fromkeys(PACKAGES, "not installed") | versions(),
        "torch_cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None,
        "arch_list": torch.cuda.get_arch_list() if torch.version.cuda else [],
        "cpu": cpu_name(),
        "cpu_abilities": cpu_abilities(),
        "cores": os.cpu_count(),
        "machine": describe_machine(),
        "gpu_details": gpu_details(),
        "nvidia_on_bus": any(f.read_text() == "0x10de\n" for f in Path("/sys/bus/pci/devices").glob("*/vendor")),
        "laptop": laptop(),
    }


def choose_device(asked: str) -> Choice:
    """Return the device for `asked` (auto, cpu, cuda, cuda:N, mps).

    Raises:
        ValueError: the device is not here; the message says why and what to do.
    """
    import torch

    why = "this torch is a CPU build" if torch.version.cuda is None else "torch sees no CUDA device"
    if asked == "auto":
        if torch.cuda.is_available():
            return Choice("cuda", f"torch sees {torch.cuda.get_device_name(0)}")
        return Choice("cpu", why)
    if asked.startswith("cuda"):
        index = int(asked.partition(":")[2] or 0)
        if not torch.cuda.is_available():
            raise ValueError(f"device={asked!r}: {why}; use device='cpu', or `make setup` on a machine with a driver")
        if index >= torch.cuda.device_count():
            raise ValueError(f"device={asked!r}: this machine has {torch.cuda.device_count()} CUDA device(s)")
    if asked == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device='mps': this machine or torch build has no Metal device; use device='cpu'")
    return Choice(asked, "asked for")


def choose_dtype(asked: str, device: str) -> Choice:
    """Return the dtype for `asked` (auto or a name) on a device."""
    import torch

    if asked != "auto":
        return Choice(asked, "asked for")
    if not device.startswith("cuda"):
        return Choice("float32", "on a CPU the exact one, and at the embedded reader's size the fastest")
    major, minor = torch.cuda.get_device_capability(device)
    if major >= 8:
        return Choice("bfloat16", f"compute capability {major}.{minor} has bfloat16 tensor cores, and float32's range")
    return Choice("float16", f"compute capability {major}.{minor} has no bfloat16 tensor cores")


def main() -> None:
    """Print the stack in a few lines: what set-up chose, and why."""
    here = versions()
    machine = describe_machine()
    torch = f"torch {here['torch']} ({machine['torch_build']} build)"
    print(f"setup: Python {here['python']}, {torch}, transformers {here['transformers']}")
    print(f"setup: device {choose_device('auto')}; dtype {choose_dtype('auto', choose_device('auto').value)}")
    if machine["torch_build"] == "CPU" and shutil.which("nvidia-smi"):
        print("setup: an NVIDIA driver is here, but this torch cannot use it: the doctor says what to do")


if __name__ == "__main__":
    main()
