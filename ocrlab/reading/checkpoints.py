"""Where a model comes from: the embedded reader, a local folder, the Hub's cache, the Hub, or a config alone."""

from __future__ import annotations

import hashlib
import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import yaml

from ocrlab import paths
from ocrlab.pages.hub import transport_errors
from ocrlab.reading.families import FAMILIES
from ocrlab.reading.family import CONFIGS, Family
from ocrlab.reading.settings import Settings, is_endpoint

_FILES = ["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model"]


class CheckpointError(RuntimeError):
    """A model that cannot be had or must not be loaded; the message names it and the remedy."""


@dataclass(frozen=True)
class Checkpoint:
    """A folder to load from, its config, and what pins it: a Hub commit or the sha256 of its weights."""

    model_id: str
    folder: Path
    config: dict[str, Any]
    revision: str
    dummy: bool

    @property
    def family(self) -> Family:
        """The table's entry for the config's `model_type`."""
        return FAMILIES[self.config["model_type"]]

    @property
    def known(self) -> dict[str, Any]:
        """What the package knows of the model by its name (`load_models`), empty where it knows nothing."""
        return load_models().get(Path(self.model_id).name.lower(), {})


@cache
def load_models() -> dict[str, dict[str, Any]]:
    """Return what is known of models, by the last part of their id in small letters, as `models.yaml` has it."""
    listed = yaml.safe_load((Path(__file__).parent / "models.yaml").read_text(encoding="utf-8"))
    return {Path(one["model_id"]).name.lower(): one for one in listed}


def locate(settings: Settings) -> Checkpoint:
    """Return the checkpoint that the settings name, checked for safety; downloads only a Hub id that was asked for.

    Raises:
        CheckpointError: unknown id, no such folder, no network and not cached, pickle weights only, remote code,
            or a family that the reader does not know.
    """
    if is_endpoint(settings.model_id):
        raise CheckpointError(f"{settings.model_id}: a server holds this model, and nothing of it is on this computer")
    _refuse_elsewhere("model_id", settings.model_id, settings.model_id)
    if settings.weights == "dummy":
        return _dummy(settings)
    folder, revision = _folder(settings)
    config = _config(folder)
    _refuse_elsewhere("model_type", config.get("model_type"), settings.model_id)
    _refuse_config(config, settings)
    _refuse_pickles([p.name for p in folder.iterdir()], settings.model_id)
    return Checkpoint(settings.model_id, folder, config, revision or f"sha256:{_weights_sha256(folder)[:16]}", False)


def locate_shapes(settings: Settings) -> Checkpoint:
    """Return the settings' checkpoint, or the package's config of such a model where its weights are not here.

    Raises:
        CheckpointError: neither is at hand.
    """
    try:
        return locate(settings)
    except CheckpointError:
        return locate(Settings(model_id=settings.model_id, weights="dummy"))


def _folder(settings: Settings) -> tuple[Path, str | None]:
    """Return the folder to load from, and the commit where it is one of the Hub's."""
    name, local = settings.model_id, Path(settings.model_id).expanduser()
    if name == "tiny":
        if not (paths.MODELS / "tiny" / "model.safetensors").is_file():
            raise CheckpointError(f"{paths.MODELS / 'tiny'}: not here; restore it from git, or `make train-tiny`")
        return paths.MODELS / "tiny", None
    if local.is_dir():
        if settings.trust_remote_code:
            raise CheckpointError(
                f"{local}: trust_remote_code=True holds for a Hub repository at a pinned commit, not for a folder, "
                f"whose code anybody may have changed; give the repository's id"
            )
        return local, None
    if not re.fullmatch(r"\w[\w.-]*/[\w.-]+", name):
        raise CheckpointError(
            f"model_id={name!r}: no such folder, and not a Hub id of the form owner/name; "
            f"use 'tiny', a folder with config.json and *.safetensors, or e.g. 'Qwen/Qwen2-VL-2B-Instruct'"
        )
    return _from_hub(name, settings.revision, [*_FILES, "*.py"] if settings.trust_remote_code else _FILES)


def _from_hub(model_id: str, revision: str | None, files: list[str]) -> tuple[Path, str]:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    # One that is pinned or asked for offline does not need the Hub.
    here = _cached(model_id, revision, files)
    if here and (os.environ.get("HF_HUB_OFFLINE") == "1" or re.fullmatch(r"[0-9a-f]{40}", revision or "")):
        return here, here.name
    unreachable: tuple[type[Exception], ...] = (OSError, *transport_errors())
    try:
        info = HfApi().model_info(model_id, revision=revision, timeout=10)
        _refuse_pickles([s.rfilename for s in info.siblings or []], model_id)
        print(f"{model_id}: taking {info.sha} from the Hub, or from its cache here", flush=True)
        return Path(snapshot_download(model_id, revision=info.sha, allow_patterns=files)), str(info.sha)
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise CheckpointError(
            f"model_id={model_id!r}, revision={revision!r}: the Hub has no such model or revision "
            f"({str(error).splitlines()[0]}); check the spelling, or log in for a gated model"
        ) from error
    except unreachable as error:
        if here:
            return here, here.name
        raise CheckpointError(
            f"model_id={model_id!r} is not in the local cache and the Hub cannot be reached "
            f"({type(error).__name__}); go online once (unset HF_HUB_OFFLINE), give a local folder, "
            f"or use weights='dummy' for speed and memory only"
        ) from error


def _cached(model_id: str, revision: str | None, files: list[str]) -> Path | None:
    """Return the model's folder in the Hub's cache, where it holds weights."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    with suppress(LocalEntryNotFoundError):
        here = Path(snapshot_download(model_id, revision=revision, allow_patterns=files, local_files_only=True))
        return here if any(here.glob("*.safetensors")) else None
    return None


def _dummy(settings: Settings) -> Checkpoint:
    known = CONFIGS / f"{settings.model_id.split('/')[-1]}.json"
    if settings.model_id == "tiny" or Path(settings.model_id).expanduser().is_dir():
        folder, _ = _folder(settings)
        config = _config(folder)
    elif known.is_file():
        folder, config = CONFIGS, json.loads(known.read_text(encoding="utf-8"))
    else:
        raise CheckpointError(
            f"model_id={settings.model_id!r} with weights='dummy': the package has the shapes of "
            f"{', '.join(sorted(p.stem for p in CONFIGS.glob('*.json')))}; give one of these or a folder"
        )
    _refuse_config(config, settings)
    return Checkpoint(settings.model_id, folder, config, "dummy", True)


def _config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder}: no config.json, so not a model folder; give the one that holds it") from error
    except ValueError as error:
        raise CheckpointError(f"{file}: not JSON ({error}); download the model again") from error


def _refuse_elsewhere(key: str, value: str | None, model_id: str) -> None:
    for known in yaml.safe_load((Path(__file__).parent / "elsewhere.yaml").read_text(encoding="utf-8")):
        if known[key] == value:
            reason = f"{known['reason']} ({known['reference']})"
            raise CheckpointError(f"{model_id}: cannot be read in this process: {reason}; {known['instead']}")


def _refuse_config(config: dict[str, Any], settings: Settings) -> None:
    known = ", ".join(FAMILIES)
    family = FAMILIES.get(config.get("model_type", ""))
    ignored = settings.weights == "dummy" or (family is not None and family.code_ignored)
    if "auto_map" in config and not ignored and not settings.trust_remote_code:
        raise CheckpointError(
            f"{settings.model_id}: its config asks to run Python code from its repository (auto_map), which is not "
            f"allowed; use a model that transformers carries itself ({known}), or trust one commit of it: "
            f"trust_remote_code=True with its full hash as revision"
        )
    if family is None:
        raise CheckpointError(
            f"{settings.model_id}: model_type {config.get('model_type')!r} is not one that the reader knows "
            f"({known}); serve it with vLLM, llama.cpp or Ollama and give model_id='endpoint:http://127.0.0.1:8000/v1#NAME'"
        )


def _refuse_pickles(names: list[str], model_id: str) -> None:
    if not any(name.endswith(".safetensors") for name in names):
        pickles = sorted(n for n in names if n.endswith((".bin", ".pt", ".pth", ".ckpt")))
        found = f"only pickle weights ({pickles[0]}), which can run code" if pickles else "no weights"
        raise CheckpointError(f"{model_id}: it has {found}; use a repository with *.safetensors, or convert it")


def _weights_sha256(folder: Path) -> str:
    """Return one sha256 over the names, sizes and times of large weight files, or the bytes of small ones."""
    files = sorted(folder.glob("*.safetensors"))
    return _sha256(tuple((file, file.stat().st_size, file.stat().st_mtime_ns) for file in files))


@lru_cache(maxsize=16)
def _sha256(files: tuple[tuple[Path, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for file, size, modified in files:
        digest.update(file.name.encode())
        digest.update(file.read_bytes() if size < 100_000_000 else f"{size}/{modified}".encode())
    return digest.hexdigest()
