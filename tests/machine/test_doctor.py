"""A healthy machine and broken ones: the lines, their remedies and the exit code."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from ocrlab.machine import doctor
from ocrlab.machine.doctor import KNOWN_PAIRS, Installed, check
from ocrlab.paths import ROOT
from tests.machine.test_hardware import CU126, CU130


def pins() -> dict[str, str]:
    """Return what is pinned, without what Windows alone has."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found = {line.split("==")[0].lower().replace("_", "-"): line.split("==")[1] for line in lines if "==" in line}
    return {name: pin for name, pin in found.items() if name != "triton-windows"}


HEALTHY = Installed(versions=pins(), torch_cuda="13.0", arch_list=tuple(CU130), card=(12, 0), driver="581.29")


def problems(installed: Installed) -> list[doctor.Line]:
    return [line for line in check(installed) if line.level == "problem"]


def test_a_healthy_card_has_no_problem_and_no_warning() -> None:
    lines = check(HEALTHY)
    assert {line.level for line in lines} == {"ok"}
    assert any("sm_120 is in the build" in line.found for line in lines)


BROKEN = {
    "old torch on a new card": (replace(HEALTHY, arch_list=tuple(CU126)), "no kernel image"),
    "package missing": (
        replace(HEALTHY, versions={k: v for k, v in pins().items() if k != "papermill"}), "not installed: papermill",
    ),
    "transformers with known holes": (replace(HEALTHY, versions=pins() | {"transformers": "5.4.0"}), "CVE-2026-4372"),
    "flash-attn without sm_120": (replace(HEALTHY, versions=pins() | {"flash-attn": "2.7.4.post1"}), "without sm_120"),
    "CPU build beside a card": (replace(HEALTHY, torch_cuda=None, arch_list=()), "CPU build"),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_broken_environments_are_problems_with_a_remedy(name: str) -> None:
    installed, says = BROKEN[name]
    found = problems(installed)
    assert any(says in line.found for line in found), found
    assert all(line.remedy for line in found)


def test_the_same_flash_attn_is_no_problem_on_an_older_card() -> None:
    versions = pins() | {"flash-attn": "2.7.4.post1"}
    assert not problems(replace(HEALTHY, versions=versions, card=(8, 9)))
    assert not problems(replace(HEALTHY, versions=pins() | {"flash-attn": "2.8.3"}))


def test_missing_weights_are_a_problem(tmp_path: Path) -> None:
    shutil.copy(ROOT / "constraints.txt", tmp_path)
    found = problems(replace(HEALTHY, root=tmp_path))
    assert [line.check for line in found] == ["embedded reader"] and "train-tiny" in found[0].remedy


def test_drift_from_the_pins_is_a_warning() -> None:
    lines = check(replace(HEALTHY, versions=pins() | {"torch": "2.13.0+cpu", "pandas": "9.9"}))
    drift = next(line for line in lines if line.check == "versions")
    assert drift.level == "warning" and "pandas 9.9" in drift.found and "torch" not in drift.found


def test_a_driver_without_a_cuda_build_is_a_warning() -> None:
    lines = check(replace(HEALTHY, card=None, torch_cuda=None, arch_list=()))
    assert next(line for line in lines if line.check == "card").level == "warning"


NO_TORCH_DEVICE = replace(HEALTHY, card=None, torch_cuda=None, arch_list=())
WINDOWS = {"system": "Windows", "setup": r".\make setup"}
FLASH = pins() | {"flash-attn": "2.8.3"}
PLANTED = {  # the stack, the check, and what its remedy says and does not say
    "CPU build beside a driver, Linux": (NO_TORCH_DEVICE, "card", "make setup", "remove"),
    "CPU build beside a driver, Windows": (replace(NO_TORCH_DEVICE, **WINDOWS), "card", r".\make setup", "remove"),
    "CPU build beside a driver, conda": (
        replace(NO_TORCH_DEVICE, setup="python make.py setup HERE=1"), "card", "python make.py setup HERE=1", "remove",
    ),
    "driver too old for CUDA 13": (
        replace(HEALTHY, card=None, driver="572.16"), "card", "update NVIDIA's driver to 580", "setup",
    ),
    "driver of unknown version": (replace(HEALTHY, card=None, driver=""), "card", "run nvidia-smi", "update"),
    "cu126 on Blackwell, Linux": (replace(HEALTHY, arch_list=tuple(CU126)), "card", "make setup", "remov"),
    "cu126 on Blackwell, Windows": (
        replace(HEALTHY, arch_list=tuple(CU126), **WINDOWS), "card", r".\make setup", "remov",
    ),
    "flash-attn, Linux": (
        replace(HEALTHY, versions=FLASH), "flash-attn-wheel-for-another-torch", "'sdpa'; or build it from source",
        "git+",
    ),
    "flash-attn, Windows": (
        replace(HEALTHY, versions=FLASH, **WINDOWS), "flash-attn-wheel-for-another-torch", "no wheel for Windows",
        "pip",
    ),
    "no Triton, Windows": (replace(HEALTHY, **WINDOWS), "compile", r".\make setup", "pip"),
    **{
        f"{name}, {system}": (
            replace(HEALTHY, **(WINDOWS if system == "Windows" else {}), facts={"system": system, **facts}),
            check, says, not_says,
        )
        for name, check, facts, words in (
            ("memory in the computer's", "memory-spilled", {"held_percent": 131}, {
                "Windows": ("Prefer No Sysmem Fallback", "WSL"), "WSL": ("does not obey", "Control Panel"),
            }),
            ("steps far from the floor", "steps-far-from-floor", {"floor_percent": 2, "step_ms": 160}, {
                "Windows": ("Shared GPU memory", "nvidia-smi"), "WSL": ("Windows' Task Manager", "Control Panel"),
                "Linux": ("nvidia-smi", "Task Manager"),
            }),
            ("memory taken", "memory-taken", {"free_percent": 31, "others": "process 77"}, {
                "Windows": ("Task Manager", "nvidia-smi"), "WSL": ("Task Manager", "nvidia-smi"),
                "Linux": ("nvidia-smi", "Task Manager"),
            }),
            ("clocks", "clocks-throttled", {"slowed": "heat, power brake"}, {
                "Windows": ("let it cool", "sudo"), "Linux": ("let it cool", "sudo"),
            }),
            ("bandwidth", "bandwidth-low", {"bandwidth_percent": 22}, {"Linux": ("power supply", "sudo")}),
            ("another CUDA", "cuda-on-library-path", {"library_path": True}, {"Linux": ("unset", "pip")}),
        )
        for system, (says, not_says) in words.items()
    },
    "integrated GPU, Linux": (
        replace(HEALTHY, card=None, driver=None, facts={"nvidia_on_bus": True, "laptop": True}), "other-gpu",
        "prime-select nvidia", "Windows",
    ),
    "integrated GPU, Windows": (
        replace(HEALTHY, card=None, driver="", facts={"laptop": True}, **WINDOWS), "other-gpu-off",
        "leave the eco", "sudo",
    ),
    "integrated GPU, WSL": (
        replace(HEALTHY, card=None, driver="", facts={"laptop": True, "system": "WSL"}), "other-gpu-off",
        "wsl --shutdown", "sudo",
    ),
    "two CUDA runtimes": (
        replace(HEALTHY, versions=pins() | {"nvidia-cuda-runtime-cu12": "12.9.79", "nvidia-cuda-runtime": "13.0.96"}),
        "two-cuda-runtimes", "make setup", "pip",
    ),
    "pinned memory in WSL": (
        replace(HEALTHY, versions=pins() | {"vllm": "0.21.0"}, facts={"system": "WSL"}), "wsl-pinned-memory",
        "VLLM_WSL2_ENABLE_PIN_MEMORY=1", "pip",
    ),
    "SGLang on Blackwell": (
        replace(HEALTHY, versions=pins() | {"sglang": "0.5.17"}), "sglang-compiled-decode", "leave", "pip",
    ),
    "Triton of the next torch": (
        replace(HEALTHY, versions=pins() | {"triton-windows": "3.8.0.post29"}, **WINDOWS),
        "triton-windows-newer-than-torch", r".\make setup", "pip",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(PLANTED))
def test_a_remedy_is_one_that_works_on_that_system(name: str) -> None:
    installed, about, says, not_says = PLANTED[name]
    (line,) = [line for line in check(installed) if line.check == about]
    assert line.level != "ok" and says in line.remedy and not_says not in line.remedy


def test_no_advice_for_what_is_not_amiss() -> None:
    triton = pins() | {"triton-windows": "3.7.1.post27"}
    assert not [line for line in check(replace(HEALTHY, versions=triton, **WINDOWS)) if line.level != "ok"]
    without = {name: pin for name, pin in pins().items() if name != "torchvision"}  # an extra, for a CUDA build
    no_card = replace(HEALTHY, versions=without, card=None, driver=None, torch_cuda=None, arch_list=(), **WINDOWS)
    assert not [line for line in check(no_card) if line.level != "ok"]
    older = replace(HEALTHY, versions=FLASH | {"torch": "2.8.0"})
    assert "flash-attn-wheel-for-another-torch" not in {line.check for line in check(older)}
    newer = replace(HEALTHY, versions=triton | {"torch": "2.14.1", "triton-windows": "3.8.0.post29"}, **WINDOWS)
    assert "triton-windows-newer-than-torch" not in {line.check for line in check(newer)}


def test_known_pairs_are_well_formed() -> None:
    pairs = yaml.safe_load(KNOWN_PAIRS.read_text(encoding="utf-8"))
    assert len({pair["id"] for pair in pairs}) == len(pairs) >= 7
    for pair in pairs:
        assert pair["level"] in {"ok", "warning", "problem"} and pair["reference"] and pair["remedy"] and pair["what"]
        for conditions in ("versions", "card", "torch"):
            SpecifierSet(pair.get(conditions, ""))


def test_command_on_this_machine() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ocrlab", "doctor", "--json"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    lines = json.loads(done.stdout)
    assert {line["check"] for line in lines} >= {"machine", "versions", "card", "disk", "memory", "websocket"}
    assert done.returncode == int(any(line["level"] == "problem" for line in lines))


def test_exit_code_of_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from ocrlab.commands.cli import main

    monkeypatch.setattr(doctor, "_card", lambda _: doctor.Line("card", "problem", "planted", "mend it"))
    assert main(["doctor"]) == 1
    assert "problem  card: planted\n         → mend it" in capsys.readouterr().out


def test_what_ocrlab_keeps_clear_of_is_no_warning() -> None:
    (line,) = [line for line in check(HEALTHY) if line.check == "sdpa-compiled-65536"]
    assert line.level == "ok" and "171389" in line.found
    assert "sdpa-compiled-65536" not in {line.check for line in check(replace(HEALTHY, card=(8, 9)))}


def test_facts_within_bounds_give_no_line() -> None:
    calm = {"free_percent": 94, "held_percent": 88, "floor_percent": 14, "step_ms": 29, "bandwidth_percent": 91}
    calm |= {"slowed": "", "library_path": False, "laptop": True, "nvidia_on_bus": True, "system": "WSL"}
    assert {line.level for line in check(replace(HEALTHY, facts=calm))} == {"ok"}
    # An H200 needs little time for a step, so that its share is low though nothing is amiss.
    assert {line.level for line in check(replace(HEALTHY, facts=calm | {"floor_percent": 2}))} == {"ok"}
    taken = next(line for line in check(replace(HEALTHY, facts={"free_percent": 31, "others": "process 77"}))
                 if line.check == "memory-taken")  # fmt: skip
    assert "only 31 % of the card's memory is free" in taken.found and "process 77" in taken.found


def test_facts_come_from_the_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    stack = doctor.describe_stack()
    monkeypatch.setenv("LD_LIBRARY_PATH", "/usr/local/cuda-12.4/lib64")
    card = {"memory_free_bytes": 3 * 2**30, "memory_bytes": 12 * 2**30, "clock_reasons": 0x1 | 0x20, "others": ""}
    facts = doctor.facts_of(stack | {"gpu_details": card, "wsl": True, "laptop": True})
    assert (facts["free_percent"], facts["slowed"], facts["system"]) == (25, "heat", "WSL")
    assert facts["library_path"] and "does not name" in facts["others"]
    assert doctor.facts_of(stack | {"gpu_details": {}})["free_percent"] is None
