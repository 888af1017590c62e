"""What software and hardware is here, in detail: for the doctor and for the notebook about this machine."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import psutil

from ocrlab.machine.describe import PACKAGES, cpu_name, describe_machine, versions


def cpu_abilities() -> list[str]:
    """Return which of avx2, avx512, avx512_bf16 and amx the processor has, as torch sees them."""
    import torch

    tests = {
        "avx2": "_is_avx2_supported", "avx512": "_is_avx512_supported", "avx512_bf16": "_is_avx512_bf16_supported",
        "amx": "_is_amx_tile_supported",
    }  # fmt: skip
    return [name for name, test in tests.items() if getattr(torch.cpu, test, lambda: False)()]


def laptop() -> bool | None:
    """Return whether this is a laptop, by its battery or its GPU's name; None where nothing tells."""
    gpu = describe_machine()["gpu"]
    if gpu and "laptop" in gpu.lower():
        return True
    battery = getattr(psutil, "sensors_battery", lambda: None)()
    if battery is not None:
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
        "wsl": "microsoft" in platform.uname().release.lower(),
        "versions": dict.fromkeys(PACKAGES, "not installed") | versions(),
        "torch_cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None,
        "arch_list": torch.cuda.get_arch_list() if torch.version.cuda else [],
        "cpu": cpu_name(),
        "cpu_abilities": cpu_abilities(),
        "cores": os.cpu_count(),
        "machine": describe_machine(),
        "gpu_details": gpu_details(),
        "laptop": laptop(),
    }


def stack_facts(stack: dict[str, Any]) -> dict[str, Any]:
    """Return of `describe_stack` what rows are judged by, flat: machine, card, build; no folder or user name."""
    own = ("system", "wsl", "torch_cuda", "cudnn", "arch_list", "cpu_abilities", "laptop")
    kept = {name: stack[name] for name in own} | {"flash_attn": stack["versions"].get("flash-attn")}
    return {name: value for name, value in stack["machine"].items() if name != "system"} | stack["gpu_details"] | kept
