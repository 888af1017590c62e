"""Shared by all tests: the network is off, and checkpoints are copies of the embedded reader with other files."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TQDM_DISABLE", "1")

import pytest

from ocrlab import paths
from ocrlab.machine import worker_process

# Workers are copies where the environment is that of now, whichever test starts the first one.
START = worker_process._environment = worker_process.variables()

# Qwen2-VL-2B-Instruct's own preprocessor and generation files: limits and sampling that nobody asked for.
QWEN_PREPROCESSOR = {
    "min_pixels": 3136,
    "max_pixels": 12845056,
    "patch_size": 8,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen2VLProcessor",
}
QWEN_GENERATION = {"do_sample": True, "repetition_penalty": 1.05, "temperature": 0.1, "top_p": 0.001, "top_k": 1}


def edit_json(file: Path, change: Callable[[dict], dict]) -> None:
    file.write_text(json.dumps(change(json.loads(file.read_text(encoding="utf-8")))), encoding="utf-8")


@pytest.fixture(autouse=True, scope="module")
def environment_of_the_start() -> None:
    """Each file begins in it, whatever earlier tests and libraries set: in another one each worker imports torch."""
    for name in worker_process.variables().keys() - START.keys():
        del os.environ[name]
    os.environ.update(START)


@pytest.fixture
def own_quarantine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty quarantine of the test's own, and no scratch of anybody's."""
    monkeypatch.setattr(paths, "BUILD", tmp_path / "build")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A folder with the embedded reader's weights, which a test may edit."""
    return Path(shutil.copytree(paths.MODELS / "tiny", tmp_path / "checkpoint"))


@pytest.fixture
def stubborn_checkpoint(checkpoint: Path) -> Path:
    """The same with Qwen2-VL's own preprocessor limits and sampling generation config."""
    (checkpoint / "preprocessor_config.json").write_text(json.dumps(QWEN_PREPROCESSOR), encoding="utf-8")
    edit_json(checkpoint / "generation_config.json", lambda config: config | QWEN_GENERATION)
    return checkpoint


@pytest.fixture
def hub_cache(stubborn_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A cache in the Hub's layout that holds Qwen/Qwen2-VL-2B-Instruct at one commit; returns the commit."""
    import huggingface_hub.constants

    commit = "895c3a49bc3fa70a340399125c650a463535e71c"
    repo = tmp_path / "hub" / "models--Qwen--Qwen2-VL-2B-Instruct"
    shutil.copytree(stubborn_checkpoint, repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit, encoding="utf-8")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return commit
