"""A shared run names nobody: what is planted everywhere is nowhere in the zip, and pictures of own pages stay home."""

import gzip
import io
import json
import zipfile
from pathlib import Path

import pytest
from nbformat.v4 import new_output
from PIL import Image

from ocrlab import paths
from ocrlab.pages import load_pages
from ocrlab.report import parcel
from ocrlab.report.parcel import MANIFEST, ParcelError
from ocrlab.report.readings import picture_name
from ocrlab.report.scrub import scrub_all, scrubber
from ocrlab.report.share import pack_run
from ocrlab.study.origin import pages_by_hash
from ocrlab.study.records import pack_records
from tests.notebooks import write
from tests.report.test_report_site import display, picture, ran
from tests.runs import reading, write_run

SECRETS = ["karlotta", "Werkbank-7", "werkbank-7.lan", "/home/karlotta", "/Users/karlotta", "/home/other",
           "C:\\Users\\kar", str(paths.ROOT)]  # fmt: skip
SCRUB = scrubber("karlotta", ("werkbank-7.lan", "werkbank-7"), Path("/home/karlotta"))
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
    files = unpacked(pack_run(planted(tmp_path / "r"), tmp_path / "r.zip", scrub=SCRUB))
    assert set(files) == {
        "run.json", "readings/e.jsonl.gz", "findings/f.jsonl.gz", "notebooks/a.ipynb", "a.html",
        "index.html", "readings.html", "report.md", "style.css", "recommended.yaml", MANIFEST,
    }  # fmt: skip
    for name, data in files.items():
        text = (gzip.decompress(data) if name.endswith(".gz") else data).decode()
        found = [word for word in ("karlotta", "werkbank", "/home/", "/Users", "Users\\\\", str(paths.ROOT))
                 if word.lower() in text.lower()]  # fmt: skip
        assert not found, (name, found)
        assert name in ("style.css", MANIFEST) or "USER" in text or "HOST" in text, name


def test_a_pages_own_words_are_kept_and_words_that_only_look_alike(tmp_path):
    truth = "Karlotta baked a werkbank-7 cake. See /home/karlotta/x"
    files = unpacked(pack_run(write_run(tmp_path / "r", reading("p", truth, truth)), tmp_path / "r.zip", scrub=SCRUB))
    (one,) = map(json.loads, files["readings/e.jsonl"].decode().splitlines())
    assert one["text"] == one["truth"] == "Karlotta baked a werkbank-7 cake. See ~/x"
    assert SCRUB("karlottas werkbank-77 by-karlotta_x") == "karlottas werkbank-77 by-USER_x"
    root = scrubber("root", ("localhost",), Path("/root"))
    assert root("root cause on localhost in /root/x, /rooted") == "root cause on localhost in ~/x, /rooted"
    assert scrub_all({"karlotta": [1, None, True, "karlotta"]}, SCRUB) == {"USER": [1, None, True, "USER"]}


def test_the_defaults_are_of_whoever_runs_it(monkeypatch):
    monkeypatch.setattr("getpass.getuser", lambda: "karlotta")
    monkeypatch.setattr("socket.gethostname", lambda: "werkbank-7.lan")
    assert scrubber()(f"karlotta@werkbank-7.lan werkbank-7 {Path.home()}/a") == "USER@HOST HOST ~/a"


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
    assert [name for name in files if name.startswith(("figures", "pages"))] == ["figures/a-4-1.png"]
    assert "left out" in files["a.html"].decode() and "base64" not in files["notebooks/a.ipynb"].decode()
    files = unpacked(pack_run(run, tmp_path / "with.zip", images=scan))
    (copy,) = [name for name in files if name.startswith("pages/")]
    assert b"Karlotta" not in files[copy] and f'src="{copy}"' in files["readings.html"].decode()
    assert {"figures/a-2-1.png", "figures/a-4-1.png"} < set(files)
    with pytest.raises(ParcelError, match="holds none of this run's pages"):
        pack_run(run, tmp_path / "no.zip", images=tmp_path / "r")


def test_images_of_leaves_and_of_folders_below_go_along(tmp_path):
    (tmp_path / "scans" / "below").mkdir(parents=True)
    red, blue = Image.new("RGB", (60, 30), "red"), Image.new("RGB", (60, 30), "blue")
    red.save(tmp_path / "scans" / "below" / "p.png")
    blue.save(tmp_path / "scans" / "book.pdf", save_all=True, append_images=[red], resolution=100)
    image, *leaves = load_pages(tmp_path / "scans", recursive=True, dpi=100)
    assert image.sha256 in pages_by_hash([tmp_path / "scans"])
    read = [reading(page.id, page_sha256=page.sha256, leaf=page.leaf, dpi=page.dpi) for page in leaves]
    run = write_run(tmp_path / "r", reading(image.id, page_sha256=image.sha256), *read)
    files = unpacked(pack_run(run, tmp_path / "r.zip", images=tmp_path / "scans"))
    wanted = {f"pages/{picture_name(page.sha256)}" for page in (image, *leaves)}
    assert len(wanted) == 3 and {name for name in files if name.startswith("pages/")} == wanted
    colours = [Image.open(io.BytesIO(files[f"pages/{picture_name(page.sha256)}"])).getpixel((9, 9)) for page in leaves]
    assert [colour.index(max(colour)) for colour in colours] == [2, 0], "blue, then red"


def test_a_page_set_that_was_asked_for_counts_even_if_nothing_was_read(tmp_path):
    entry = {"status": "error", "parameters": {"page_sets": ["lines", "/scans"]}}
    run = write_run(tmp_path / "r", notebooks={"a": entry})
    write(run / "notebooks" / "a.ipynb", "# A?", ran("show_pages(some)", display(image_png=picture("red"))))
    assert not [n for n in unpacked(pack_run(run, tmp_path / "r.zip")) if n.startswith("figures")]


def test_our_own_pages_are_in_every_checkout(tmp_path):
    from ocrlab.pages import load_pages

    ours = load_pages("labels", limit=1)[0]
    run = write_run(tmp_path / "r", reading(ours.id, "x", ours.truth, page_sha256=ours.sha256))
    write(run / "notebooks" / "a.ipynb", "# A?", ran("show_pages(some)", display(image_png=picture("red"))))
    files = unpacked(pack_run(run, tmp_path / "r.zip"))
    assert "figures/a-2-1.png" in files and not any(name.startswith("pages/") for name in files)
    assert "../../data/pages/labels/001.png" in files["readings.html"].decode()
    assert ours.id in (run / "readings" / "e.jsonl").read_text(encoding="utf-8")  # the run itself is left as it was
    assert not (run / "index.html").exists() and picture_name("a" * 64) == f"{'a' * 16}.png"


def test_too_large_and_damaged_runs_are_refused_by_name(tmp_path, monkeypatch):
    run = write_run(tmp_path / "r", reading())
    monkeypatch.setattr("ocrlab.report.share.MOST_BYTES", 3_000)
    with pytest.raises(ParcelError, match=r"3,000 are allowed; the largest files are style\.css \([\d,]+ bytes\), "):
        pack_run(run, tmp_path / "r.zip")
    assert not (tmp_path / "r.zip").exists() and parcel.MOST_BYTES == 10_000_000
    (run / "readings" / "e.jsonl").write_text("{", encoding="utf-8")
    with pytest.raises(ParcelError, match=r"readings/e\.jsonl: not JSON .*; mend or remove it"):
        pack_run(run, tmp_path / "r.zip")
    with pytest.raises(ParcelError, match=r"no run\.json there"):
        pack_run(tmp_path, tmp_path / "r.zip")


def test_the_same_run_gives_the_same_zip(tmp_path):
    run = write_run(tmp_path / "r", reading())
    one, two = (pack_run(run, tmp_path / name).read_bytes() for name in ("1.zip", "2.zip"))
    assert one == two
