"""A run as one zip to give away: evidence and site, without what names a person, under ten megabytes."""

from __future__ import annotations

import gzip
import io
import json
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from ocrlab.report.material import page_dpis, page_hashes
from ocrlab.report.parcel import MANIFEST, MOST_BYTES, ParcelError, kept, manifest, parse_strictly, rebuilt
from ocrlab.report.pictures import drop_pictures, has_own_pages
from ocrlab.report.readings import picture_name
from ocrlab.report.scrub import PAGE_TEXTS, Scrub, scrub_all, scrubber
from ocrlab.report.site import build_site
from ocrlab.study.origin import pages_by_hash
from ocrlab.study.records import parse_records

# One date for all, so that the same run gives the same zip.
_DATE = (2026, 1, 1, 0, 0, 0)


def pack_run(run: Path, target: Path, images: Path | None = None, scrub: Scrub | None = None) -> Path:
    """Return the zip that was written: records, notebooks, figures, presets, and the site built from these again.

    Home folders, user and host names are taken out of every text file first. Images of pages go along only where
    `images`, the folder they lie in, is given; ours are in every checkout and never do.

    Raises:
        ParcelError: no run there, a file that cannot be read, nothing to share, or above 10 MB.
    """
    if not (run / "run.json").is_file():
        raise ParcelError(f"{run}: no run.json there, so this is no run's folder")
    with tempfile.TemporaryDirectory(prefix="ocrlab-share-") as folder:
        copy = Path(folder) / "results" / run.name
        for name in sorted(f.relative_to(run).as_posix() for f in run.rglob("*") if f.is_file()):
            if kept(name) and not name.startswith("pages/"):
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                (copy / name).write_bytes(_scrubbed(run / name, scrub or scrubber()))
        if images is not None:
            _copy_images(run, copy / "pages", images)
        elif has_own_pages(copy):
            drop_pictures(copy)
        build_site(copy)
        names = sorted(f.relative_to(copy).as_posix() for f in copy.rglob("*") if f.is_file())
        files = {name: (copy / name).read_bytes() for name in names if kept(name) or rebuilt(name)}
    packed = _zip(files | {MANIFEST: manifest(run.name, files)})
    if len(packed) > MOST_BYTES:
        raise ParcelError(f"{run}: {len(packed):,} bytes as a zip, {MOST_BYTES:,} are allowed; the largest files are "
                          f"{_largest(files)}. Remove what is not needed, or share fewer experiments")  # fmt: skip
    part = target.with_suffix(".part")
    part.write_bytes(packed)
    part.replace(target)
    return target


def _scrubbed(file: Path, scrub: Scrub) -> bytes:
    """Return a file's bytes with its texts scrubbed; figures as they are."""
    data = file.read_bytes()
    if file.suffix in (".png", ".jpg"):
        return data
    try:
        if file.suffix in (".json", ".ipynb"):
            whole = scrub_all(parse_strictly(data), scrub)
            return (json.dumps(whole, indent=1, ensure_ascii=False) + "\n").encode()
        if file.suffix == ".yaml":
            return scrub(data.decode()).encode()
        plain = gzip.decompress(data) if file.suffix == ".gz" else data
        spared = PAGE_TEXTS if file.parent.name == "readings" else frozenset()
        text = b""
        for _, record in parse_records(plain):
            if isinstance(record, ValueError):
                raise record
            text += (json.dumps(scrub_all(record, scrub, spared), ensure_ascii=False) + "\n").encode()
    except (ValueError, OSError, EOFError) as error:
        raise ParcelError(f"{file}: {error}; mend or remove it, then share again") from error
    return gzip.compress(text, mtime=0) if file.suffix == ".gz" else text


def _copy_images(run: Path, target: Path, images: Path) -> None:
    """Write the pages that were read as PNG without their metadata, found in `images` by their hashes."""
    wanted = page_hashes(run)
    here = pages_by_hash([images], page_dpis(run))
    found = {sha256: page for sha256, page in here.items() if sha256 in wanted}
    if not found:
        raise ParcelError(f"{images}: holds none of this run's pages (their sha256 are in readings/); give the folder "
                          "that was read, or share without images")  # fmt: skip
    target.mkdir(parents=True, exist_ok=True)
    for sha256, page in found.items():
        page.open().save(target / picture_name(sha256), "PNG", optimize=True)


def _zip(files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, data in files.items():
            info = zipfile.ZipInfo(name, _DATE)
            info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(info, data)
    return packed.getvalue()


def _largest(files: Mapping[str, bytes]) -> str:
    largest = sorted(files, key=lambda name: -len(files[name]))[:3]
    return ", ".join(f"{name} ({len(files[name]):,} bytes)" for name in largest)
