"""Page sets of the Hub: from a cache in its layout, and from a server on this computer that answers as it does."""

from __future__ import annotations

import base64
import io
import json
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import huggingface_hub.constants as constants
import pandas as pd
import pytest
from PIL import Image

from ocrlab import paths
from ocrlab.commands.cli import main
from ocrlab.commands.reproduce import reproduce
from ocrlab.pages import PageError, load_pages
from ocrlab.pages.hub import fetch_sets, known_sets
from tests.notebooks import cell, write

COMMIT = "7f0115a4b758a71d6473b8d085751692da2fef98"
CARD = b"---\nlicense: cc-by-4.0\nlanguage:\n- en\n- ru\n---\n# Some pages\n"
Files = dict[str, bytes]


def png(shade: int) -> bytes:
    drawn = io.BytesIO()
    Image.new("L", (40, 30), shade).save(drawn, "PNG")
    return drawn.getvalue()


def parquet(rows: list[dict]) -> bytes:
    pa = pytest.importorskip("pyarrow", reason="make setup TEST=1 installs it")
    import pyarrow.parquet

    written = io.BytesIO()
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), written)
    return written.getvalue()


def rows(first: int, count: int = 3) -> list[dict]:
    return [{"image": {"bytes": png(n), "path": f"{n}.png"}, "text": f"page {n}"} for n in range(first, first + count)]


def tsv(**columns: list) -> bytes:
    return pd.DataFrame(columns).to_csv(sep="\t", index=False).encode()


def shot(shade: int) -> str:
    return base64.b64encode(png(shade)).decode()


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Files], str]:
    """Give a function that puts a set into a cache in the Hub's layout, offline, and returns the set's source."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(paths, "BUILD", tmp_path / "build")

    def put(files: Files, repo: str = "owner/name") -> str:
        place = tmp_path / "cache" / f"datasets--{repo.replace('/', '--')}"
        (place / "refs").mkdir(parents=True)
        (place / "refs" / "main").write_text(COMMIT, encoding="utf-8")
        for name, data in files.items():
            file = place / "snapshots" / COMMIT / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        return f"hub:{repo}"

    return put


def test_parquet_of_two_splits(cached: Callable[[Files], str], capsys: pytest.CaptureFixture[str]) -> None:
    files = {
        "data/train-00000-of-00001.parquet": parquet(rows(100)),
        "data/test-00000-of-00001.parquet": parquet(rows(0)),
    }
    source = cached({**files, "README.md": CARD})
    pages = load_pages(source)
    assert [page.truth for page in pages] == ["page 0", "page 1", "page 2"]
    assert [page.id for page in pages] == [f"data/test-00000-of-00001.parquet#{n}" for n in range(3)]
    assert {(p.set, p.truth_source, p.licence) for p in pages} == {(f"hub:owner/name@{COMMIT}", "hub", "cc-by-4.0")}
    assert pages[1].open().getpixel((0, 0)) == (1, 1, 1) and pages[1].file.stem == pages[1].sha256
    assert "split test" in (said := capsys.readouterr().out) and "image and truth guessed" in said
    assert [page.truth for page in load_pages(f"{source}?split=train&limit=2")] == ["page 100", "page 101"]
    assert [page.truth for page in load_pages(f"{source}?limit=3", limit=1)] == ["page 0"]
    assert [page.sha256 for page in load_pages(f"{source}?revision={COMMIT}")] == [page.sha256 for page in pages]


def test_tsv_with_base64(cached: Callable[[Files], str]) -> None:
    truths = ["Счёт № 7\nитого", '"quoted"\ttab']
    table = tsv(index=[1, 2], image=[shot(1), shot(2)], question=["Read.", "Read."], answer=truths)
    pages = load_pages(cached({"russian/Russian_150.tsv": table}))
    assert [page.truth for page in pages] == truths
    assert [page.open().getpixel((0, 0))[0] for page in pages] == [1, 2]


def test_json_names_images_of_the_set_and_blocks_have_an_order(cached: Callable[[Files], str]) -> None:
    blocks = [{"order": 2, "text": "below"}, {"order": 1, "text": "above"}, {"order": 3, "latex": "x^2"}]
    table = [{"page_info": {"image_path": "a.png"}, "layout_dets": blocks}]
    cached({"OmniDocBench.json": json.dumps(table).encode(), "images/a.png": png(9)}, repo="opendatalab/OmniDocBench")
    (page,) = load_pages("hub:omnidocbench")
    assert page.truth == "above\nbelow" and page.open().getpixel((0, 0)) == (9, 9, 9)


def test_truth_inside_json_by_its_path(cached: Callable[[Files], str]) -> None:
    lines = [{"words": [{"text": "2"}, {"text": "tea"}]}, {"words": [{"text": "4.00"}]}]
    row = {"image": shot(1), "ground_truth": json.dumps({"gt_parse": {}, "valid_line": lines})}
    cached({"data/test.jsonl": json.dumps(row).encode()}, repo="naver-clova-ix/cord-v2")
    assert [page.truth for page in load_pages("hub:cord")] == ["2 tea\n4.00"]
    assert load_pages("hub:naver-clova-ix/cord-v2")[0].licence == "cc-by-4.0", "its columns are known by its id too"
    assert load_pages("hub:cord?truth=none")[0].truth is None


def test_rows_are_kept_by_the_value_of_a_column(cached: Callable[[Files], str]) -> None:
    kinds = ["reasoning VQA ru", "full-page OCR ru"]
    table = [{"image": shot(n), "type": kind, "answers": [f"text {n}"]} for n, kind in enumerate(kinds)]
    lines = "\n".join(map(json.dumps, table)).encode()
    cached({"data/validation.jsonl": lines}, repo="MTSAIR/MWS-Vision-Bench")
    (page,) = load_pages("hub:mws-vision-bench")
    assert page.truth == "text 1" and page.language == "ru"
    with pytest.raises(PageError, match="where= keeps"):
        load_pages("hub:mws-vision-bench?where=type=no such")


def test_images_as_files_have_the_truth_beside(
    cached: Callable[[Files], str], capsys: pytest.CaptureFixture[str]
) -> None:
    source = cached({"scans/p10.png": png(1), "scans/p2.png": png(2), "scans/p2.gt.txt": b"two", "README.md": CARD,
                     "scans/p10.facts.jsonl": b'{"present": "ten"}'})  # fmt: skip
    pages = load_pages(source)
    assert pages[1].facts == ({"present": "ten"},)
    assert main(["truth", source]) == 0
    said = capsys.readouterr().out
    assert "1 page: truth in a set of the Hub (scans/p2.png)" in said and "1 page: facts, and no truth" in said
    assert [(page.id, page.truth, page.truth_source) for page in pages] == [
        ("scans/p2.png", "two", "hub"),
        ("scans/p10.png", None, ""),
    ]


def test_a_row_without_an_image_costs_that_row(cached: Callable[[Files], str]) -> None:
    table = tsv(image=[shot(1), "no image"], text=["one", "two"])
    good, bad = load_pages(cached({"test.tsv": table}))
    assert not good.problem and bad.refused and "no image in image" in bad.problem


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("?image=scan", "image: no column scan; give image=COLUMN .* there are image, text"),
        ("?truth=ocr.0", "truth: no column ocr.0; give truth=COLUMN .* there are image, text"),
        ("?where=kind=a", "where= keeps"),
        ("?split=dev", "no table or image of split=dev"),
        ("?files=*.parquet", r"files=\*.parquet; it has test.tsv"),
        ("?limit=0", "limit=0; give a whole number"),
        ("?colour=red", "unknown colour; there is split, image, truth"),
        ("?revision=v2", "HF_HUB_OFFLINE=0 ocrlab read 'hub:owner/name.revision=v2' --dry-run"),
    ],
)
def test_what_is_asked_for_in_vain(cached: Callable[[Files], str], query: str, message: str) -> None:
    source = cached({"test.tsv": tsv(image=[shot(1)], text=["one"])})
    with pytest.raises(PageError, match=message):
        load_pages(source + query)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"left": [shot(1)], "right": [shot(2)], "text": ["a"]}, "image: left or right. give image=COLUMN"),
        (
            {"image": [shot(1)], "text": ["a"], "markdown": ["# a"]},
            "truth: text or markdown. give .*, or truth=none",
        ),
        (
            {"image": [shot(1)], "ground_truth": ['{"a": "b"}']},
            "truth: none looks like it. .* image, ground_truth",
        ),
        ({"question": ["?"], "text": ["a"]}, "image: none looks like it."),
    ],
)
def test_an_unsure_guess_is_asked_back(cached: Callable[[Files], str], columns: dict, message: str) -> None:
    with pytest.raises(PageError, match=message):
        load_pages(cached({"test.tsv": tsv(**columns)}))


def test_parquet_without_pyarrow(cached: Callable[[Files], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(PageError, match=r"pip install 'ocrlab\[hub\]'"):
        load_pages(cached({"data/test-00000-of-00001.parquet": b""}))


def test_not_fetched_and_offline(cached: Callable[[Files], str]) -> None:
    with pytest.raises(PageError, match="HF_HUB_OFFLINE=0 ocrlab read 'hub:owner/absent' --dry-run"):
        load_pages("hub:owner/absent")
    with pytest.raises(PageError, match="give hub:owner/name, or one of hub:cord"):
        load_pages("hub:neither")


def test_known_sets_say_that_they_are_not_tried() -> None:
    for known in known_sets().values():
        assert known["mark"] == "as its card says; not tried here" and known["repo"].count("/") == 1


@dataclass
class Hub:
    """A server that answers as the Hub does; `asked` are the files that were sent."""

    address: str
    files: Files = field(default_factory=dict)
    refusal: tuple[int, str] | None = None
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            if served.refusal and (served.refusal[0] == 404 or "/resolve/" in path):
                self._send(served.refusal[0], b"{}", {"X-Error-Code": served.refusal[1]})
            elif "/tree/" in path:
                listed = [{"type": "file", "path": p, "size": len(d), "oid": p} for p, d in served.files.items()]
                self._send(200, json.dumps(listed).encode())
            elif "/resolve/" in path:
                name = path.partition(f"/resolve/{COMMIT}/")[2]
                served.asked += [name] if self.command == "GET" else []
                self._send(200, served.files[name], {"ETag": f'"{name}"', "X-Repo-Commit": COMMIT})
            else:
                self._send(200, json.dumps({"id": "owner/name", "sha": COMMIT, "siblings": []}).encode())

        do_HEAD = do_GET

        def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served = Hub(f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", served.address)
    files = served.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(paths, "BUILD", tmp_path / "build")
    yield served
    server.shutdown()
    server.server_close()


def shards(count: int = 3) -> Files:
    table = {
        n: tsv(image=[shot(2 * n), shot(2 * n + 1)], text=[f"page {2 * n}", f"page {2 * n + 1}"]) for n in range(count)
    }
    return {f"data/test-{n:05d}-of-{count:05d}.tsv": data for n, data in table.items()} | {"README.md": CARD}


def test_only_the_files_that_the_limit_needs_are_fetched(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.files = shards()
    monkeypatch.setattr("ocrlab.pages.hub._SAID_BYTES", 0)
    assert len(load_pages("hub:owner/name?limit=3")) == 3
    assert hub.asked == ["README.md", "data/test-00000-of-00003.tsv", "data/test-00001-of-00003.tsv"]
    assert "split test, 3 files" in (said := capsys.readouterr().out) and "fetching data/test-00001" in said
    # Offline what was fetched is read, pinned to the same commit, and what was not is named with its remedy.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert [page.truth for page in load_pages("hub:owner/name?limit=4")] == [f"page {n}" for n in range(4)]
    with pytest.raises(PageError, match=r"HF_HUB_OFFLINE=0 ocrlab read 'hub:owner/name.limit=5' --dry-run"):
        load_pages("hub:owner/name?limit=5")
    assert len(hub.asked) == 3


def test_a_gated_set_says_where_its_conditions_are(hub: Hub) -> None:
    hub.files, hub.refusal = shards(), (403, "GatedRepo")
    with pytest.raises(PageError, match=r"gated; accept .*datasets/owner/name, then `hf auth login`"):
        load_pages("hub:owner/name")


def test_no_such_set_on_the_hub(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.refusal = (404, "RepoNotFound")
    assert main(["read", "hub:owner/missing"]) == 2
    assert "the Hub has no such set or revision; check the spelling" in capsys.readouterr().err


def test_the_hub_cannot_be_reached(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(PageError, match=r"cannot be read .* --dry-run"):
        load_pages("hub:owner/name")


def test_parameters_sets_are_fetched_before_notebooks_read_the_cache(hub: Hub) -> None:
    hub.files = shards()
    fetch_sets(["lines", 3, ["documents", "hub:owner/name?limit=1"], "hub:owner/name?limit=1"])
    assert hub.asked == ["README.md", "data/test-00000-of-00003.tsv"]


def test_reproduce_fetches_before_its_notebooks_which_are_offline(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.files = shards()
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    look = "import os; from ocrlab.pages import load_pages; print([p.truth for p in load_pages(page_set)])"
    cells = ["# Which?", cell('page_set = "lines"', "parameters"), cell(look + "; print(os.environ['HF_HUB_OFFLINE'])")]
    write(tmp_path / "which.ipynb", *cells)
    (tmp_path / "experiments.yaml").write_text("which:\n  cell_timeout_s: 60\n", encoding="utf-8")
    places = {"notebooks": tmp_path, "experiments": tmp_path / "experiments.yaml", "results": tmp_path / "results"}
    asked = "page_set=hub:owner/name?split=test&limit=2"
    assert reproduce("cpu", params=asked, run="one", **places) == 0
    ran = (tmp_path / "results" / "one" / "notebooks" / "which.ipynb").read_text(encoding="utf-8")
    assert "['page 0', 'page 1']\\n" in ran and "up to 2 pages" in ran
    hub.refusal = (404, "RepoNotFound")
    with pytest.raises(PageError, match="no such set"):
        reproduce("cpu", params="page_set=hub:owner/missing", run="two", **places)
    assert not (tmp_path / "results" / "two").exists(), "nothing has run"


def test_texts_of_a_set_are_written_by_row(
    cached: Callable[[Files], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = load_pages("lines", limit=1)[0]
    image = base64.b64encode(line.file.read_bytes()).decode()
    source = cached({"data/test.tsv": tsv(image=[image], text=[line.truth])})
    assert main(["read", source, "--out", str(tmp_path / "out"), "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["set"] == f"hub:owner/name@{COMMIT}"
    assert "truth: text" in printed.err
    record = json.loads((tmp_path / "out" / "readings.jsonl").read_text(encoding="utf-8"))
    assert (record["set"], record["truth_source"]) == (f"hub:owner/name@{COMMIT}", "hub")
    assert (tmp_path / "out" / "data" / "test.tsv#0.txt").is_file()
