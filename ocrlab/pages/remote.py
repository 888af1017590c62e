"""Pages in a store that fsspec reaches (s3://, gs://, https://…): listed without their bytes, fetched when opened."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from ocrlab.pages.files import MANIFEST, SEVERAL, in_order, is_page, parts_of
from ocrlab.pages.images import PageError, size_from, unread
from ocrlab.pages.page import Page
from ocrlab.pages.truth import Found, names_beside, truth_among

_SECRET = re.compile(r"://[^/@]*:[^/@]*@|[?&][^=&]*(sig|token|secret|pass|key|credential|auth)[^=&]*=", re.IGNORECASE)
_HIDDEN = re.compile(r"(^|[/\\])\.")


@dataclass(frozen=True)
class StoredPage(Page):
    """A page of an object in a store; `where` is the object's URL, `name` its path below the URL that was given.

    The object is fetched with the credentials of the environment where the page is opened, in any process or on any
    machine. Listing does not fetch an image: `version` is a hash of the URL and of fsspec's checksum for the object,
    which it makes of an ETag or of length and time of change; `sha256` is derived from it. `file` only names it.
    """

    where: str = ""
    name: str = ""
    version: str = ""

    def size(self, max_pixels: int | None = None) -> tuple[int, int]:
        """Return width and height in pixels, of an image from its first 64 KiB where they show it."""
        start = b"" if self.page_number else _read(self.where, self.version, end=1 << 16)
        return size_from(start) or super().size(max_pixels)

    @contextmanager
    def local(self) -> Iterator[Path]:
        """Give the object as a file of this machine, for as long as the block lasts.

        Raises:
            PageError: it cannot be fetched, or (from the block) read; the message names the URL.
        """
        with tempfile.TemporaryDirectory(prefix="ocrlab-page-") as folder:
            file = Path(folder) / f"page{PurePosixPath(self.name).suffix}"
            file.write_bytes(_read(self.where, self.version))
            try:
                yield file
            except PageError as error:
                raise PageError(str(error).replace(str(file), self.where)) from error


def pages_at(url: str, *, limit: int | None, recursive: bool, dpi: int | None, encoding: str) -> list[StoredPage]:
    """Return the pages of a store's folder or object, in natural order, hidden ones left out; at most `limit`.

    Truths beside them are fetched, and PDFs and TIFFs once, as only their bytes show how many pages they hold. For a
    single object, only a truth of the whole file is looked for.

    Raises:
        PageError: no such place, no page there, no access, a protocol or package that is missing; the URL is named.
    """
    if _SECRET.search(url):
        remedy = "leave it out: credentials are taken from your environment"
        raise PageError(f"{url.partition(':')[0]}://…: the URL holds a password or key, kept in every row; {remedy}")
    with _store(url) as (store, path):
        return list(islice(_pages(store, path, url, recursive, dpi, encoding), limit))


def _pages(store: Any, path: str, url: str, recursive: bool, dpi: int | None, encoding: str) -> Iterator[StoredPage]:
    place = PurePosixPath(path)
    # A web server's folder is a file to fsspec.
    if store.info(path)["type"] == "file" and is_page(place):
        names, root = (place.name, *names_beside(place.stem)), path.removesuffix(place.name)
        keys, urls = {name: root + name for name in names if store.exists(root + name)}, {place.name: url}
        place = place.parent
    else:
        found = store.find(path, maxdepth=None if recursive else 1)
        keys = {key.removeprefix(path.rstrip("/") + "/"): key for key in found}
        if MANIFEST in keys:
            raise PageError(f"{url}: holds a {MANIFEST}, which is read in local folders only; copy the folder")
        # Keys may hold any text: `..`, which would lead out of a folder, counts as hidden.
        shown = [name for name in keys if is_page(PurePosixPath(name)) and not _HIDDEN.search(name)]
        # Of chained URLs (`zip://in::s3://b/a.zip`) the first with a path is the folder.
        protocol, _, rest = url.partition("://")
        folder, chain, target = rest.partition("::")
        urls = {n: f"{protocol}://{folder.rstrip('/')}/{n}{chain}{target}" for n in in_order(url, shown, recursive)}
    for name, at in urls.items():
        sha256 = hashlib.sha256(f"{at} {store.checksum(keys[name])}".encode()).hexdigest()
        page = StoredPage(name, Path(at), sha256, place.name, dpi=dpi, where=at, name=name.lstrip("/"), version=sha256)
        parts = parts_of(page) if name.lower().endswith(SEVERAL) or unread(at) else [page]
        for one in parts:
            yield one if one.refused else _with_truth(store, one, PurePosixPath(name), keys, encoding)


def _with_truth(
    store: Any, page: StoredPage, file: PurePosixPath, keys: Mapping[str, str], encoding: str
) -> StoredPage:
    def find(name: str) -> Found:
        key = keys.get(str(file.with_name(name)))
        return (f"{page.where}: {name}", partial(_read, page.where, store.checksum(key), key)) if key else None

    truth, facts, problem = truth_among(names_beside(file.stem, page.page_number), find, encoding)
    return replace(page, truth=truth, facts=facts, problem=problem or page.problem)


@lru_cache(maxsize=1)  # the pages of one file are mostly opened one after the other
def _read(url: str, _version: object, key: str | None = None, end: int | None = None) -> bytes:
    """Return the bytes of a URL's object, or of the object `key` in the same store, up to `end`."""
    with _store(url) as (store, path):
        return bytes(store.cat_file(key or path, end=end))


@contextmanager
def _store(url: str) -> Iterator[tuple[Any, str]]:
    """Give fsspec's file system and path of a URL; whatever it raises in the block becomes a PageError."""
    try:
        from fsspec.core import url_to_fs

        yield url_to_fs(url)
    except PageError:
        raise
    except Exception as error:  # each store's client raises errors of its own kinds
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise PageError(f"{url}: cannot be read ({said}); check the name, the network and your credentials") from error
