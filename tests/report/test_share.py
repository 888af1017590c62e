"""A shared run names nobody; a zip from elsewhere holds what a run does, or is refused."""

import gzip
import hashlib
import io
import json
import stat
import zipfile
from pathlib import Path

import pytest
from nbformat.v4 import new_output
from PIL import Image

from ocrlab import paths
from ocrlab.pages import load_pages
from ocrlab.reading.result import Reading
from ocrlab.report import share
from ocrlab.report.evidence import picture_name
from ocrlab.report.share import MANIFEST, ShareError, anonymise_all, anonymiser, manifest, pack_run, unpack_run
from ocrlab.study.records import pack_records
from ocrlab.study.rereading import pages_by_hash
from tests.notebooks import display, picture, ran, write
from tests.runs import reading, write_run

SECRETS = ["karlotta", "Werkbank-7", "werkbank-7.lan", "/home/karlotta", "/Users/karlotta", "/home/other",
           "C:\\Users\\kar", str(paths.ROOT)]  # fmt: skip
ANONYMISE = anonymiser("karlotta", ("werkbank-7.lan", "werkbank-7"), Path("/home/karlotta"))
TELLING = " and ".join(f"{secret}/x" for secret in SECRETS) + " KARLOTTA's"


def planted(folder: Path) -> Path:
    one = reading(f"{TELLING}.png", "read", "read", reason=TELLING, status="truncated", machine=TELLING, set=TELLING,
                  asked={"model_id": f"/home/karlotta/models/{TELLING}"}, actual={TELLING: [TELLING]})  # fmt: skip
    entry = {"status": "error", "reason": TELLING, "parameters": {"page_set": TELLING}}
    run = write_run(folder, one, platform=TELLING, machine={TELLING: TELLING}, sessions=[{"asked": TELLING}],
                    notebooks={"a": entry})  # fmt: skip
    (run / "findings").mkdir()
    (run / "findings" / "f.jsonl").write_text(json.dumps({"machine": TELLING, "n": 1}) + "\n", encoding="utf-8")
    (run / "recommended.yaml").write_text(f"# {TELLING}\nmax_new_tokens: 5\n", encoding="utf-8")
    write(run / "notebooks" / "a.ipynb", f"# {TELLING}?", ran(
        f"x = {TELLING!r}", new_output("stream", name="stdout", text=TELLING), display(text_html=f"<b>{TELLING}</b>"),
        new_output("error", ename="E", evalue=TELLING, traceback=[TELLING]), tags=["headline"]))  # fmt: skip
    pack_records(run)
    (run / "secret.txt").write_text(TELLING, encoding="utf-8")
    (run / ".hidden").write_text(TELLING, encoding="utf-8")
    return run


def unpacked(file: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_what_names_a_person_or_a_machine_is_in_no_file(tmp_path):
    files = unpacked(pack_run(planted(tmp_path / "r"), tmp_path / "r.zip", anonymise=ANONYMISE))
    assert set(files) == {
        "run.json", "readings/e.jsonl.gz", "findings/f.jsonl.gz", "recommended.yaml", MANIFEST,
        "index.html", "readings.html", "report.md", "style.css",
    }  # fmt: skip
    for name, data in files.items():
        text = (gzip.decompress(data) if name.endswith(".gz") else data).decode()
        found = [word for word in ("karlotta", "werkbank", "/home/", "/Users", "Users\\\\", str(paths.ROOT))
                 if word.lower() in text.lower()]  # fmt: skip
        assert not found, (name, found)
        assert name in ("style.css", MANIFEST) or "USER" in text or "HOST" in text, name


def test_a_pages_own_words_are_kept_and_words_that_only_look_alike(tmp_path):
    truth = "Karlotta baked a werkbank-7 cake. See /home/karlotta/x"
    facts = [{"present": truth}, {"row": "Karlotta", "cell": truth}]
    run = write_run(tmp_path / "r", reading("p", truth, truth, facts=facts))
    files = unpacked(pack_run(run, tmp_path / "r.zip", anonymise=ANONYMISE))
    (one,) = map(json.loads, files["readings/e.jsonl"].decode().splitlines())
    assert one["text"] == one["truth"] == "Karlotta baked a werkbank-7 cake. See ~/x"
    assert one["facts"] == [{"present": one["text"]}, {"row": "Karlotta", "cell": one["text"]}]
    assert ANONYMISE("karlottas werkbank-77 by-karlotta_x") == "karlottas werkbank-77 by-USER_x"
    root = anonymiser("root", ("localhost",), Path("/root"))
    assert root("root cause on localhost in /root/x, /rooted") == "root cause on localhost in ~/x, /rooted"
    assert anonymise_all({"karlotta": [1, None, True, "karlotta"]}, ANONYMISE) == {"USER": [1, None, True, "USER"]}


def test_the_defaults_are_of_whoever_runs_it(monkeypatch):
    monkeypatch.setattr("getpass.getuser", lambda: "karlotta")
    monkeypatch.setattr("socket.gethostname", lambda: "werkbank-7.lan")
    assert anonymiser()(f"karlotta@werkbank-7.lan werkbank-7 {Path.home()}/a") == "USER@HOST HOST ~/a"


def pictured(folder: Path, page: Path) -> Path:
    """A run that read a page of the user's, with its picture in a notebook and a figure of what was measured."""
    from ocrlab.pages import load_pages

    one = load_pages(page)[0]
    run = write_run(folder, reading(one.id, "x", "y", page_sha256=one.sha256))
    embedded = f"<p>own</p><img src='data:image/png;base64,{picture('red')}'>"
    write(run / "notebooks" / "a.ipynb", "# A?", ran("plots.show_pages(some)", display(image_png=picture("red"))),
          "Measured.", ran("plots.error(rows)", display(image_png=picture("blue"))), "Table.",
          ran("table", display(text_html=embedded)))  # fmt: skip
    return run


@pytest.fixture
def scan(tmp_path):
    (tmp_path / "scans").mkdir()
    exif = Image.Exif()
    exif[0x010E] = "taken by Karlotta"
    Image.new("RGB", (60, 30), "red").save(tmp_path / "scans" / "p.jpg", exif=exif)
    return tmp_path / "scans"


def test_pictures_of_own_pages_stay_home_unless_asked_for(tmp_path, scan):
    run = pictured(tmp_path / "r", scan)
    files = unpacked(pack_run(run, tmp_path / "r.zip"))
    assert not [name for name in files if name.startswith(("figures", "pages", "notebooks"))]
    assert not any(b"base64," in data or b"show_pages" in data for data in files.values())
    files = unpacked(pack_run(run, tmp_path / "with.zip", images=scan))
    (copy,) = [name for name in files if name.startswith("pages/")]
    assert b"Karlotta" not in files[copy] and f'src="{copy}"' in files["readings.html"].decode()
    assert not [name for name in files if name.startswith(("figures", "notebooks"))]
    with pytest.raises(ShareError, match="holds none of this run's pages"):
        pack_run(run, tmp_path / "no.zip", images=tmp_path / "r")


def test_images_of_leaves_and_of_folders_below_go_along(tmp_path):
    (tmp_path / "scans" / "below").mkdir(parents=True)
    red, blue = Image.new("RGB", (60, 30), "red"), Image.new("RGB", (60, 30), "blue")
    red.save(tmp_path / "scans" / "below" / "p.png")
    blue.save(tmp_path / "scans" / "book.pdf", save_all=True, append_images=[red], resolution=100)
    image, *leaves = load_pages(tmp_path / "scans", recursive=True, dpi=100)
    assert image.sha256 in pages_by_hash([tmp_path / "scans"])
    read = [reading(page.id, page_sha256=page.sha256, page_number=page.page_number, dpi=page.dpi) for page in leaves]
    run = write_run(tmp_path / "r", reading(image.id, page_sha256=image.sha256), *read)
    files = unpacked(pack_run(run, tmp_path / "r.zip", images=tmp_path / "scans"))
    wanted = {f"pages/{picture_name(page.sha256)}" for page in (image, *leaves)}
    assert len(wanted) == 3 and {name for name in files if name.startswith("pages/")} == wanted
    colours = [Image.open(io.BytesIO(files[f"pages/{picture_name(page.sha256)}"])).getpixel((9, 9)) for page in leaves]
    assert [colour.index(max(colour)) for colour in colours] == [2, 0], "blue, then red"


def test_our_own_pages_are_in_every_checkout(tmp_path):
    ours = load_pages("labels", limit=1)[0]
    run = write_run(tmp_path / "r", reading(ours.id, "x", ours.truth, page_sha256=ours.sha256))
    files = unpacked(pack_run(run, tmp_path / "r.zip"))
    assert not any(name.startswith("pages/") for name in files)
    assert "../../data/pages/labels/001.png" in files["readings.html"].decode()
    assert ours.id in (run / "readings" / "e.jsonl").read_text(encoding="utf-8")  # the run itself is left as it was
    assert not (run / "index.html").exists() and picture_name("a" * 64) == f"{'a' * 16}.png"


def test_too_large_and_damaged_runs_are_refused_by_name(tmp_path, monkeypatch):
    run = write_run(tmp_path / "r", reading())
    monkeypatch.setattr("ocrlab.report.share.MOST_BYTES", 3_000)
    with pytest.raises(ShareError, match=r"3,000 are allowed; the largest files are style\.css, "):
        pack_run(run, tmp_path / "r.zip")
    assert not (tmp_path / "r.zip").exists()
    (run / "readings" / "e.jsonl").write_text("{", encoding="utf-8")
    with pytest.raises(ShareError, match=r"readings[/\\]e\.jsonl: not JSON .*; mend or remove it"):
        pack_run(run, tmp_path / "r.zip")
    with pytest.raises(ShareError, match=r"no run\.json there"):
        pack_run(tmp_path, tmp_path / "r.zip")


def test_the_same_run_gives_the_same_zip(tmp_path):
    run = write_run(tmp_path / "r", reading())
    one, two = (pack_run(run, tmp_path / name).read_bytes() for name in ("1.zip", "2.zip"))
    assert one == two


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> dict[str, bytes]:
    """The files of a shared run that is as it should be."""
    folder = tmp_path_factory.mktemp("good")
    run = write_run(folder / "their-card", reading())
    (run / "recommended.yaml").write_text("# because\nmax_new_tokens: 5\n", encoding="utf-8")
    return unpacked(pack_run(run, folder / "r.zip"))


@pytest.fixture
def add(tmp_path, good):
    """Unpack a zip with files changed, added or (None) left out, its manifest right unless `keep` says otherwise."""

    def tried(
        changes: dict | None = None, *, said: dict | None = None, keep: bool = False, entries=(), raw: bytes = b""
    ):
        files = {n: d for n, d in (good | (changes or {})).items() if d is not None and n != MANIFEST}
        whole = json.loads(manifest("their-card", files)) | (said or {})
        files[MANIFEST] = good[MANIFEST] if keep else json.dumps(whole).encode()
        with zipfile.ZipFile(tmp_path / "r.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
            for entry, data in entries:
                archive.writestr(entry, data)
        if raw:
            (tmp_path / "r.zip").write_bytes(raw)
        (tmp_path / "out").mkdir(exist_ok=True)
        return *unpack_run(tmp_path / "r.zip", tmp_path / "out"), tmp_path / "out"

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


def test_a_good_one_is_unpacked_without_its_pages(add):
    run, passed_over, folder = add()
    assert (run, passed_over) == ("their-card", [])
    names = sorted(f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file())
    assert names == ["readings/e.jsonl", "recommended.yaml", "run.json"]
    assert (folder / "recommended.yaml").read_text(encoding="utf-8") == "# because\nmax_new_tokens: 5\n"


def test_all_that_a_reading_measures_is_let_in(add):
    """A field in words that is new in `Reading` would otherwise be refused on every other machine."""
    measured = Reading("p", "abc", "ok", "").measured()
    assert {name for name, value in measured.items() if isinstance(value, str)} == {"retried", "stop_reason"}
    add({"readings/e.jsonl": line(measured=measured)})


def test_notebooks_and_pictures_of_an_older_zip_are_passed_over_unread(add):
    """An older version put them in; whatever they hold, it is not opened and not written."""
    older = {
        "notebooks/a.ipynb": b"{",
        "figures/a-2-1.png": b"<svg onload=alert(1)>",
        "pages/x.png": b"no picture",
        "rows/e.jsonl": b'{"cer": NaN}',
        "a.html": b"<script>",
    }
    run, passed_over, folder = add(older)
    assert run == "their-card" and passed_over == ["notebooks/a.ipynb", "figures/a-2-1.png", "pages/x.png"]
    names = {f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file()}
    assert names == {"readings/e.jsonl", "recommended.yaml", "run.json"}


@pytest.mark.parametrize(
    "name", ["../evil.json", "/etc/evil", "rows/../../evil.jsonl", "C:\\evil.jsonl", "\\evil", "a\\..\\b"]
)
def test_a_name_that_leads_outside_is_refused(add, name):
    with pytest.raises(ShareError, match="would be written outside"):
        add(entries=[(entry(name), b"{}")])


@pytest.mark.parametrize("name", [
    "evil.py", "evil.sh", "notebooks/evil.py", "evil.exe", "figures/x.svg", "page.js", ".bashrc", "rows/.hidden.jsonl",
    "rows/deep/x.jsonl", "rows/x.pkl", "model.safetensors", "evil\n.html", "notebooks/\u202ex.py", "Makefile",
])  # fmt: skip
def test_what_a_run_does_not_have_is_refused(add, name):
    with pytest.raises(ShareError, match="none of the kinds of file"):
        add(entries=[(entry(name), b"x")])


def test_links_encryption_twins_and_odd_packings_are_refused(add):
    with pytest.raises(ShareError, match="is a link"):
        add(entries=[(entry("readings/x.jsonl", stat.S_IFLNK | 0o777), b"/etc/passwd")])
    with pytest.raises(ShareError, match="is in it twice"):
        add(entries=[(entry("readings/E.jsonl"), b"{}")])
    with pytest.raises(ShareError, match="is in it twice"):
        add(entries=[(entry("readings/e.jsonl.gz"), gzip.compress(b"{}"))])
    with pytest.raises(ShareError, match="a compression `share` does not use"):
        add(entries=[(entry("rows/x.jsonl", compress_type=zipfile.ZIP_BZIP2), b"{}")])


def test_an_encrypted_entry_is_refused(add, good, tmp_path):
    add()
    data = bytearray((tmp_path / "r.zip").read_bytes())
    start = data.index(b"PK\x01\x02")
    data[start + 8] |= 1
    with pytest.raises(ShareError, match="is encrypted"):
        add(raw=bytes(data))


def test_bombs_are_refused(add, monkeypatch):
    with pytest.raises(ShareError, match="a zip bomb"):
        add({"readings/x.jsonl": b" " * 5_000_000})
    with pytest.raises(ShareError, match="unpacks to more than"):
        monkeypatch.setattr(share, "MOST_UNPACKED_BYTES", 10_000)
        add()
    monkeypatch.undo()
    with pytest.raises(ShareError, match=r"readings/x.jsonl.gz.* unpacks to more than 150,000,000 bytes"):
        add({"readings/x.jsonl.gz": gzip.compress(b" " * 150_000_001)})
    monkeypatch.setattr(share, "MOST_FILES", 5)
    with pytest.raises(ShareError, match="a run has at most 5"):
        add()
    monkeypatch.setattr(share, "MOST_BYTES", 100)
    with pytest.raises(ShareError, match="a shared run has at most 100"):
        add()


def test_a_size_that_lies_is_refused(add, tmp_path):
    add()
    data = bytearray((tmp_path / "r.zip").read_bytes())
    start = data.rindex(b"run.json") - 46  # its entry in the zip's directory, which ends in the name
    data[start + 24 : start + 28] = (7).to_bytes(4, "little")  # the size that its directory tells
    with pytest.raises(ShareError, match=r"another size|cannot be unpacked"):
        add(raw=bytes(data))


@pytest.mark.parametrize(("said", "words"), [
    ({"format": "other"}, "is not that of a shared run"), ({"files": []}, "is not that of a shared run"),
    ({"schema": 2}, "of a shared run with schema 1; update ocrlab"), ({"schema": None}, "with schema 1"),
    ({"run": "../x"}, "no usable name; give one with --as"), ({"run": "x."}, "no usable name"),
])  # fmt: skip
def test_a_manifest_that_is_none_is_refused(add, said, words):
    with pytest.raises(ShareError, match=words):
        add(said=said)


def test_what_the_manifest_does_not_vouch_for_is_refused(add, good):
    said = r" is not what its manifest\.json says"
    with pytest.raises(ShareError, match=r"'readings/e\.jsonl'" + said):
        add({"readings/e.jsonl": line(text="better")}, keep=True)
    with pytest.raises(ShareError, match=r"'readings/new\.jsonl'" + said):
        add({"readings/new.jsonl": line()}, keep=True)
    with pytest.raises(ShareError, match=r"'readings/e\.jsonl'" + said):
        add({"readings/e.jsonl": None}, keep=True)
    with pytest.raises(ShareError, match=r"no manifest\.json or no run\.json in it; make the zip with"):
        zipped = io.BytesIO()
        with zipfile.ZipFile(zipped, "w") as archive:
            archive.writestr("run.json", "{}")
        add(raw=zipped.getvalue())
    assert json.loads(good[MANIFEST])["files"]["run.json"] == hashlib.sha256(good["run.json"]).hexdigest()


def test_what_is_no_zip_is_refused(add, tmp_path):
    with pytest.raises(ShareError, match="no zip, or a damaged one"):
        add(raw=b"hello")
    add()
    broken = bytearray((tmp_path / "r.zip").read_bytes())
    broken[broken.index(b"run.json") + 20] ^= 255
    with pytest.raises(ShareError, match=r"cannot be unpacked|damaged|not what"):
        add(raw=bytes(broken))
    with pytest.raises(ShareError, match="cannot be read"):
        unpack_run(tmp_path / "absent.zip", tmp_path)


@pytest.mark.parametrize(("changes", "words"), [
    ({"readings/e.jsonl": b"[1]\n"}, "line 1: no object"), ({"readings/e.jsonl": b"{\n"}, "line 1: not JSON"),
    ({"findings/f.jsonl": b'{"x": NaN}\n'}, "NaN is no JSON number"), ({"findings/f.jsonl": b"\xff\n"}, "not JSON"),
    ({"findings/f.jsonl": '{"x": 1}'.encode("utf-16")}, "not JSON"), ({"findings/f.jsonl": b"1\n"}, "no object"),
    ({"readings/e.jsonl": b"[" * 100_000 + b"\n"}, "not JSON"), ({"findings/f.jsonl": b"1" * 5_000}, "line 1: "),
    ({"readings/e.jsonl": line(text=3)}, "line 1: 'text' is missing or of another kind"),
    ({"readings/e.jsonl": line(key=None)}, "'key'"), ({"readings/e.jsonl": line(truth=[])}, "'truth'"),
    ({"readings/e.jsonl": line(status="fine")}, "status 'fine' is not one of ok, "),
    ({"readings/e.jsonl": line(asked={"dtype": "int3"})}, "dtype='int3' is not known"),
    ({"readings/e.jsonl": line(asked={"new": 1})}, "'new' is not a setting.*update ocrlab, or ask whoever made it"),
    ({"readings/e.jsonl": line(asked={})}, "'asked' lacks settings"),
    ({"readings/e.jsonl": line(measured={"page_s": "1"})}, "'measured' holds what is no number"),
    ({"readings/e.jsonl": line(actual=[])}, "'actual' is missing or of another kind"),
    ({"readings/e.jsonl": line(page_number=0)}, "'page_number' or 'dpi'"),
    ({"readings/e.jsonl": line(leaf=0)}, "'page_number' or 'dpi'"),
    ({"readings/e.jsonl": line(facts={})}, "its 'facts': {} is no fact"),
    ({"readings/e.jsonl": line(facts=[{"row": "a"}])}, "its 'facts': {'row': 'a'} is no fact; write"),
    ({"readings/e.jsonl": line(dpi="200")}, "'page_number' or 'dpi'"),
    ({"readings/e.jsonl": line(page="\x1b[31mred")}, "'page' holds control characters"),
    ({"readings/e.jsonl": line(text="x" * 100_001)}, "a text of more than 100,000 letters"),
    ({"readings/e.jsonl.gz": b"no gzip", "readings/e.jsonl": None}, "damaged gzip"),
    ({"run.json": b"[]"}, "'run.json': no object"), ({"run.json": b"{}"}, "'run' is missing"),
    ({"run.json": b'{"run": "x", "notebooks": {"a": 1}, "versions": {}, "machine": {}}'}, "'notebooks' holds"),
    ({"recommended.yaml": b"!!python/object/apply:os.system ['touch pwned']"}, "no preset"),
    ({"recommended.yaml": b"- 1"}, "a preset holds"), ({"recommended.yaml": b"evil: 1"}, "'evil' is not a setting"),
    ({"recommended.yaml": b"trust_remote_code: true\nrevision: " + b"a" * 40}, "trusts a repository's code"),
])  # fmt: skip
def test_a_file_that_is_not_what_its_name_says_is_refused(add, changes, words):
    with pytest.raises(ShareError, match=words):
        add(changes)
    assert not Path("pwned").exists()
