"""Draw the page sets of `data/pages` again, bit for bit, or say why that is not possible here.

`python -m data.recipes.pages` writes them; `--check` draws them in a temporary folder and compares.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from PIL import Image, features

from data.recipes import documents, samples
from data.recipes.fonts import FontsMissing
from data.recipes.samples import Sample
from ocrlab.paths import PAGES

LICENCE = "CC0-1.0"
BOXES = "boxes.jsonl"
_TIGHT = {"manifest.jsonl": None, BOXES: (",", ":")}


@dataclass(frozen=True)
class PageSet:
    """How many pages a set has, and which function draws page `index`."""

    count: int
    draw: Callable[[int], Sample]


SETS = {
    "lines": PageSet(samples.LINES_IN_TRAINING_FONTS + samples.LINES_IN_HELD_OUT_FONTS, samples.line_sample),
    "labels": PageSet(samples.LABELS + samples.LONG_LABELS, samples.label_sample),
    "sizes": PageSet(len(samples.EXACT_SIZES) * samples.LINES_PER_SIZE, samples.size_sample),
    "documents": PageSet(documents.count(), documents.document_sample),
}


def generator() -> dict[str, str]:
    """Return the versions on which the pages' bytes depend, by library."""
    libraries = {name: str(features.version(name)) for name in ("freetype2", "libjpeg_turbo", "zlib", "zlib_ng")}
    packages = {name: _version(name) for name in ("pillow", "numpy", "wordfreq", "fonttools")}
    return {**packages, **libraries}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def write_page(folder: Path, name: str, index: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Draw page `index` of set `name`, write its image into `folder`/`name`; return its entry and boxes."""
    page = SETS[name].draw(index)
    file = folder / name / f"{index + 1:03d}.{'jpg' if page.jpeg_quality else 'png'}"
    file.parent.mkdir(parents=True, exist_ok=True)
    if page.jpeg_quality:
        page.image.save(file, "JPEG", quality=page.jpeg_quality, optimize=True)
    else:
        _plain(page.image).save(file, "PNG", optimize=True)
    entry = {
        "id": f"{name}-{index + 1:03d}",
        "file": file.name,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "set": name,
        "language": page.language,
        "kind": page.kind,
        "degradation": page.degradation,
        "font": page.font,
        "truth": page.truth,
        "licence": LICENCE,
        **({"facts": list(page.facts)} if page.facts else {}),
    }
    return entry, {"id": entry["id"], "words": [list(box) for box in page.boxes]}


def _plain(image: Image.Image) -> Image.Image:
    """Return the image in greyscale where its three channels are equal."""
    if image.mode != "RGB":
        return image
    red, green, blue = image.split()
    return red if red.tobytes() == green.tobytes() == blue.tobytes() else image


def write_set(folder: Path, name: str) -> None:
    """Draw the whole set into `folder`/`name`, with its manifest, and the boxes of its words where it has them."""
    count = SETS[name].count
    with ProcessPoolExecutor(max_workers=2) as pool:
        pages = list(pool.map(write_page, [folder] * count, [name] * count, range(count), chunksize=4))
    _write_lines(folder / name / "manifest.jsonl", [entry for entry, _ in pages])
    if pages[0][1]["words"]:
        _write_lines(folder / name / BOXES, [boxes for _, boxes in pages])


def _write_lines(file: Path, entries: list[dict[str, Any]]) -> None:
    lines = "".join(json.dumps(entry, ensure_ascii=False, separators=_TIGHT[file.name]) + "\n" for entry in entries)
    file.write_text(lines, encoding="utf-8", newline="\n")


def write_all(folder: Path) -> None:
    """Draw every set into `folder`, and record the versions of what drew them."""
    for name in SETS:
        write_set(folder, name)
    text = json.dumps(generator(), indent=1) + "\n"
    (folder / "generator.json").write_text(text, encoding="utf-8", newline="\n")


def differences(folder: Path, again: Path) -> Iterator[str]:
    """Yield one line for each page or manifest of `folder` that `again` does not hold bit for bit."""
    for name in SETS:
        ours = {file.name: file for file in (folder / name).glob("*") if not file.name.startswith(".")}
        theirs = {file.name: file for file in (again / name).glob("*")}
        for file in sorted({*ours, *theirs}):
            if file not in theirs:
                yield f"{name}/{file}: not drawn by this generator"
            elif file not in ours:
                yield f"{name}/{file}: missing in {folder}"
            elif ours[file].read_bytes() != theirs[file].read_bytes():
                yield f"{name}/{file}: {_how_different(ours[file], theirs[file])}"


def _how_different(ours: Path, theirs: Path) -> str:
    if ours.suffix == ".jsonl":
        return "another text"
    with Image.open(ours) as one, Image.open(theirs) as other:
        same = one.mode == other.mode and one.size == other.size and one.tobytes() == other.tobytes()
    return "same pixels, packed by another zlib" if same else "other pixels"


def check(folder: Path) -> list[str]:
    """Return what a fresh drawing finds different from `folder`, reasons last; an empty list means bit for bit."""
    with tempfile.TemporaryDirectory() as again:
        write_all(Path(again))
        found = list(differences(folder, Path(again)))
    if not found:
        return []
    recorded = json.loads((folder / "generator.json").read_text(encoding="utf-8"))
    here = generator()
    changed = [f"{k} {recorded.get(k)} drew them, {v} is here" for k, v in here.items() if recorded.get(k) != v]
    return [*found, "reason: " + ("; ".join(changed) or "same versions: the code or a page was changed")]


def main(arguments: list[str] | None = None) -> int:
    """Draw or check the sets and return the exit code: 0 done or identical, 1 different, 2 not possible here."""
    parser = argparse.ArgumentParser(prog="python -m data.recipes.pages", description=__doc__)
    parser.add_argument("--check", action="store_true", help="draw again in a temporary folder and compare")
    parser.add_argument("--out", type=Path, default=PAGES, help="the folder of the sets (default: data/pages)")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.check:
            found = check(chosen.out)
        else:
            found = []
            write_all(chosen.out)
    except FontsMissing as missing:
        print(f"The pages cannot be drawn here: {missing}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as missing:
        print(f"The pages cannot be drawn here: {missing}; pip install 'ocrlab[train]'", file=sys.stderr)
        return 2
    for line in found:
        print(line, file=sys.stderr)
    print(f"{chosen.out}: {'different' if found else 'identical' if chosen.check else 'written'}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
