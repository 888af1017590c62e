"""Pages inside a PDF (by pypdfium2), a multipage TIFF or a GIF: which there are, how large each is, and one opened.

A damaged file can keep a decoder busy without end, or make it take all memory: PDFium and those of the newer image
formats run in a process that may be ended.
"""

from __future__ import annotations

import faulthandler
import math
import os
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

from PIL import Image, ImageOps, ImageSequence

from ocrlab.pages import images
from ocrlab.pages.images import DECODER_ERRORS, PageError, begins_as, large_allowed, open_image, shape_problem, to_rgb

#: Dots per inch at which a PDF page is drawn where nobody says how many pixels it may have: print of 10 points is then
#: some 20 pixels high. And the most at which it is drawn to fill a pixel budget: A4 is then 3.9 megapixels (LOG.md).
PDF_DPI, FILLING_DPI = 150, 200
#: What gives the size in pixels that a reader makes of another one.
Resized = Callable[[int, int], tuple[int, int]]
_FRAMED = ("TIFF", "GIF")
_APART = ("JPEG2000", "AVIF", "HEIF", "JXL")  # what takes seconds or gigabytes for a page of few bytes
_POINTS = 72  # per inch, on a PDF's canvas
_SUBFILE_TYPE, _REDUCED = 254, 1  # TIFF 6.0: bit 0 is set on a smaller copy of another page

#: Seconds for which a file is listed, drawn, decoded or searched for its text before it is refused; the variable gives
#: others. Bytes of address space, where a system limits that: a page of as many pixels as are allowed fits.
DEADLINE_S, DEADLINE_VARIABLE, _MEMORY_BYTES = 20.0, "OCRLAB_PDF_DEADLINE_S", 10 << 28
_LARGEST_PIXELS = 1 << 25  # of a PDF page that nobody gave a size: A0 at 150 dots per inch is about as large

# One process serves all threads. Held over a fork too, so that no child begins in the middle of somebody's drawing.
_LOCK = threading.RLock()
_helpers: dict[int, Any] = {}  # by the id of the process that started it, as a fork may not use its parent's
_ended: dict[tuple[Any, ...], str] = {}  # what its process did not survive, and how it ended
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_LOCK.acquire, after_in_parent=_LOCK.release, after_in_child=_LOCK.release)

#: Of a PDF page in points (1/72 inch), of a TIFF page in pixels; None where it cannot be opened or is no page.
Size = tuple[float, float] | None


def is_pdf(file: Path) -> bool:
    """Return whether a file is taken for a PDF: by its first bytes, or by its name."""
    return _kind(file) == "PDF"


def pages_inside(file: Path, dpi: int | None) -> dict[int, str] | None:
    """Return a PDF's or multipage TIFF's pages, numbered from 1, each with its problem (or ""); None: one image.

    Each frame of a GIF is a page; thumbnails inside a TIFF are none.

    Raises:
        PageError: a PDF that cannot be opened or has no pages.
    """
    kind = _kind(file)
    if kind == "PDF":
        return {number: _pdf_problem(size, dpi) for number, size in enumerate(_sizes(file, True), 1)}
    try:
        sizes = _sizes(file, False) if kind in images.SEVERAL else ()
    except PageError:
        return None  # opening it as an image says what is wrong
    if len(sizes) < 2:
        return None
    return {n: shape_problem(int(size[0]), int(size[1])) for n, size in enumerate(sizes, 1) if size is not None}


def open_whole(file: Path) -> Image.Image:
    """Return what `images.open_image` does, decoded where it cannot do harm.

    Raises:
        PageError: as `open_image`, or its decoder took too long or too much memory.
    """
    return guarded(open_image, file) if file.is_file() and _kind(file) in _APART else open_image(file)


def open_inside(
    file: Path, number: int, dpi: int | None, max_pixels: int | None = None, resized: Resized | None = None
) -> Image.Image:
    """Return page `number` (from 1) as upright 8-bit RGB, in any thread; a PDF's is drawn on white.

    It is drawn at `dpi`; without one, at the size that `resized` makes of its `size_inside`, so that it is drawn once.

    Raises:
        PageError: no such page, or one that cannot be read or is too large.
    """
    if is_pdf(file):
        size = size_inside(file, number, dpi, max_pixels)  # or it is absent
        if problem := _pdf_problem(_sizes(file, True)[number - 1], dpi):
            raise PageError(f"{file}: page {number}: {problem}")
        return guarded(_draw, file, number, size if resized is None or dpi else resized(*size))
    return guarded(_frame, file, number) if _kind(file) == "GIF" else _frame(file, number)


def _frame(file: Path, number: int) -> Image.Image:
    name = f"{file}: page {number}"
    try:
        # By a file object: from a path, Pillow 13 maps an uncompressed turned frame with its sides exchanged.
        with file.open("rb") as opened, large_allowed(), Image.open(opened, formats=_FRAMED) as image:
            image.seek(number - 1)
            if problem := shape_problem(*image.size):
                raise PageError(f"{name}: {problem}")
            image.load()
            return to_rgb(name, ImageOps.exif_transpose(image), dict(getattr(image, "tag_v2", {})))
    except PageError:
        raise
    except DECODER_ERRORS as error:
        raise PageError(f"{name} is damaged or absent ({error}); export the file again or remove it") from error


def size_inside(file: Path, number: int, dpi: int | None, max_pixels: int | None = None) -> tuple[int, int]:
    """Return the pixels that page `number` has once opened, without decoding it; a PDF's fills `max_pixels`.

    Raises:
        PageError: no such page, or its file cannot be read.
    """
    sizes = _sizes(file, pdf := is_pdf(file))
    size = sizes[number - 1] if 1 <= number <= len(sizes) else None
    if size is None:
        raise PageError(f"{file}: page {number} of {len(sizes)} is absent or cannot be opened; export the file again")
    return _drawn_size(size, dpi, max_pixels) if pdf else (int(size[0]), int(size[1]))


def _kind(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            start = opened.read(1024)
    except OSError as error:
        raise PageError(f"{file}: cannot be read ({error.strerror}); check that it is a file you may read") from error
    return "PDF" if file.suffix.lower() == ".pdf" else begins_as(start)


def guarded(function: Callable[..., Any], file: Path, *args: Any) -> Any:
    """Return `function(file, *args)` from the process in which such files are opened; all of it can be pickled.

    Raises:
        PageError: what the function raised, or that its process ended over this file: by the deadline, for memory, or
            by a fault. It is not tried again on a file that has not changed.
        ValueError: the variable holds no number.
    """
    deadline_s = float(os.environ.get(DEADLINE_VARIABLE, DEADLINE_S))
    tried = (function.__name__, file, *args, deadline_s, file.stat().st_mtime_ns if file.exists() else 0)
    with _LOCK:
        if tried in _ended:
            raise PageError(_ended[tried])
        # Put back once it has answered: after Ctrl-C its answer would be taken for the next one's.
        helper = _helpers.pop(os.getpid(), None) or _started()
        try:
            helper.stdin.write(pickle.dumps((deadline_s, function, file, args)))
            helper.stdin.flush()
            value, problem = pickle.load(helper.stdout)
            _helpers[os.getpid()] = helper
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            code = helper.wait()
            how = (
                f"keeps its decoder busy for {deadline_s:g} s" if code == 1 else f"ends its process (exit code {code})"
            )
            remedy = f"export the file again, or give it more seconds ({DEADLINE_VARIABLE}=60)"
            problem = _ended[tried] = f"{file}: {f'page {args[0]}' if args else 'it'} {how}; {remedy}"
    if problem:
        raise PageError(problem)
    return value


def _started() -> Any:
    # No `machine.worker.Worker`: multiprocessing starts none in a DataLoader's processes, which prepare pages, and runs
    # a person's unguarded script again.
    code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import serve; serve()"
    # In a session of its own: Ctrl-C is for the process that it works for, and it ends with that one.
    helper: Any = Popen([sys.executable, "-c", code], stdin=PIPE, stdout=PIPE, start_new_session=True)
    pickle.load(helper.stdout)  # it has its imports
    return helper


def serve() -> None:
    """Answer requests on standard input until it ends, or a request does not: the other side of `guarded`."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    answer = pickle.dumps((None, ""))
    with suppress(EOFError), Path(os.devnull).open("w") as nowhere:
        while True:
            sys.stdout.buffer.write(answer)
            sys.stdout.buffer.flush()
            answer = b""  # or a page's pixels would be held beside the next one's
            deadline_s, function, file, args = pickle.load(sys.stdin.buffer)
            faulthandler.dump_traceback_later(deadline_s, exit=True, file=nowhere)  # by a thread that nothing holds up
            try:
                answer = pickle.dumps((function(file, *args), ""))
            except Exception as error:
                problem = str(error) if isinstance(error, PageError) else f"{file}: {error!r}; export it again"
                answer = pickle.dumps((None, problem))
            faulthandler.cancel_dump_traceback_later()


def _sizes(file: Path, pdf: bool) -> tuple[Size, ...]:
    stat = file.stat()
    return _sizes_of(file, pdf, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=64)
def _sizes_of(file: Path, pdf: bool, _changed: int, length: int) -> tuple[Size, ...]:
    if length == 0:
        raise PageError(f"{file}: the file is empty (0 bytes); export it again or remove it")
    if not pdf:
        return tuple(_frame_sizes(file))
    return tuple(guarded(_sizes_in, file))


def _sizes_in(file: Path) -> list[Size]:
    from pypdfium2 import raw

    with open_pdf(file) as document:
        if not len(document):
            raise PageError(f"{file}: a PDF without pages; export it again or remove it")
        if document.get_formtype() == raw.FORMTYPE_XFA_FULL:
            raise PageError(f"{file}: an XFA form, which Adobe Reader alone draws; print it to PDF there")
        return [_pdf_size(document, index) for index in range(len(document))]


def _frame_sizes(file: Path) -> Iterator[Size]:
    """Yield the size of each frame of a TIFF or GIF, None for a smaller copy of another."""
    try:
        with large_allowed(), Image.open(file, formats=_FRAMED) as image:
            if image.format == "GIF":  # to go through its frames is to decode them
                yield from [image.size] * int(getattr(image, "n_frames", 1))
                return
            frame: Any  # a TIFF's image has its tags
            for frame in ImageSequence.Iterator(image):
                tags = getattr(frame, "tag_v2", {})
                yield None if tags.get(_SUBFILE_TYPE, 0) & _REDUCED else frame.size
    except DECODER_ERRORS as error:
        raise PageError(f"{file}: damaged {_kind(file)} ({error}); export it again or remove it") from error


def _drawn_size(size: tuple[float, float], dpi: float | None, max_pixels: int | None = None) -> tuple[int, int]:
    if dpi is None:
        most = min(max_pixels or _LARGEST_PIXELS, 0.99 * images.MAX_IMAGE_PIXELS)
        dpi = min(FILLING_DPI if max_pixels else PDF_DPI, _POINTS * math.sqrt(most / (size[0] * size[1])))
    return math.ceil(size[0] * (dpi / _POINTS)), math.ceil(size[1] * (dpi / _POINTS))  # as pypdfium2 rounds


def _pdf_problem(size: Size, dpi: int | None) -> str:
    """Return why a PDF page of this size is not drawn, with what to do; empty where it is."""
    if size is None:
        return "cannot be opened; export the file again"
    width, height = _drawn_size(size, dpi)
    if width * height <= images.MAX_IMAGE_PIXELS:
        return shape_problem(width, height)
    fits = math.floor(_POINTS * math.sqrt(images.MAX_IMAGE_PIXELS / (size[0] * size[1])))
    return (
        f"{size[0] / _POINTS:.0f} x {size[1] / _POINTS:.0f} inches are {width:,} x {height:,} pixels at {dpi} dpi, "
        f"more than the limit of {images.MAX_IMAGE_PIXELS:,}; read it with a dpi of {max(1, fits - 1)} or less"
    )


def _draw(file: Path, number: int, size: tuple[int, int]) -> Image.Image:
    import pypdfium2
    from pypdfium2 import raw

    with open_pdf(file) as document:
        try:
            page, bitmap = document[number - 1], pypdfium2.PdfBitmap.new_native(*size, raw.FPDFBitmap_BGR)
            bitmap.fill_rect((255, 255, 255, 255), 0, 0, *size)
            # Not page.render, whose scale is the same for both sides: a reader's sizes are of whole cells.
            drawing = (bitmap, page, 0, 0, *size, 0, raw.FPDF_ANNOT)
            raw.FPDF_RenderPageBitmap(*drawing)
            if page.formenv:
                raw.FPDF_FFLDraw(page.formenv, *drawing)
            return bitmap.to_pil()
        except (pypdfium2.PdfiumError, ValueError, MemoryError) as error:
            raise PageError(f"{file}: page {number} cannot be drawn ({error}); export the file again") from error


def _pdf_size(document: Any, index: int) -> Size:
    import pypdfium2

    try:
        width, height = document.get_page_size(index)
    except pypdfium2.PdfiumError:
        return None
    return (width, height) if width > 0 and height > 0 else None


@contextmanager
def open_pdf(file: Path) -> Iterator[Any]:
    """Hold a PDF open with its form fields, one at a time as PDFium has no threads; closing closes its pages too.

    Raises:
        PageError: it is locked, or no PDF.
    """
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(file)
        document.init_forms()  # else what is filled in would not be drawn
    except (pypdfium2.PdfiumError, OSError) as error:
        locked = "password" in str(error).lower()
        problem = "locked with a password" if locked else f"not a PDF that opens ({str(error).rstrip('.')})"
        remedy = "save it without one (qpdf --decrypt)" if locked else "export it again or remove it"
        raise PageError(f"{file}: {problem}; {remedy}") from error
    try:
        yield document
    finally:
        document.close()
