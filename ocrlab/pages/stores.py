"""A page in a store that fsspec reaches (s3://, gs://, https://…): fetched where it is opened, then forgotten."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qsl, urlsplit

from ocrlab.pages.errors import PageError
from ocrlab.pages.page import Page

_SECRET = re.compile(r"sig|token|secret|pass|key|credential|auth", re.IGNORECASE)
_LONGEST_REASON = 300


@dataclass(frozen=True)
class StoredPage(Page):
    """A page of an object in a store; `file` is its URL as a path and only names it.

    The object is fetched with the credentials of the environment where the page is opened, in any process or on any
    machine. `name` is its path below the URL that was given, `pixels` its size where its first bytes told it.

    Listing does not fetch the object's bytes, so `state` is a hash of its URL, its length and what the store tells of
    it: an ETag or checksum, else its time of change. `sha256` is the same, with leaf and dpi as for local files.
    """

    url: str = ""
    name: str = ""
    state: str = ""
    pixels: tuple[int, int] | None = None

    def size(self) -> tuple[int, int]:
        """Return width and height in pixels; where listing did not learn them, the object is fetched for it."""
        return self.pixels or super().size()

    @contextmanager
    def local(self) -> Iterator[Path]:
        """Give the object as a file of this machine, for as long as the block lasts.

        Raises:
            PageError: it cannot be fetched, or (from the block) read; the message names the URL.
        """
        # The leaves of one file are mostly opened one after the other.
        data = _fetch_kept(self.url, self.state) if self.leaf is not None else fetch(self.url)
        with laid_down(self.url, self.name, data) as file:
            yield file

    @property
    def where(self) -> str:
        """The object's URL."""
        return self.url


def is_url(source: str | Path) -> bool:
    """Return whether a source is a URL, and so lies in a store."""
    return isinstance(source, str) and "://" in source


def check_url(url: str) -> None:
    """Refuse a URL that holds a password or key: it would stand in every row."""
    for link in url.split("::"):
        try:
            parts = urlsplit(link)
        except ValueError as error:
            raise PageError(f"{link.partition('://')[0]}://…: no usable URL ({error})") from error
        if parts.password is not None or any(_SECRET.search(name) for name, _ in parse_qsl(parts.query, True)):
            raise PageError(
                f"{parts.scheme}://…: the URL holds a password or key, which would stand in every row; leave it out: "
                "credentials are taken from your environment, as the store's own tools take them"
            )


def fetch(url: str) -> bytes:
    """Return an object's bytes.

    Raises:
        PageError: it cannot be had; the message names the URL and the remedy.
    """
    with told(url):
        from fsspec.core import url_to_fs

        store, path = url_to_fs(url)
        return bytes(store.cat_file(path))


@contextmanager
def told(url: str) -> Iterator[None]:
    """Turn whatever a store raises in this block into a PageError that names the URL and the remedy."""
    try:
        yield
    except PageError:
        raise
    except Exception as error:  # each store's client raises errors of its own kinds
        raise PageError(f"{url}: {_words(url, error)}") from error


def _words(url: str, error: Exception) -> str:
    said = f"{type(error).__name__}: {' '.join(str(error).split())[:_LONGEST_REASON]}"
    if isinstance(error, ImportError):
        return f"a package is missing ({said}); {_remedy(url)}"
    if isinstance(error, ValueError) and "Protocol not known" in str(error):
        return "fsspec knows no such protocol; check what stands before the ://"
    if isinstance(error, FileNotFoundError):
        return "no such bucket, folder or object; check the name"
    if isinstance(error, PermissionError) or "Credential" in type(error).__name__:
        return f"access is refused ({said}); give credentials in the environment, as the store's own tools take them"
    return f"cannot be read ({said}); check the network and the store, then run the same command again"


def _remedy(url: str) -> str:
    from fsspec.registry import known_implementations

    protocols = [link.partition("://")[0] for link in url.split("::")]
    modules = [known_implementations.get(name, {"class": "fsspec"})["class"].partition(".")[0] for name in protocols]
    needed = [module for module in modules if module != "fsspec"]
    return f"pip install {' '.join(needed)}" if needed else "install it"


@contextmanager
def laid_down(url: str, name: str, data: bytes) -> Iterator[Path]:
    """Give an object's bytes as a file for as long as the block lasts; what is wrong with it is said of its URL."""
    with tempfile.TemporaryDirectory(prefix="ocrlab-page-") as folder:
        file = Path(folder) / f"page{PurePosixPath(name).suffix}"
        file.write_bytes(data)
        try:
            yield file
        except PageError as error:
            raise PageError(str(error).replace(str(file), url)) from error


@lru_cache(maxsize=1)
def _fetch_kept(url: str, _state: str) -> bytes:
    return fetch(url)
