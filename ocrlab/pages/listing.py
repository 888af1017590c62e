"""What a store holds below a URL, as pages: which objects, of what size, with truth beside; nothing is decoded."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from ocrlab.pages import manifest
from ocrlab.pages.errors import PageError
from ocrlab.pages.files import LISTED, NO_PAGE, hash_of_leaf, natural
from ocrlab.pages.images import size_from
from ocrlab.pages.leaves import is_pdf, leaf_size, leaves, may_hold_several
from ocrlab.pages.stores import StoredPage, check_url, laid_down, told
from ocrlab.pages.truth import decoded, names_beside

_BEGINNING, _AT_ONCE = 1 << 16, 512
# What stores call the state of an object: of its bytes, which a copy keeps, or else when it changed.
_TAGS = ("ETag", "etag", "md5Hash", "Content-MD5", "Digest", "CRC")
_TIMES = ("LastModified", "last_modified", "Last-Modified", "updated", "mtime", "modify", "modified", "created")


@dataclass(frozen=True)
class _Object:
    url: str
    path: str
    info: Mapping[str, Any]


def pages_at(url: str, *, limit: int | None, recursive: bool, dpi: int) -> list[StoredPage]:
    """Return the pages of a store's folder or object, in natural order, hidden ones left out; at most `limit`.

    The first bytes of each object are fetched, which tell an image's size, and its truth where one lies beside; PDFs
    and TIFFs are fetched once, as only they can tell how many pages they hold. Of a single object the truths of its
    leaves are not looked for.

    Raises:
        PageError: no such place, no page there, no access, a protocol or package that is missing; the URL is named.
    """
    check_url(url)
    with told(url):
        from fsspec.core import url_to_fs

        store, path = url_to_fs(url)
        objects, place = _objects(store, path, url, recursive)
        return list(islice(_pages(store, objects, place, limit, dpi), limit))


def _objects(store: Any, path: str, url: str, recursive: bool) -> tuple[dict[str, _Object], str]:
    """Return what lies there by its name below the URL, and the name of the set."""
    info, name = store.info(path), PurePosixPath(path).name
    # A web server's folder is a file to fsspec.
    if info["type"] == "file" and PurePosixPath(name).suffix.lower() in LISTED:
        objects = {name: _Object(url, path, info)}
        for truth in names_beside(PurePosixPath(name).stem):
            beside = path.removesuffix(name) + truth
            if store.exists(beside):
                objects[truth] = _Object(_below(url, truth, name), beside, {})
        return objects, PurePosixPath(path).parent.name
    root = path.rstrip("/") + "/"
    found = store.find(path, maxdepth=None if recursive else 1, detail=True)
    if manifest.NAME in {key.removeprefix(root) for key in found}:
        raise PageError(f"{url}: holds a {manifest.NAME}, which is read in local folders only; copy the folder")
    objects = {(n := key.removeprefix(root)): _Object(_below(url, n), key, found[key]) for key in found}
    if not any(map(_is_page, objects)):
        remedy = "give a folder that holds some" if recursive else "folders below are read with recursive=True"
        known = ", ".join(suffix[1:] for suffix in LISTED)
        raise PageError(f"{url}: {NO_PAGE}" if set(objects) == {path} else f"{url}: no images here ({known}); {remedy}")
    return objects, name


def _below(url: str, name: str, instead_of: str = "") -> str:
    """Return the URL of what lies below a URL, or in place of its last part; of a chain (`a://x::b://y`), of its first.

    A link without `://` (`simplecache::…`) has no path of its own.
    """
    links = url.split("::")
    at = next(i for i, link in enumerate(links) if "://" in link)
    protocol, _, rest = links[at].partition("://")
    links[at] = f"{protocol}://{rest.removesuffix(instead_of) if instead_of else rest.rstrip('/') + '/'}{name}"
    return "::".join(links)


def _is_page(name: str) -> bool:
    # Keys may hold any text: `..`, which would lead out of a folder, counts as hidden.
    hidden = any(part.startswith(".") for part in re.split(r"[/\\]", name))
    return PurePosixPath(name).suffix.lower() in LISTED and not hidden


def _pages(store: Any, objects: dict[str, _Object], place: str, limit: int | None, dpi: int) -> Iterator[StoredPage]:
    names = sorted(filter(_is_page, objects), key=lambda name: natural(PurePosixPath(name)))[:limit]
    for start in range(0, len(names), _AT_ONCE):
        some = names[start : start + _AT_ONCE]
        # Stores on a network fetch these all at the same time.
        begun = store.cat_ranges([objects[name].path for name in some], 0, _BEGINNING, on_error="return")
        for name, beginning in zip(some, begun, strict=True):
            yield from _of_object(store, name, objects, place, beginning, dpi)


def _of_object(
    store: Any, name: str, objects: dict[str, _Object], place: str, beginning: bytes | Exception, dpi: int
) -> Iterator[StoredPage]:
    """Yield an object's pages; one whose beginning cannot be had now is tried again when it is opened."""
    one, file = objects[name], Path(name)
    start = beginning if isinstance(beginning, bytes) else b""
    state = _identity(store, one)
    page = StoredPage(
        name, Path(one.url), state, place, dpi=dpi, url=one.url, name=name.lstrip("/"), state=state,
        pixels=size_from(start),
    )  # fmt: skip
    inside = None
    if may_hold_several(file, start):
        try:
            with told(one.url), laid_down(one.url, name, store.cat_file(one.path)) as here:
                inside = leaves(here, start, dpi)
                sizes = {leaf: leaf_size(here, leaf, dpi) for leaf, wrong in (inside or {}).items() if not wrong}
        except PageError as error:
            yield replace(page, problem=str(error), refused=True)
            return
    if inside is None:
        yield _with_truth(store, page, objects, name)
        return
    for leaf, wrong in inside.items():
        own = hash_of_leaf(page.sha256, leaf, dpi if is_pdf(file, start) else None)
        whole = replace(page, id=f"{name}#{leaf}", sha256=own, leaf=leaf, pixels=sizes.get(leaf))
        if wrong:
            yield replace(whole, problem=f"{one.url}: page {leaf}: {wrong}", refused=True)
        else:
            yield _with_truth(store, whole, objects, name)


def _identity(store: Any, one: _Object) -> str:
    """Return what changes when the object does, from what the store tells without a download."""
    state = _state(one.info) or _state(store.info(one.path)) or store.ukey(one.path)
    return hashlib.sha256(f"{one.url} {state}".encode()).hexdigest()


def _state(info: Mapping[str, Any]) -> str:
    known = next((info[name] for name in (*_TAGS, *_TIMES) if info.get(name)), None)
    if known is None:
        return ""
    # A listing and a question about one object may tell the same in two spellings.
    spelt = str(known.timestamp()) if isinstance(known, datetime) else str(known).strip('"')
    return f"{info.get('size')} {spelt}"


def _with_truth(store: Any, page: StoredPage, objects: dict[str, _Object], name: str) -> StoredPage:
    for truth_name in names_beside(PurePosixPath(name).stem, page.leaf):
        if beside := objects.get(str(PurePosixPath(name).parent / truth_name)):
            try:
                with told(beside.url):
                    truth, problem = decoded(beside.url, store.cat_file(beside.path))
            except PageError as error:
                truth, problem = None, f"{error}; the page has no score"
            return replace(page, truth=truth, problem=problem)
    return page
