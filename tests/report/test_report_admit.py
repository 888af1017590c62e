"""A zip from elsewhere: each thing that a run must not be is refused with a message that says what, and why."""

import gzip
import hashlib
import io
import json
import stat
import zipfile
from base64 import b64decode
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_output
from PIL import Image

from ocrlab.report import parcel
from ocrlab.report.admit import unpack_run
from ocrlab.report.parcel import MANIFEST, ParcelError, manifest
from ocrlab.report.share import pack_run
from tests.hostile import EVERY
from tests.notebooks import write
from tests.report.test_report_share import unpacked
from tests.report.test_report_site import display, picture, ran
from tests.runs import reading, write_run


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> dict[str, bytes]:
    """The files of a shared run that is as it should be."""
    folder = tmp_path_factory.mktemp("good")
    run = write_run(folder / "their-card", reading())
    write(run / "notebooks" / "a.ipynb", "# A?", ran("x", display(image_png=picture("red"))))
    (run / "recommended.yaml").write_text("# because\nmax_new_tokens: 5\n", encoding="utf-8")
    return unpacked(pack_run(run, folder / "r.zip"))


@pytest.fixture
def admit(tmp_path, good):
    """Unpack a zip with files changed, added or (None) left out, its manifest right unless `keep` says otherwise."""

    def tried(
        changes: dict | None = None, *, told: dict | None = None, keep: bool = False, entries=(), raw: bytes = b""
    ):
        files = {n: d for n, d in (good | (changes or {})).items() if d is not None and n != MANIFEST}
        whole = json.loads(manifest("their-card", files)) | (told or {})
        files[MANIFEST] = good[MANIFEST] if keep else json.dumps(whole).encode()
        with zipfile.ZipFile(tmp_path / "r.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
            for entry, data in entries:
                archive.writestr(entry, data)
        if raw:
            (tmp_path / "r.zip").write_bytes(raw)
        (tmp_path / "out").mkdir(exist_ok=True)
        return unpack_run(tmp_path / "r.zip", tmp_path / "out"), tmp_path / "out"

    return tried


def entry(name: str, mode: int = 0, **fields) -> zipfile.ZipInfo:
    made = zipfile.ZipInfo(name)
    made.compress_type = zipfile.ZIP_DEFLATED
    made.external_attr = mode << 16
    for field, value in fields.items():
        setattr(made, field, value)
    return made


def line(**changes) -> bytes:
    return (json.dumps(reading() | changes) + "\n").encode()


def notebook(**changes) -> bytes:
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# A?")])
    return json.dumps(dict(made) | changes).encode()


def test_a_good_one_is_unpacked_without_its_pages(admit):
    run, folder = admit()
    assert run == "their-card"
    names = sorted(f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file())
    assert names == ["figures/a-2-1.png", "notebooks/a.ipynb", "readings/e.jsonl", "recommended.yaml", "run.json"]
    assert (folder / "recommended.yaml").read_text(encoding="utf-8") == "# because\nmax_new_tokens: 5\n"


@pytest.mark.parametrize(
    "name", ["../evil.json", "/etc/evil", "rows/../../evil.jsonl", "C:\\evil.jsonl", "\\evil", "a\\..\\b"]
)
def test_a_name_that_leads_outside_is_refused(admit, name):
    with pytest.raises(ParcelError, match="would be written outside"):
        admit(entries=[(entry(name), b"{}")])


@pytest.mark.parametrize("name", [
    "evil.py", "evil.sh", "notebooks/evil.py", "evil.exe", "figures/x.svg", "page.js", ".bashrc", "rows/.hidden.jsonl",
    "rows/deep/x.jsonl", "rows/x.pkl", "model.safetensors", "evil\n.html", "notebooks/\u202ex.py", "Makefile",
])  # fmt: skip
def test_what_a_run_does_not_have_is_refused(admit, name):
    with pytest.raises(ParcelError, match="none of the kinds of file"):
        admit(entries=[(entry(name), b"x")])


def test_links_encryption_twins_and_odd_packings_are_refused(admit):
    with pytest.raises(ParcelError, match="is a link"):
        admit(entries=[(entry("rows/x.jsonl", stat.S_IFLNK | 0o777), b"/etc/passwd")])
    with pytest.raises(ParcelError, match="is in it twice"):
        admit(entries=[(entry("readings/E.jsonl"), b"{}")])
    with pytest.raises(ParcelError, match="is in it twice"):
        admit(entries=[(entry("readings/e.jsonl.gz"), gzip.compress(b"{}"))])
    with pytest.raises(ParcelError, match="a way that `share` does not use"):
        admit(entries=[(entry("rows/x.jsonl", compress_type=zipfile.ZIP_BZIP2), b"{}")])


def test_an_encrypted_entry_is_refused(admit, good, tmp_path):
    admit()
    data = bytearray((tmp_path / "r.zip").read_bytes())
    start = data.index(b"PK\x01\x02")
    data[start + 8] |= 1
    with pytest.raises(ParcelError, match="is encrypted"):
        admit(raw=bytes(data))


def test_bombs_are_refused(admit, monkeypatch):
    with pytest.raises(ParcelError, match="a zip bomb"):
        admit({"readings/x.jsonl": b" " * 5_000_000})
    with pytest.raises(ParcelError, match="unpacks to more than"):
        monkeypatch.setattr(parcel, "MOST_UNPACKED_BYTES", 10_000)
        admit()
    monkeypatch.undo()
    with pytest.raises(ParcelError, match=r"readings/x.jsonl.gz.* unpacks to more than 150,000,000 bytes"):
        admit({"readings/x.jsonl.gz": gzip.compress(b" " * 150_000_001)})
    monkeypatch.setattr(parcel, "MOST_FILES", 5)
    with pytest.raises(ParcelError, match="a run has at most 5"):
        admit()
    monkeypatch.setattr(parcel, "MOST_BYTES", 100)
    with pytest.raises(ParcelError, match="a shared run has at most 100"):
        admit()


def test_a_picture_bomb_is_refused(admit):
    bomb = io.BytesIO()
    Image.new("1", (8000, 8000)).save(bomb, "PNG")
    with pytest.raises(ParcelError, match="8000 × 8000 pixels"):
        admit({"figures/a-2-1.png": bomb.getvalue()})


def test_a_size_that_lies_is_refused(admit, tmp_path):
    admit()
    data = bytearray((tmp_path / "r.zip").read_bytes())
    start = data.index(b"PK\x01\x02")
    data[start + 24 : start + 28] = (7).to_bytes(4, "little")  # the size that its directory tells
    with pytest.raises(ParcelError, match=r"another size|cannot be unpacked"):
        admit(raw=bytes(data))


@pytest.mark.parametrize(("told", "words"), [
    ({"format": "other"}, "is not that of a shared run"), ({"files": []}, "is not that of a shared run"),
    ({"schema": 2}, "its schema is 2, this version reads 1; update ocrlab"), ({"schema": None}, "its schema is None"),
    ({"run": "../x"}, "no usable name; give one with --as"), ({"run": "x."}, "no usable name"),
])  # fmt: skip
def test_a_manifest_that_is_none_is_refused(admit, told, words):
    with pytest.raises(ParcelError, match=words):
        admit(told=told)


def test_what_the_manifest_does_not_vouch_for_is_refused(admit, good):
    with pytest.raises(ParcelError, match=r"'readings/e\.jsonl' is not what its manifest\.json says"):
        admit({"readings/e.jsonl": b"{}"}, keep=True)
    with pytest.raises(ParcelError, match=r"'readings/new\.jsonl' is not in its manifest\.json; someone added it"):
        admit({"readings/new.jsonl": b"{}"}, keep=True)
    with pytest.raises(ParcelError, match=r"'readings/e\.jsonl' is in its manifest\.json but not in the zip"):
        admit({"readings/e.jsonl": None}, keep=True)
    with pytest.raises(ParcelError, match=r"no manifest\.json in it; make the zip with"):
        zipped = io.BytesIO()
        with zipfile.ZipFile(zipped, "w") as archive:
            archive.writestr("run.json", "{}")
        admit(raw=zipped.getvalue())
    assert json.loads(good[MANIFEST])["files"]["run.json"] == hashlib.sha256(good["run.json"]).hexdigest()


def test_what_is_no_zip_is_refused(admit, tmp_path):
    with pytest.raises(ParcelError, match="no zip, or a damaged one"):
        admit(raw=b"hello")
    admit()
    whole = (tmp_path / "r.zip").read_bytes()
    broken = whole[:200] + bytes([whole[200] ^ 255, whole[201] ^ 255]) + whole[202:]
    with pytest.raises(ParcelError, match=r"cannot be unpacked|damaged|not what"):
        admit(raw=broken)
    with pytest.raises(ParcelError, match="cannot be read"):
        unpack_run(tmp_path / "absent.zip", tmp_path)


@pytest.mark.parametrize(("changes", "words"), [
    ({"readings/e.jsonl": b"[1]\n"}, "line 1: no object"), ({"readings/e.jsonl": b"{\n"}, "line 1: not JSON"),
    ({"readings/e.jsonl": b'{"cer": NaN}\n'}, "NaN is no JSON number"), ({"readings/e.jsonl": b"\xff\n"}, "not UTF-8"),
    ({"readings/e.jsonl": b"[" * 100_000 + b"\n"}, "not JSON"),
    ({"readings/e.jsonl": b"1" * 5_000 + b"\n"}, "line 1: "),
    ({"readings/e.jsonl": line(text=3)}, "line 1: its 'text' is no text"),
    ({"readings/e.jsonl": line(key=None)}, "its 'key'"),
    ({"readings/e.jsonl": line(status="fine")}, "status 'fine' is not one of ok, "),
    ({"readings/e.jsonl": line(asked={"dtype": "int3"})}, "dtype='int3' is not known"),
    ({"readings/e.jsonl": line(asked={"new": 1})}, "'new' is not a setting.*update ocrlab, or ask whoever made it"),
    ({"readings/e.jsonl": line(asked={})}, "'asked' lacks settings"),
    ({"readings/e.jsonl": line(measured={"page_s": "1"})}, "'measured' holds what is no number"),
    ({"readings/e.jsonl": line(actual=[])}, "'actual' is no object"), ({"readings/e.jsonl": line(truth=[])}, "'truth'"),
    ({"readings/e.jsonl": line(leaf=0)}, "'leaf' or 'dpi'"), ({"readings/e.jsonl": line(dpi="200")}, "'leaf' or 'dpi'"),
    ({"readings/e.jsonl": line(page="\x1b[31mred")}, "'page' holds control characters"),
    ({"readings/e.jsonl": line(text="x" * 100_001)}, "'text' is no text"),
    ({"readings/e.jsonl.gz": b"no gzip", "readings/e.jsonl": None}, "damaged gzip"),
    ({"run.json": b"[]"}, "'run.json': no object"), ({"run.json": b"{}"}, "'run' is missing"),
    ({"run.json": b'{"run": "x", "notebooks": {"a": 1}, "versions": {}, "machine": {}}'}, "'notebooks' holds"),
    ({"figures/a-2-1.png": b"<svg onload=alert(1)>"}, "no PNG picture"),
    ({"figures/a-2-1.png": b64decode(picture(kind="JPEG"))}, "no PNG picture"),
    ({"figures/a-2-1.png": b64decode(picture())[:60]}, "no PNG picture"),
    ({"notebooks/a.ipynb": b"{}"}, "no notebook"), ({"notebooks/a.ipynb": b"\x80"}, "no notebook"),
    ({"notebooks/a.ipynb": notebook(cells=[{"cell_type": "code"}])}, "no notebook"),
    ({"recommended.yaml": b"!!python/object/apply:os.system ['touch pwned']"}, "no preset"),
    ({"recommended.yaml": b"- 1"}, "a preset holds"), ({"recommended.yaml": b"evil: 1"}, "'evil' is not a setting"),
    ({"recommended.yaml": b"trust_remote_code: true\nrevision: " + b"a" * 40}, "trusts a repository's code"),
])  # fmt: skip
def test_a_file_that_is_not_what_its_name_says_is_refused(admit, changes, words):
    with pytest.raises(ParcelError, match=words):
        admit(changes)
    assert not Path("pwned").exists()


def test_a_figure_carries_pixels_and_nothing_else(admit, good):
    tail = b"<script>window.pwned=1</script>PK\x03\x04"
    _, folder = admit({"figures/a-2-1.png": good["figures/a-2-1.png"] + tail})
    data = (folder / "figures" / "a-2-1.png").read_bytes()
    assert tail not in data and Image.open(io.BytesIO(data)).convert("RGB").getpixel((0, 0)) == (255, 0, 0)


def test_a_notebooks_outputs_cannot_run(admit, tmp_path):
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "x"}, "text/plain": "w"}
    outputs = [display(text_html=text, text_plain=text) for text in EVERY]
    outputs += [
        display(application_javascript="alert(1)"),
        new_output("display_data", widget),
        display(image_svg_xml="<svg/>"),
    ]
    file = write(tmp_path / "n.ipynb", "# A?", ran("x", *outputs))
    made = nbformat.read(file, as_version=4)
    made.metadata["widgets"] = {"state": "<script>"}
    made.cells[0]["attachments"] = {"x.svg": {"image/svg+xml": "<svg onload=alert(1)>"}}
    nbformat.write(made, file)
    _, folder = admit({"notebooks/a.ipynb": file.read_bytes()})
    cleaned = nbformat.read(folder / "notebooks" / "a.ipynb", as_version=4)
    assert (
        set(cleaned.metadata) == {"kernelspec", "language_info", "papermill"} and "attachments" not in cleaned.cells[0]
    )
    shown = [output.data for output in cleaned.cells[1].outputs]
    assert len(shown) == len(EVERY) + 1 and all(set(data) <= {"text/html", "text/plain"} for data in shown)
    html = "".join(data.get("text/html", "") for data in shown)
    assert "<script" not in html.lower() and "<iframe" not in html.lower() and 'href="java' not in html.lower()
