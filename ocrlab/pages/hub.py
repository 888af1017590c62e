"""Page sets of the Hugging Face Hub: the files that so many pages need are fetched, and pinned by their commit."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qsl

import yaml

from ocrlab import paths
from ocrlab.pages import files
from ocrlab.pages.images import SEVERAL, SUFFIXES, PageError, begins_as
from ocrlab.pages.page import Page
from ocrlab.pages.truth import names_beside

#: Begins a source: `hub:owner/name?split=test&image=image&truth=text&limit=60`, or `hub:NAME` of hub_sets.yaml. More
#: options: `revision`, `files` (a pattern), `where` (`column=value`). `column.key` goes into JSON and lists.
HUB = "hub:"
#: Pages where no limit is given, so that nobody fetches a whole set by accident.
LIMIT = 200

_OPTIONS = ("split", "image", "truth", "limit", "revision", "files", "where")
_SPLITS = ("test", "validation", "val", "dev", "train")
_TRUTHS = ("text", "ocr_text", "full_text", "transcription", "transcript", "ground_truth", "gt", "answer", "markdown")
_NO_TABLES = ("dataset_infos.json", ".facts.jsonl")
_SAID_BYTES = 5_000_000  # a smaller file is fetched without a word
_Row = dict[Any, Any]


@dataclass
class _Set:
    """One set at one commit: what was asked for (`options`), and each file's bytes."""

    source: str
    repo: str
    commit: str
    options: dict[str, str]
    sizes: dict[str, int]

    def fetch(self, path: str) -> Path:
        """Return a file of the set in the Hub's cache."""
        from huggingface_hub import hf_hub_download, try_to_load_from_cache

        pinned: dict[str, Any] = {"repo_type": "dataset", "revision": self.commit}
        if self.sizes[path] >= _SAID_BYTES and not try_to_load_from_cache(self.repo, path, **pinned):
            print(f"{self.repo}: fetching {path}, {self.sizes[path] / 1e6:,.0f} MB", flush=True)
        return Path(hf_hub_download(self.repo, path, **pinned))

    @cached_property
    def card(self) -> dict[str, str]:
        """What the set's card says of its language and licence, where hub_sets.yaml does not."""
        text = self.fetch("README.md").read_text(encoding="utf-8") if "README.md" in self.sizes else ""
        head = re.match(r"---\n(.*?\n)---", text, re.DOTALL)
        said = (yaml.safe_load(head[1]) if head else None) or {}
        found = {"language": said.get("language"), "licence": said.get("license")}
        return {name: self.options.get(name) or (one if isinstance(one, str) else "") for name, one in found.items()}


def hub_pages(source: str, limit: int | None = None) -> list[Page]:
    """Return the first pages of a set on the Hub, from its cache where they are there; prints which files and columns.

    At most `limit` and the source's own limit, else 200. An image inside a table is written to `build/hub`, named by
    its sha256.

    Raises:
        PageError: no such set, column or split, a gated set, one that is not in the cache while offline.
    """
    repo, options = _parsed(source)
    most = min(int(options["limit"]), limit or 10**9) if "limit" in options else limit or LIMIT
    with _hub(source, repo):
        found = _open(source, repo, options)
        split, chosen = _chosen(found)
        size = sum(found.sizes[path] for path in chosen) / 1e6
        print(f"{source}: commit {found.commit[:12]}, {split}{len(chosen)} files, {size:,.1f} MB; up to {most} pages")
        whole = chosen[0].lower().endswith(files.LISTED)
        pages = _whole_files(found, chosen, most) if whole else list(islice(_rows(found, chosen), most))
        about: dict[str, Any] = {"set": f"{HUB}{repo}@{found.commit}", **found.card}
    if not pages:
        raise PageError(f"{source}: no page here; of its rows, where= keeps those with that value in that column")
    return [replace(page, **about, truth_source="" if page.truth is None else "hub") for page in pages]


def fetch_sets(values: Iterable[Any]) -> None:
    """Fetch each set of the Hub that notebooks' parameters name, for those read the cache alone."""
    listed = [one for value in values for one in (value if isinstance(value, list) else [value])]
    for source in dict.fromkeys(one for one in listed if isinstance(one, str) and one.startswith(HUB)):
        hub_pages(source)


def known_sets() -> dict[str, dict[str, str]]:
    """Return the sets of `hub_sets.yaml` by name: what their cards say, as options of a source."""
    return dict(yaml.safe_load(Path(__file__).with_name("hub_sets.yaml").read_text("utf-8")))


def _parsed(source: str) -> tuple[str, dict[str, str]]:
    name, _, query = source.removeprefix(HUB).partition("?")
    sets = known_sets()
    known = sets.get(name, next((one for one in sets.values() if one["repo"] == name), {}))
    given = dict(parse_qsl(query, keep_blank_values=True))
    if unknown := sorted(set(given) - set(_OPTIONS)):
        raise PageError(f"{source}: unknown {', '.join(unknown)}; there is {', '.join(_OPTIONS)}")
    if not re.fullmatch(r"[1-9]\d*", given.get("limit", "1")):
        raise PageError(f"{source}: limit={given['limit']}; give a whole number of pages from 1 on")
    if not known and not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise PageError(f"{source}: give hub:owner/name, or one of {', '.join(HUB + one for one in sets)}")
    return known.get("repo", name), known | given


def _open(source: str, repo: str, options: dict[str, str]) -> _Set:
    """Return the set at the commit that its revision names now, or named when it was fetched."""
    from huggingface_hub import HfApi, constants, get_cached_repo_tree, snapshot_download
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    named: dict[str, Any] = {"revision": options.get("revision"), "local_files_only": constants.HF_HUB_OFFLINE}
    commit = HfApi().resolve_revision(repo, repo_type="dataset", **named).resolved
    folder = Path(snapshot_download(repo, repo_type="dataset", revision=commit, allow_patterns="README.md"))
    try:
        listed = get_cached_repo_tree(repo, repo_type="dataset", revision=commit)
        sizes = {file.path: file.size for file in listed}
    except CachedRepoTreeNotFoundError:  # a cache that another client filled
        here = (file for file in folder.rglob("*") if file.is_file())
        sizes = {file.relative_to(folder).as_posix(): file.stat().st_size for file in here}
    return _Set(source, repo, commit, options, sizes)


def _chosen(found: _Set) -> tuple[str, list[str]]:
    """Return which split was taken, in words, and its files in order: tables, or else images and PDFs."""
    pattern, split = found.options.get("files", "*"), found.options.get("split")
    named = sorted((path for path in found.sizes if fnmatch(path, pattern)), key=files.natural)
    for suffixes in (*((".parquet",), (".tsv", ".csv"), (".jsonl", ".json")), files.LISTED):
        listed = [path for path in named if path.lower().endswith(suffixes) and not path.endswith(_NO_TABLES)]
        for one in [split] if split else _SPLITS:
            word = re.compile(rf"(?<![a-z0-9]){re.escape(one)}(?![a-z0-9])", re.IGNORECASE)
            if some := list(filter(word.search, listed)):
                return f"split {one}, ", some
        if listed and not split:
            return "", listed
    here = ", ".join((named or sorted(found.sizes))[:8])
    raise PageError(f"{found.source}: no table or image of split={split}, files={pattern}; it has {here}, …")


def _whole_files(found: _Set, chosen: list[str], most: int) -> list[Page]:
    """Return the pages of a set's image files and PDFs, with the truths beside them."""
    here = []
    for path in map(PurePosixPath, chosen[:most]):
        beside = (str(path.parent / name) for name in names_beside(path.stem))
        for name in filter(found.sizes.__contains__, beside):
            found.fetch(name)
        here.append(found.fetch(str(path)))
    depth = len(PurePosixPath(chosen[0]).parts)
    return files.as_pages(here, here[0].parents[depth - 1], limit=most)


def _rows(found: _Set, chosen: list[str]) -> Iterator[Page]:
    columns: tuple[str, str] | None = None
    column, _, wanted = found.options.get("where", "").partition("=")
    for path in chosen:
        for number, row in enumerate(_TABLES[PurePosixPath(path).suffix.lower()](found.fetch(path))):
            columns = columns or _columns(found, row)
            if not column or str(_at(row, column)) == wanted:
                yield from _page(found, f"{path}#{number}", row, *columns)


def _columns(found: _Set, row: _Row) -> tuple[str, str]:
    """Return the paths of image and truth in a row, given or guessed, after saying which."""
    images = [name for name, value in row.items() if _looks_like_image(value)]
    image = _column(found, row, "image", ["image"] if "image" in images else images)
    texts = [name for name in _TRUTHS if isinstance(row.get(name), str) and not row[name].lstrip().startswith("{")]
    truth = _column(found, row, "truth", texts)
    guessed = " and ".join(name for name in ("image", "truth") if name not in found.options)
    said = f"{guessed} guessed" if guessed else found.options.get("mark", "as given")
    print(f"  image: {image}; truth: {truth} ({said}); licence: {found.card['licence'] or 'not on its card'}")
    return image, truth


def _column(found: _Set, row: _Row, what: str, likely: Sequence[str]) -> str:
    path = found.options.get(what) or (likely[0] if len(likely) == 1 else "")
    if path.partition(".")[0] in row or (what, path) == ("truth", "none"):
        return path
    why = f"no column {path};" if path else f"{' or '.join(likely) or 'none looks like it'}?"
    remedy = f"give {what}=COLUMN or COLUMN.KEY" + (", or truth=none to read without" if what == "truth" else "")
    raise PageError(f"{found.source}: {what}: {why} {remedy}; there are {', '.join(row)}")


def _looks_like_image(value: Any) -> bool:
    if isinstance(value, str):
        return value.lower().endswith(SUFFIXES) or bool(begins_as(_decoded(value[:64])))
    return isinstance(value, bytes) or (isinstance(value, dict) and {"bytes", "path"} <= set(value))


def _at(value: Any, path: str) -> Any:
    """Return what lies at `column.key.key`: lists are gone through, a number takes one of a list, JSON is opened."""
    for place, key in enumerate(keys := path.split(".")):
        if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
            value = json.loads(value)
        if isinstance(value, list) and not key.isdigit():
            ordered = all(isinstance(one, dict) and isinstance(one.get("order"), int) for one in value)
            some = sorted(value, key=lambda one: one["order"]) if ordered else value
            return [_at(one, ".".join(keys[place:])) for one in some]
        value = {str(n): one for n, one in enumerate(value)} if isinstance(value, list) else value
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _text(value: Any, between: str = "\n") -> str | None:
    """Return a truth's text: the outer list's parts on lines of their own, the inner lists' with spaces."""
    if isinstance(value, list):
        return between.join(filter(None, (_text(one, " ") for one in value))) or None
    return None if value is None else str(value).replace("\r\n", "\n").rstrip()


def _page(found: _Set, name: str, row: _Row, image: str, truth: str) -> list[Page]:
    text, page = None if truth == "none" else _text(_at(row, truth)), Page(name, Path(name), "", "")
    data = _bytes(found, _at(row, image))
    if not data:
        problem = f"{found.source}: {name}: no image in {image}; leave the row out with where=, or give another column"
        return [replace(page, problem=problem, refused=True)]
    kind, sha256 = begins_as(data[:1024]), hashlib.sha256(data).hexdigest()
    file = paths.BUILD / "hub" / found.repo.replace("/", "--") / f"{sha256}.{kind.lower() or 'unknown'}"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        paths.write_whole(file, data)
    page = replace(page, file=file, sha256=sha256, truth=text)
    return files.parts_of(page) if kind in SEVERAL else [page]


def _bytes(found: _Set, value: Any) -> bytes:
    """Return an image's bytes from a table's cell: bytes, a struct of bytes and path, a file of the set, base64."""
    if isinstance(value, dict):
        return value.get("bytes") or _bytes(found, value.get("path"))
    if isinstance(value, str) and value.lower().endswith(files.LISTED):
        path = next((path for path in found.sizes if f"/{path}".endswith(f"/{value}")), None)
        return found.fetch(path).read_bytes() if path else b""
    return value if isinstance(value, bytes) else _decoded(value) if isinstance(value, str) else b""


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text.partition("base64,")[2] or text, validate=True)
    except ValueError:
        return b""


def _parquet(file: Path) -> Iterator[_Row]:
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise PageError(f"{file.name}: parquet needs pyarrow: pip install 'ocrlab[hub]'") from error
    with ParquetFile(file) as table:
        for batch in table.iter_batches(batch_size=16):
            yield from batch.to_pylist()


def _separated(file: Path) -> Iterator[_Row]:
    import pandas as pd

    between = "\t" if file.suffix.lower() == ".tsv" else ","
    with pd.read_csv(file, sep=between, dtype=str, keep_default_na=False, chunksize=16) as table:
        for some in table:
            yield from some.to_dict("records")


_TABLES: dict[str, Callable[[Path], Iterable[_Row]]] = {
    ".parquet": _parquet,
    ".tsv": _separated,
    ".csv": _separated,
    ".jsonl": lambda file: map(json.loads, filter(str.strip, file.read_text(encoding="utf-8").split("\n"))),
    ".json": lambda file: json.loads(file.read_text(encoding="utf-8")),
}


def transport_errors() -> tuple[type[Exception], ...]:
    """Return what the Hub's client raises when there is no way to the Hub; it changed libraries between releases."""
    return tuple(import_module(name).TransportError for name in ("httpx2", "httpx") if find_spec(name))


@contextmanager
def _hub(source: str, repo: str) -> Iterator[None]:
    """Whatever the Hub's client raises in the block becomes a PageError with its remedy."""
    from huggingface_hub import errors

    absent = errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError
    broken: list[type[Exception]] = [OSError, ValueError, yaml.YAMLError, errors.RevisionResolutionError]
    try:
        yield
    except PageError:  # a ValueError
        raise
    except tuple([*broken, *transport_errors()]) as error:
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        why = f"cannot be read ({said}); to fetch it: HF_HUB_OFFLINE=0 ocrlab read '{source}' --dry-run"
        if isinstance(error, errors.GatedRepoError):
            why = f"gated; accept its conditions at https://huggingface.co/datasets/{repo}, then `hf auth login`"
        elif isinstance(error, absent):
            why = "the Hub has no such set or revision; check the spelling, or `hf auth login` for a private one"
        raise PageError(f"{source}: {why}") from error
