"""Damaged files of every format that is read: each is opened or refused by name, within seconds and two gigabytes.

`python -m tests.pages.mutate 10000` makes so many, reads each in a process that may die, and prints what came of them.
"""

from __future__ import annotations

import io
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
from PIL import Image, ImageDraw

from ocrlab.pages import PageError, documents, load_pages, page_size
from ocrlab.pages.images import decodable
from ocrlab.pages.text_layer import text_layer
from tests.pages import pdfs

SLOW_S, LARGE_BYTES = 10.0, 2 * 2**30
_PRODUCERS = Path(__file__).with_name("producers")


def originals() -> dict[str, list[bytes]]:
    """Return whole files by how their names end."""
    page = Image.new("RGB", (160, 120), "white")
    draw = ImageDraw.Draw(page)
    for line in range(8):
        draw.text((6, 4 + 14 * line), f"Invoice {line} of 2026: 1 234,50", "black")
    frames = [page.rotate(180), page.convert("L")]
    saved: dict[str, list[tuple[Image.Image, dict[str, object]]]] = {
        "png": [(page, {}), (page.convert("P"), {}), (page.convert("RGBA"), {}), (page.convert("I;16"), {})],
        "jpg": [(page, {}), (page.convert("CMYK"), {}), (page.convert("L"), {"progressive": True})],
        "webp": [(page, {}), (page.convert("RGBA"), {"lossless": True})],
        "bmp": [(page, {}), (page.convert("1"), {})],
        "tif": [
            *((page, {"compression": c}) for c in ("raw", "tiff_lzw", "tiff_deflate", "jpeg", "packbits")),
            (page.convert("1"), {"compression": "group4"}),
            (page, {"save_all": True, "append_images": frames}),
        ],
        "gif": [(page, {}), (page, {"save_all": True, "append_images": frames})],
        "ppm": [(page, {}), (page.convert("L"), {}), (page.convert("1"), {})],
        "jp2": [(page, {}), (page.convert("L"), {"irreversible": True, "tile_size": (64, 64)})],
        "avif": [(page, {"speed": 10}), (page.convert("RGBA"), {"speed": 10})],
        "heic": [(page, {}), (page.convert("L"), {})],
    }
    names = {"jpg": "JPEG", "tif": "TIFF", "jp2": "JPEG2000", "heic": "HEIF"}
    found: dict[str, list[bytes]] = {}
    for end, images in saved.items():
        for image, options in images:
            held = io.BytesIO()
            image.save(held, decodable(names.get(end, end.upper())), **options)
            found.setdefault(end, []).append(held.getvalue())
    small = (file for file in sorted(_PRODUCERS.glob("*.pdf")) if file.stat().st_size < 40_000)
    plain = pdfs.one_page(pdfs.lines("Invoice 17 of 2026", "1 234,50") + "q 90 0 0 90 40 40 cm /I Do Q")
    return found | {"pdf": [plain, *(file.read_bytes() for file in small)]}


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Return a file with some bytes changed, cut out, put in, doubled or lost at its end."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        # Half of all damage near the head, where lengths and sizes stand.
        at = rng.randrange(min(len(changed), 200) if rng.random() < 0.5 else len(changed))
        length = rng.choice((1, 2, 4, 4, 8, 100))
        new = rng.choice((rng.randbytes(length), b"\xff" * length, bytes(length), b"9" * length))
        match rng.randrange(6):
            case 0 | 1:
                changed[at : at + length] = new
            case 2:
                changed[at] ^= 1 << rng.randrange(8)
            case 3:
                changed[at:at] = new if rng.random() < 0.5 else changed[at : at + length]
            case 4:
                del changed[at : at + length]
            case 5 if len(changed) > 60 and rng.random() < 0.3:
                del changed[rng.randrange(40, len(changed)) :]
        changed = changed or bytearray(b"x")
    return bytes(changed)


def mutants(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yield so many names and damaged files, the formats in turn."""
    whole, rng = originals(), random.Random(seed)
    for number in range(count):
        end = list(whole)[number % len(whole)]
        yield f"{number}.{end}", damaged(rng.choice(whole[end]), rng)


def read_all(file: Path) -> str:
    """Return "opened", or "refused" where every error names the file."""
    outcome = "opened"
    try:
        for page in load_pages(file)[:20]:
            try:
                page_size(page)
                page.open()
                if page.page_number and file.suffix == ".pdf":
                    text_layer(file, page.page_number)
            except PageError as error:
                outcome = "refused" if str(file) in str(error) else f"refused without its name: {error}"
    except PageError as error:
        outcome = "refused" if str(file) in str(error) else f"refused without its name: {error}"
    return outcome


def _serve(asked: Connection) -> None:
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)  # what decoders say of damage
    for file in iter(asked.recv, None):
        outcome = read_all(file)
        asked.send((outcome, max(map(_peak_bytes, [os.getpid(), *(h.pid for h in documents._helpers.values())]))))


def _peak_bytes(process: int) -> int:
    """Return the most memory that a process has held; where the system does not say it, what it holds."""
    held = psutil.Process(process).memory_info()
    if (status := Path(f"/proc/{process}/status")).exists():
        return 1024 * int(status.read_text().partition("VmHWM:")[2].split()[0])
    return int(getattr(held, "peak_wset", held.rss))


def tried(count: int, seed: int, kept: Path, slow_s: float = SLOW_S) -> Counter[str]:
    """Return how often each outcome came; files that crashed, were slow or took much memory lie in `kept`."""
    found: Counter[str] = Counter()
    context, process, line = get_context("spawn"), None, None
    with tempfile.TemporaryDirectory() as folder:
        for name, data in mutants(count, seed):
            if process is None:
                line, other = context.Pipe()
                process = context.Process(target=_serve, args=(other,), daemon=False)
                process.start()
                other.close()
            file = Path(folder) / name
            file.write_bytes(data)
            started, peak = time.perf_counter(), 0
            assert line is not None
            line.send(file)
            try:
                outcome, peak = line.recv() if line.poll(60) else ("hung for 60 s", 0)
            except EOFError:
                process.join()
                outcome = f"crashed with {process.exitcode}"
            seconds = time.perf_counter() - started
            if seconds > slow_s and outcome in ("opened", "refused"):
                outcome = f"took more than {slow_s:g} s"
            if peak > LARGE_BYTES:
                outcome = "took more than 2 GiB"
            found[outcome] += 1
            found[f"{outcome}: {file.suffix}"] += 1
            found["longest, ms"] = max(found["longest, ms"], round(1000 * seconds))
            found["most memory, MiB"] = max(found["most memory, MiB"], peak >> 20)
            if outcome not in ("opened", "refused"):
                kept.mkdir(parents=True, exist_ok=True)
                (kept / name).write_bytes(data)
                print(name, outcome, f"{seconds:.1f} s, {peak >> 20} MiB", flush=True)
            if outcome not in ("opened", "refused") or name.endswith("00.png"):
                if process.is_alive():
                    process.kill()
                process = None
            file.unlink()
        if process is not None and line is not None:
            line.send(None)
            process.join()
    return found


if __name__ == "__main__":
    many, start = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    for words, times in sorted(tried(many, start, Path("build/mutants")).items()):
        print(f"{times:>7,} {words}")
