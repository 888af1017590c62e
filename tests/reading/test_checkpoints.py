"""Where models come from, and which are refused. The Hub is a server on loopback that answers as the Hub does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml

from ocrlab.pages import load_pages
from ocrlab.reading.checkpoints import CheckpointError, locate
from ocrlab.reading.family import CONFIGS
from ocrlab.reading.reader import open_reader
from ocrlab.reading.settings import Settings
from tests.conftest import edit_json


def refusal(**values: object) -> str:
    with pytest.raises(CheckpointError) as caught:
        locate(Settings(**values))  # type: ignore[arg-type]
    return str(caught.value)


def test_embedded_reader_is_pinned_by_its_weights() -> None:
    found = locate(Settings())
    assert found.revision.startswith("sha256:")
    assert found.config["model_type"] == "qwen2_vl"


def test_cached_model_is_found_offline_with_its_commit(hub_cache: str) -> None:
    found = locate(Settings(model_id="Qwen/Qwen2-VL-2B-Instruct"))
    assert found.revision == hub_cache
    assert locate(Settings(model_id="Qwen/Qwen2-VL-2B-Instruct", revision=hub_cache)).folder == found.folder


def test_no_such_folder_or_id() -> None:
    assert "no such folder" in refusal(model_id="/no/such/folder")
    assert "no such folder" in refusal(model_id="just-a-name")


def test_folder_without_config(tmp_path: Path) -> None:
    assert "no config.json" in refusal(model_id=str(tmp_path))


def test_pickle_weights_only_are_refused(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
    assert "only pickle weights (pytorch_model.bin)" in refusal(model_id=str(checkpoint))


def test_remote_code_is_refused(checkpoint: Path) -> None:
    edit_json(checkpoint / "config.json", lambda c: c | {"auto_map": {"AutoModel": "evil.Model"}})
    assert "auto_map" in refusal(model_id=str(checkpoint))


def test_other_families_are_refused(checkpoint: Path) -> None:
    edit_json(checkpoint / "config.json", lambda c: c | {"model_type": "llava"})
    assert "'llava'" in refusal(model_id=str(checkpoint))


def test_broken_config_names_the_file(checkpoint: Path) -> None:
    (checkpoint / "config.json").write_text("{", encoding="utf-8")
    assert "config.json: not JSON" in refusal(model_id=str(checkpoint))


def test_dummy_shapes_need_no_download() -> None:
    found = locate(Settings(model_id="Qwen/Qwen2-VL-2B-Instruct", weights="dummy"))
    assert found.dummy and found.config["text_config"]["hidden_size"] == 1536
    assert "the package has the shapes of" in refusal(model_id="Qwen/Unknown", weights="dummy")


SOURCES = yaml.safe_load((CONFIGS / "sources.yaml").read_text(encoding="utf-8"))


def test_every_config_names_its_source() -> None:
    released = {file.stem for file in CONFIGS.glob("*.json") if not file.stem.startswith("small-")}
    assert set(SOURCES) == released, "a small- one is made up here"
    assert all(one["id"].endswith(f"/{name}") and one["source"] for name, one in SOURCES.items())


@pytest.mark.parametrize("name", SOURCES)
def test_configs_have_the_published_parameter_counts(name: str) -> None:
    """Less what transformers does not load of the published files."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    config = AutoConfig.for_model(**json.loads((CONFIGS / f"{name}.json").read_text(encoding="utf-8")))
    with torch.device("meta"):
        built = AutoModelForImageTextToText.from_config(config)
    one = SOURCES[name]
    assert sum(p.numel() for p in built.parameters()) == one["parameters"] - one.get("not_loaded", 0)
    assert type(built).__name__ in config.architectures


class _Hub(BaseHTTPRequestHandler):
    """Answers model_info for one repository with pickles only; anything else is not found."""

    def do_GET(self) -> None:
        found = "/models/owner/pickled" in self.path
        self.send_response(200 if found else 404)
        if not found:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        body = {"id": "owner/pickled", "sha": "0" * 40, "siblings": [{"rfilename": "pytorch_model.bin"}]}
        self.wfile.write(json.dumps(body if found else {"error": "Repository not found"}).encode())

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HTTPServer]:
    import huggingface_hub.constants as constants

    server = HTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    yield server
    server.shutdown()
    server.server_close()


def test_unknown_id_on_the_hub(hub_server: HTTPServer) -> None:
    assert "no such model or revision" in refusal(model_id="owner/missing")


def test_pickles_on_the_hub_are_refused_before_download(hub_server: HTTPServer) -> None:
    assert "only pickle weights" in refusal(model_id="owner/pickled")


def test_no_network_says_how_to_go_on(hub_server: HTTPServer) -> None:
    hub_server.shutdown()
    hub_server.server_close()
    message = refusal(model_id="owner/unreachable")
    assert "cannot be reached" in message and "weights='dummy'" in message


def test_offline_and_not_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "not in the local cache" in refusal(model_id="Qwen/Qwen2-VL-2B-Instruct")


def test_a_missing_weight_is_refused_and_not_made_up(checkpoint: Path) -> None:
    from safetensors.torch import load, save_file

    from ocrlab.reading.reader import open_reader

    weights = load((checkpoint / "model.safetensors").read_bytes())  # Windows keeps a mapped file as it is
    del weights[next(name for name in weights if name.endswith("mlp.down_proj.weight"))]
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 weights .*mlp\.down_proj\.weight first"):
        open_reader(Settings(model_id=str(checkpoint)))


@pytest.mark.parametrize(
    "spelling",
    [{"min_pixels": 4096, "max_pixels": 32768}, {"size": {"shortest_edge": 4096, "longest_edge": 32768}}],
    ids=["old", "new"],
)
def test_pixel_limits_of_a_checkpoint_arrive_in_either_spelling(checkpoint: Path, spelling: dict) -> None:
    file = checkpoint / "preprocessor_config.json"
    own = {k: v for k, v in json.loads(file.read_text()).items() if k not in {"size", "min_pixels", "max_pixels"}}
    file.write_text(json.dumps(own | spelling))
    with open_reader(Settings(model_id=str(checkpoint))) as reader:
        assert (reader.actual["actual_min_pixels"], reader.actual["actual_max_pixels"]) == (4096, 32768)
        page = load_pages("labels", limit=1)[0]
        assert reader.read(page).image_tokens <= 32768 // reader.builder.cell_pixels


def test_a_tied_head_that_only_the_texts_config_names_is_read_right_or_refused(checkpoint: Path) -> None:
    file = checkpoint / "config.json"
    own = json.loads(file.read_text())
    assert own.pop("tie_word_embeddings") is True
    own["text_config"]["tie_word_embeddings"] = True
    page = load_pages("lines", limit=1)[0]
    with open_reader(Settings()) as reader:
        right = reader.read(page).text
    file.write_text(json.dumps(own))
    try:
        with open_reader(Settings(model_id=str(checkpoint))) as reader:
            assert reader.read(page).text == right, "a head of random values was made up"
    except CheckpointError as error:
        assert "weights of the model are not in its files" in str(error)
