"""Every kind of image file that a folder of scans may hold, each made here."""

from __future__ import annotations

import io
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ocrlab.pages import PageError, images as images_module, load_pages, open_image
from ocrlab.pages.images import begins_as, image_size


def noise(width: int = 200, height: int = 100) -> Image.Image:
    """Return an image that does not pack, so that cutting its file really cuts pixels."""
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


_TURN = Image.Transpose
#: What makes of an upright page the pixels that are stored with an orientation.
UNDO = {
    **{2: _TURN.FLIP_LEFT_RIGHT, 3: _TURN.ROTATE_180, 4: _TURN.FLIP_TOP_BOTTOM, 5: _TURN.TRANSPOSE},
    **{6: _TURN.ROTATE_90, 7: _TURN.TRANSVERSE, 8: _TURN.ROTATE_270},
}


def oriented(name: str, orientation: int) -> dict[str, object]:
    """Return how a file of this name is saved with an orientation."""
    exif = Image.Exif()
    exif[274] = orientation
    return {"tiffinfo": {274: orientation}} if name.endswith(".tif") else {"exif": exif.tobytes()}


def refusal(path: Path) -> str:
    with pytest.raises(PageError) as error:
        open_image(path)
    assert str(path) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("end", sorted(set(images_module.SUFFIXES) - {".pbm", ".pgm"}))
def test_every_format_opens_as_rgb(tmp_path: Path, end: str) -> None:
    how = {}
    if end == ".jxl":
        pytest.importorskip("pillow_jxl", reason="JPEG XL's plugin is not installed")
        how = {"lossless": True}
    image = Image.new("RGB", (30, 20), (250, 120, 10))
    kind = images_module.decodable(next(k for k, one in images_module._READ.items() if end[1:] in one["ends"]))
    for name in (f"p{end}", "named-otherwise.png"):
        path = saved(tmp_path / name, image, format=kind, **how)
        read = open_image(path)
        assert (read.mode, read.size, image_size(path)) == ("RGB", (30, 20), (30, 20))
        assert np.abs(np.asarray(read).astype(int) - (250, 120, 10)).max() <= 4
        assert begins_as(path.read_bytes()[:1024]) == kind


def test_grey_and_black_and_white_of_a_fax_open(tmp_path: Path) -> None:
    grey = Image.fromarray(np.array([[0, 90, 255, 255]], dtype=np.uint8))
    for name, wanted in (("p.pgm", [0, 90, 255, 255]), ("p.pbm", [0, 0, 255, 255]), ("p.jp2", [0, 90, 255, 255])):
        read = open_image(saved(tmp_path / name, grey.convert("1", dither=0) if name == "p.pbm" else grey))
        assert np.asarray(read)[0, :, 0].tolist() == wanted
    (tmp_path / "p.pgm").write_bytes(b"P5 2 1 1023\n\x03\xff\x02\x00")
    assert np.asarray(open_image(tmp_path / "p.pgm"))[0, :, 0].tolist() == [255, 128]


def test_heic_without_its_package_is_refused_by_name_with_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images_module.decodable("HEIF")
    phone = saved(tmp_path / "p.heic", noise(64, 48))
    (tmp_path / "sent.jpg").write_bytes(phone.read_bytes())  # as chats rename them
    images_module.decodable.cache_clear()
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert "pip install pillow-heif" in load_pages(phone)[0].problem
    assert "HEIF is read with pillow-heif" in refusal(tmp_path / "sent.jpg")
    images_module.decodable.cache_clear()


def test_a_lossless_file_keeps_every_pixel(tmp_path: Path) -> None:
    assert open_image(saved(tmp_path / "p.png", noise())).tobytes() == noise().tobytes()


def test_sixteen_bits_are_scaled_not_cut_off(tmp_path: Path) -> None:
    values = np.array([[0, 257, 32_896, 65_535, 300]], dtype=np.uint16)
    for name in ("p.png", "p.tif"):
        read = np.asarray(open_image(saved(tmp_path / name, Image.fromarray(values))))
        assert read[0, :, 0].tolist() == [0, 1, 128, 255, 1]
        assert (read[..., 0] == read[..., 1]).all() and (read[..., 0] == read[..., 2]).all()


def test_sixteen_bit_tiff_with_white_as_zero_is_inverted(tmp_path: Path) -> None:
    values = np.array([[0, 65_535]], dtype=np.uint16)
    path = saved(tmp_path / "p.tif", Image.fromarray(values), tiffinfo={262: 0})
    assert np.asarray(open_image(path))[0, :, 0].tolist() == [255, 0]


def tiff_of_two_pixels(bits: int, data: bytes, sample_format: int = 1) -> bytes:
    tags = [
        (256, 4, 2),
        (257, 4, 1),
        (258, 3, bits),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 8),
        (277, 3, 1),
        (278, 4, 1),
        (279, 4, len(data)),
        (339, 3, sample_format),
    ]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    padded = data + b"\0" * (len(data) % 2)
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return struct.pack("<2sHI", b"II", 42, 8 + len(padded)) + padded + directory


def test_twelve_bits_use_their_own_white(tmp_path: Path) -> None:
    path = tmp_path / "p.tif"
    path.write_bytes(tiff_of_two_pixels(12, bytes([0xFF, 0xF8, 0x00])))
    assert np.asarray(open_image(path))[0, :, 0].tolist() == [255, 128]


@pytest.mark.parametrize("mode", ["F", "I"])
def test_pixels_without_a_defined_white_are_refused(tmp_path: Path, mode: str) -> None:
    path = saved(tmp_path / "p.tif", Image.new(mode, (2, 2), 7))
    assert "8-bit" in refusal(path)


def test_palette_and_one_bit(tmp_path: Path) -> None:
    palette = Image.new("RGB", (4, 1), "white")
    palette.putpixel((0, 0), (200, 0, 0))
    read = open_image(saved(tmp_path / "palette.png", palette.quantize(4)))
    assert read.getpixel((0, 0)) == (200, 0, 0) and read.getpixel((3, 0)) == (255, 255, 255)
    one_bit = Image.new("1", (4, 1), 1)
    one_bit.putpixel((1, 0), 0)
    read = open_image(saved(tmp_path / "one.png", one_bit))
    assert [read.getpixel((x, 0)) for x in range(2)] == [(255, 255, 255), (0, 0, 0)]


def test_transparent_pixels_lie_on_white(tmp_path: Path) -> None:
    rgba = Image.new("RGBA", (3, 1), (0, 0, 0, 0))
    rgba.putpixel((1, 0), (0, 0, 0, 255))
    rgba.putpixel((2, 0), (0, 0, 0, 128))
    read = open_image(saved(tmp_path / "rgba.png", rgba))
    assert [read.getpixel((x, 0)) for x in range(3)] == [(255,) * 3, (0,) * 3, (127,) * 3]
    read = open_image(saved(tmp_path / "la.png", rgba.convert("LA")))
    assert [read.getpixel((x, 0)) for x in range(3)] == [(255,) * 3, (0,) * 3, (127,) * 3]
    read = open_image(saved(tmp_path / "rgba.webp", rgba, lossless=True, exact=True))
    assert read.getpixel((0, 0)) == (255, 255, 255) and read.getpixel((1, 0)) == (0, 0, 0)


@pytest.mark.parametrize("mode", ["P", "L", "RGB", "1"])
def test_a_transparent_colour_becomes_white(tmp_path: Path, mode: str) -> None:
    image = Image.new(mode, (2, 1), 0)
    image.putpixel((1, 0), 1 if mode in "P1" else 90 if mode == "L" else (90, 90, 90))
    if mode == "P":
        image.putpalette([10, 10, 10, 90, 90, 90])
    path = saved(tmp_path / "p.png", image, transparency=(0, 0, 0) if mode == "RGB" else 0)
    read = open_image(path)
    assert read.getpixel((0, 0)) == (255, 255, 255)
    assert read.getpixel((1, 0)) == ((255,) * 3 if mode == "1" else (90,) * 3)


def test_cmyk_is_converted(tmp_path: Path) -> None:
    for name in ("p.jpg", "p.tif"):
        read = open_image(saved(tmp_path / name, Image.new("CMYK", (16, 16), (0, 0, 0, 0))))
        assert min(read.getpixel((8, 8))) >= 250, name
        read = open_image(saved(tmp_path / name, Image.new("CMYK", (16, 16), (0, 0, 0, 255))))
        assert max(read.getpixel((8, 8))) <= 5, name


@pytest.mark.parametrize("name", ["p.jpg", "p.png", "p.tif", "p.webp", "p.avif", "p.heic"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_applied_once(tmp_path: Path, name: str, orientation: int) -> None:
    images_module.decodable("HEIF")
    upright = Image.new("RGB", (40, 20), "white")
    upright.paste((0, 0, 0), (0, 0, 30, 10))  # no turn and no mirror image of it looks the same
    stored = upright if orientation == 1 else upright.transpose(UNDO[orientation])
    read = open_image(saved(tmp_path / name, stored, **oriented(name, orientation)))
    assert read.size == (40, 20)
    assert [read.getpixel(at)[0] > 128 for at in ((10, 4), (36, 4), (10, 16), (36, 16))] == [False, True, True, True]


def test_sixteen_bits_and_rotation_together(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    values = np.zeros((1, 3), dtype=np.uint16)
    values[0, 0] = 65_535
    read = open_image(saved(tmp_path / "p.png", Image.fromarray(values), exif=exif))
    assert read.size == (1, 3) and read.getpixel((0, 0)) == (255, 255, 255) and read.getpixel((0, 2)) == (0, 0, 0)


def test_one_pixel_is_allowed(tmp_path: Path) -> None:
    assert open_image(saved(tmp_path / "p.png", Image.new("L", (1, 1), 9))).size == (1, 1)


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1), (10, 2_001)])
def test_too_long_for_its_width(tmp_path: Path, size: tuple[int, int]) -> None:
    message = refusal(saved(tmp_path / "p.png", Image.new("L", size)))
    assert f"{size[0]} x {size[1]}" in message and "200" in message and "Qwen2-VL" in message


def test_two_hundred_times_as_long_is_allowed(tmp_path: Path) -> None:
    assert open_image(saved(tmp_path / "p.png", Image.new("L", (10, 2_000)))).size == (10, 2_000)


def test_absent_empty_and_folder(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "absent.png")
    (tmp_path / "empty.png").touch()
    assert "empty (0 bytes)" in refusal(tmp_path / "empty.png")
    (tmp_path / "folder.png").mkdir()
    assert "cannot be read" in refusal(tmp_path / "folder.png")


def test_text_named_png_and_other_files(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("Rechnung Nr. 12\nSumme", encoding="utf-8")
    message = refusal(tmp_path / "text.png")
    assert "is text" in message and "Rechnung Nr. 12" in message
    (tmp_path / "zip.png").write_bytes(b"PK\x03\x04" + bytes(60))
    assert "not a PNG" in refusal(tmp_path / "zip.png")
    image = Image.new("P", (4, 4))
    assert "not a PNG" in refusal(saved(tmp_path / "pcx.png", image, format="PCX"))


def test_a_pdf_is_no_image_and_the_way_to_its_pages_is_told(tmp_path: Path) -> None:
    (tmp_path / "scan.pdf").write_bytes(b"%PDF-1.7\n%\xe2\xe3")
    assert "is a PDF, not an image; load_pages" in refusal(tmp_path / "scan.pdf")


@pytest.mark.parametrize("name", ["p.png", "p.jpg", "p.bmp", "p.webp", "p.tif", "p.gif", "p.ppm", "p.heic", "p.jp2"])
@pytest.mark.parametrize("share", [0.5, 0.9])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_truncated_files_say_so_and_what_to_do(tmp_path: Path, name: str, share: float) -> None:
    images_module.decodable("HEIF")
    whole = saved(tmp_path / name, noise(), **({"lossless": True} if name == "p.webp" else {})).read_bytes()
    path = tmp_path / f"cut-{name}"
    path.write_bytes(whole[: int(len(whole) * share)])
    kind = {"jpg": "JPEG", "tif": "TIFF", "heic": "HEIF", "jp2": "JPEG2000"}.get(name[2:], name[2:].upper())
    assert refusal(path).startswith(f"{path}: truncated or damaged {kind} (")
    assert refusal(path).endswith("; export it again or remove it")


@pytest.mark.parametrize("name", ["p.png", "p.bmp", "p.webp", "p.tif", "p.jpg"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_cut_headers_are_named(tmp_path: Path, name: str) -> None:
    start = saved(tmp_path / name, noise()).read_bytes()[:14]
    (tmp_path / f"start-{name}").write_bytes(start)
    message = refusal(tmp_path / f"start-{name}")
    assert "truncated or damaged" in message and "BytesIO" not in message


def test_damage_in_the_middle_is_named(tmp_path: Path) -> None:
    data = bytearray(saved(tmp_path / "p.png", noise()).read_bytes())
    data[60:400] = bytes(340)
    (tmp_path / "p.png").write_bytes(data)
    assert "damaged PNG" in refusal(tmp_path / "p.png")


def png_claiming(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(13_400, 13_400), (60_000, 60_000)])
def test_decompression_bomb_is_refused_before_it_is_decoded(
    tmp_path: Path, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def decoded(image: Image.Image) -> None:
        raise AssertionError("the bomb was decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decoded)
    (tmp_path / "bomb.png").write_bytes(png_claiming(*size))
    assert "bomb" in refusal(tmp_path / "bomb.png")


def test_a_large_page_below_the_limit_gives_no_warning(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 5_000)
        path = saved(tmp_path / "p.png", Image.new("L", (90, 90)))
        assert open_image(path).size == (90, 90)
    assert not [w for w in recwarn if "Bomb" in w.category.__name__]


def test_the_limit_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images_module, "MAX_IMAGE_PIXELS", 99)
    assert "limit of 99" in refusal(saved(tmp_path / "p.png", Image.new("L", (10, 10))))


def test_several_pages_or_frames_are_refused(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("white", "black", "red")]
    for name in ("p.tif", "p.png", "p.webp"):
        path = saved(tmp_path / name, frames[0], save_all=True, append_images=frames[1:])
        assert "3 pages or frames" in refusal(path)
        assert ("load_pages" in refusal(path)) == (name == "p.tif")
    phone = saved(tmp_path / "phone.jpg", frames[0], format="MPO", save_all=True, append_images=frames[1:])
    assert min(open_image(phone).getpixel((4, 4))) > 250


def test_reading_leaves_the_file_closed_and_the_image_whole(tmp_path: Path) -> None:
    path = saved(tmp_path / "p.png", noise())
    image = open_image(path)
    path.unlink()
    stored = io.BytesIO()
    image.save(stored, "PNG")
    assert len(stored.getvalue()) > 1000
