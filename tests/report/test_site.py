"""The site from made-up runs: what is shown, and that no text in it can become markup, script or a request."""

import hashlib
import json
import os
import re
import shlex
import subprocess
from base64 import b64encode
from html.parser import HTMLParser
from pathlib import Path

import pytest
from bleach._vendor import html5lib  # nbconvert brings it; a parser of its own, to check nh3's work
from nbformat.v4 import new_output
from PIL import Image

from ocrlab.commands.parameters import parse_overrides
from ocrlab.report import site as site_module
from ocrlab.report.site import build_site, command_of
from tests.hostile import EVERY, HOSTILE
from tests.notebooks import display, picture, ran, write

TAGS = """
    html head meta title link script body header nav main section article div span p a br hr h1 h2 h3 h4 h5 h6 ul ol li
    form label select option input output dl dt dd
    pre code kbd samp var em strong b i u s q sub sup small mark del ins abbr blockquote figure figcaption details
    summary img table caption colgroup col thead tbody tfoot tr th td
    """


SCRIPT = (Path(site_module.__file__).parent / "site.js").read_text(encoding="utf-8")

TABLE = (
    "<style scoped>.dataframe{color:red}</style><table border='1' class='dataframe'><tr><th>CER</th>"
    "<td style='color:#000;background:#E69F00'>0.05</td></tr></table>"
)
WIDGET = "application/vnd.jupyter.widget-view+json"


def run_folder(folder: Path, notebooks: dict, record: dict | None = None) -> Path:
    (folder / "notebooks").mkdir(parents=True)
    for name, cells in notebooks.items():
        write(folder / "notebooks" / f"{name}.ipynb", *cells)
    if record is not None:
        (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


class Page(HTMLParser):
    """Every element of a page with its attributes, and its text."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.pieces: list[str] = []
        self.scripts: list[str] = []
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        (self.scripts if self.elements and self.elements[-1][0] == "script" else self.pieces).append(data)

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def every(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]


def as_a_browser_sees_it(file: Path) -> list[tuple[str, dict]]:
    tree = html5lib.parse(file.read_text(encoding="utf-8"), namespaceHTMLElements=False)
    clean = re.compile(r"\{.*\}")
    return [
        (clean.sub("", e.tag), {clean.sub("", n): v for n, v in e.attrib.items()})
        for e in tree.iter()
        if isinstance(e.tag, str)
    ]


def assert_harmless(file: Path) -> None:
    assert Page(file).scripts[0] == SCRIPT  # ours, and nothing in it
    for elements in (Page(file).elements, as_a_browser_sees_it(file)):
        assert {tag for tag, _ in elements} <= set(TAGS.split())
        assert [a for tag, a in elements if tag == "link"] == [{"rel": "stylesheet", "href": "style.css"}]
        assert [a for tag, a in elements if tag == "script"] == [{}]
        for tag, attributes in elements:
            for name, value in attributes.items():
                assert not name.startswith("on") and name not in (
                    "srcset",
                    "ping",
                    "srcdoc",
                    "background",
                    "formaction",
                )
                assert tag == "meta" or name != "http-equiv"
                if name == "src":
                    assert re.fullmatch(r"figures/[\w.%-]+|\.\./\.\./data/pages/\w+/\w+\.png", value), value
                elif name == "href":
                    assert re.match(r"https?://[\w.]+|#|(\.\./)?[\w.%/-]+\.html(#|$)|mailto:", value) or tag == "link"
                    assert tag in ("a", "link")
                elif name == "style":
                    assert not re.search(r"url|expression|position|@|inset", value), value


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A run with one good notebook, a failed one and a skipped one."""
    good = [
        "# How many *pixels* does a `max_pixels` page [need](x)?\n\nIt is (S + D + I) / N ≤ QKᵀ.\n\n"
        "| a | b |\n|---|--:|\n| 1 | 2 |",
        ran("pages = 20", tags=["parameters"]), ran("pages = 3", tags=["injected-parameters"]),
        "More text. The error falls with the pixel budget:",
        ran("plot()", display(image_png=picture("red"), text_plain="<Figure>"), display(image_png=picture("blue"))),
        ran("again()", display(image_png=picture("red")), display(image_jpeg=picture("green", "JPEG"), metadata={
            "image/jpeg": {"alt": "A green one"}}), title="Unused"),
        ran("table", new_output("execute_result", {"text/html": TABLE, "text/plain": "CER 0.05"}, execution_count=1)),
        ran("widget", new_output("display_data", {WIDGET: {"model_id": "0123abc"}, "text/plain": "Slider(3)"}),
            display(application_javascript="alert(1)"), display(application_json={"secret": 1})),
        ran("say", new_output("stream", name="stdout", text="CER 5.1 %\n(4.5 to 5.7) * 2\n"), tags=["headline"]),
        ran("warn", new_output("stream", name="stderr", text="\x1b[31mcareful\x1b[0m <&>")),
    ]  # fmt: skip
    died = new_output("error", ename="DeadKernelError", evalue="died", traceback=["died"])
    bad = ["# Why did it die?", ran("1/0", died, status="failed"), ran("never", status="pending")]
    record = {
        "run": "r", "profile": "cpu", "profile_reason": "no GPU", "started": "2026-11-23T13:31:33+00:00", "ended": None,
        "commit": "a" * 40, "dirty": True, "versions": {"torch": "2.13.0"}, "platform": "Linux-6",
        "machine": {"cpu": "Ryzen", "memory_bytes": 2**34, "gpu": None},
        "notebooks": {
            "04-pixels": {"status": "ok", "seconds": 92.5, "parameters": {"pages": 3, "model_id": "tiny"}},
            "06-assert": {"status": "crashed", "seconds": 3, "cell": "cell 2, In [1]",
                          "reason": "DeadKernelError: died"},
            "07-limits": {"status": "skipped", "seconds": 0, "reason": "needs a GPU: torch sees none"},
        },
    }  # fmt: skip
    folder = run_folder(tmp_path_factory.mktemp("results") / "r", {"04-pixels": good, "06-assert": bad}, record)
    (folder / "readings").mkdir()
    (folder / "readings" / "pixels.jsonl").write_text(
        '{"status": "ok"}\n' * 5 + '{"status": "oom"}\n{"st', encoding="utf-8"
    )
    (folder / "figures").mkdir()
    (folder / "figures" / "04-pixels-99-1.png").write_bytes(b"of an earlier build")
    (folder / "figures" / "saved-by-a-notebook.png").write_bytes(b"stays")
    (folder / "notebooks" / "x.part.ipynb").write_text("{")
    assert build_site(folder) == folder / "index.html"
    return folder


def test_the_folder_holds_the_site_and_nothing_left_over(site):
    assert sorted(p.name for p in site.glob("*.html")) == ["04-pixels.html", "06-assert.html", "index.html"]
    assert sorted(p.name for p in (site / "figures").iterdir()) == [
        "04-pixels-5-1.png",
        "04-pixels-5-2.png",
        "04-pixels-6-2.jpg",
        "saved-by-a-notebook.png",
    ]  # fmt: skip


def test_each_figure_is_stored_once_and_found_again(site):
    text = (site / "notebooks" / "04-pixels.ipynb").read_text(encoding="utf-8")
    assert "image/png" not in text and "image/jpeg" not in text and '"ocrlab_figure": "04-pixels-5-2.png"' in text
    assert "![The error falls with the pixel budget](../figures/04-pixels-5-1.png)" in text
    assert "Slider(3)" not in text and "0123abc" not in text  # a widget's state at birth


def test_a_link_to_a_figure_that_is_not_there_shows_nothing(tmp_path):
    linked = [new_output("display_data", {"text/plain": "gone"}, metadata={"ocrlab_figure": name})
              for name in ("../secret.png", "a-2-9.png", "x.svg", 7)]  # fmt: skip
    folder = run_folder(tmp_path / "r", {"a": ["# A?", ran("1", *linked)]})
    (tmp_path / "secret.png").write_bytes(b"\x89PNG")
    build_site(folder)
    assert not Page(folder / "a.html").every("img") and Page(folder / "a.html").text.count("gone") == 4


def test_the_digest_says_what_the_index_says(site):
    text = (site / "report.md").read_text(encoding="utf-8")
    for words in (
        "# ocrlab run r", "1 did not finish", "CER 5.1 %", "![A green one](figures/04-pixels-6-2.jpg)",
        "make reproduce ONLY=04-pixels RUN=r", "5 ok, 1 oom, 1 damaged", "| gpu | none |", "failed\\: the kernel died",
    ):  # fmt: skip
        assert words in text, words


def test_the_index_tells_the_run(site):
    page = Page(site / "index.html")
    text = " ".join(" ".join(page.pieces).split())
    for words in (
        "ocrlab run r", "1 did not finish", "Profile cpu (no GPU).", "From 2026-11-23 13:31 +00:00.", "Ryzen",
        "aaaaaaaaaaaa with changes", "How many pixels does a max_pixels page need?", "completed 1 min 32 s", "16.0 GiB",
        "CER 5.1 % (4.5 to 5.7) * 2", "gpu none", "torch 2.13.0", "failed: the kernel died in cell 2, In [1]",
        "DeadKernelError: died", "skipped needs a GPU: torch sees none", 'pages 3 model_id "tiny"',
        "readings/pixels.jsonl 7: 5 ok, 1 oom, 1 damaged", "make reproduce ONLY=04-pixels RUN=r",
    ):  # fmt: skip
        assert words in text, words
    thumbnails = ["5-1.png", "5-2.png", "5-1.png", "6-2.jpg"]
    assert [i["src"] for i in page.every("img")] == [f"figures/04-pixels-{name}" for name in thumbnails]
    links = [a["href"] for a in page.every("a")]
    assert "06-assert.html#cell-id=failed" in links and "04-pixels.html#cell-id=c5" in links
    assert not any("07-limits" in link for link in links)


def test_figures_say_what_they_show(site):
    alts = [i["alt"] for i in Page(site / "04-pixels.html").every("img")]
    assert alts == ["The error falls with the pixel budget"] * 2 + ["Unused", "A green one"]
    for file in ("04-pixels.html", "index.html"):
        for image in Page(site / file).every("img"):
            assert Image.open(site / image["src"]).size == (40, 20)


def test_outputs_show_in_their_safe_form(site):
    text = (site / "04-pixels.html").read_text(encoding="utf-8")
    assert "Slider(3)" not in text and "0123abc" not in text and "alert(1)" not in text and "secret" not in text
    assert "dataframe{" not in text and "color:#000;background:#E69F00" in text.replace(": ", ":").replace("; ", ";")
    assert "&lt;&amp;&gt;" in text and "ansi-red-fg" in text
    assert 'class="highlight' in text and "celltag_injected-parameters" in text


def test_a_failed_notebook_says_so_in_words(site):
    page = Page(site / "06-assert.html")
    assert "This run of the notebook did not finish: failed: the kernel died in cell 2, In [1]" in " ".join(
        page.text.split()
    )
    assert {"id": "cell-id=failed"}.items() <= next(
        d for d in page.every("div") if "celltag_failed" in d.get("class", "")
    ).items()


def test_pages_ask_for_nothing_but_their_figures(site):
    for file in site.glob("*.html"):
        assert_harmless(file)
        page = Page(file)
        policy = next(m["content"] for m in page.every("meta") if m.get("http-equiv") == "Content-Security-Policy")
        pinned = b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
        assert policy.startswith("default-src 'none'; img-src 'self' data: file:; style-src 'self' file: ")
        assert f"script-src 'sha256-{pinned}';" in policy and "connect" not in policy
        assert "viewport" in [m.get("name") for m in page.every("meta")]
        assert file.stat().st_size < 40_000


def test_building_again_gives_the_same_site(site):
    before = {p: p.read_bytes() for p in site.rglob("*") if p.is_file()}
    build_site(site)
    assert {p: p.read_bytes() for p in site.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_becomes_markup(tmp_path, text):
    cells = [
        f"# {text}\n\n{text}\n\n```\n{text}\n```\n\n| {text} |\n|---|\n| {text} |\n\nAfter {text}.",
        ran(text, new_output("stream", name="stdout", text=text), new_output("stream", name="stderr", text=text),
            tags=["headline", text.replace(",", "")]),
        ran("1", display(text_html=text, text_plain=text), display(text_markdown=text), display(text_latex=text),
            display(text_plain=text), display(image_svg_xml=text), display(application_javascript=text)),
        ran("2", display(image_png=picture(), metadata={
            "image/png": {"width": text, "height": text, "alt": text, "unconfined": text},
            "text/html": {"isolated": True}, "filename": text, "filenames": {"image/png": text}}), title=text),
        ran("3", new_output("error", ename=text, evalue=text, traceback=[text]), status="failed"),
    ]  # fmt: skip
    entry = dict.fromkeys(("status", "cell", "reason"), text) | {
        "seconds": text,
        "parameters": {text: text, "list": [text]},
    }
    record = dict.fromkeys(("run", "profile", "profile_reason", "started", "ended", "commit", "platform"), text) | {
        "versions": {text: text}, "machine": {text: text}, "notebooks": {"a": entry, text: entry},
    }  # fmt: skip
    folder = run_folder(tmp_path / ("run & <b>" if os.name == "posix" else "run & b"), {"a": cells}, record)
    (folder / "readings").mkdir()
    (folder / "readings" / "a.jsonl").write_text(json.dumps({"status": text}), encoding="utf-8")
    build_site(folder)
    assert sorted(p.name for p in folder.glob("*.html")) == ["a.html", "index.html"]
    assert [p.name for p in (folder / "figures").iterdir()] == ["a-4-1.png"]
    for file in folder.glob("*.html"):
        assert_harmless(file)
    # What the model read is there to be read, letter by letter, where it was printed.
    visible = re.sub(r"\x1b\[[0-9;]*m", "", text)
    if "\x1b" not in visible:
        assert visible in Page(folder / "a.html").text


@pytest.mark.parametrize(
    "record", [None, {}, [], {"notebooks": [1]}, {"notebooks": {"a": 3}, "machine": 3, "versions": []}, "x"]
)
def test_an_absent_or_odd_record_still_gives_a_site(tmp_path, record):
    folder = run_folder(tmp_path / "r", {"a": ["# A?"]}, record)
    (folder / "notebooks" / "broken.ipynb").write_text("{")
    text = Page(build_site(folder)).text
    assert "A?" in text and "not recorded" in text and "broken" in text


def test_an_empty_run_says_so(tmp_path):
    (tmp_path / "r").mkdir()
    assert "No notebook has run yet" in Page(build_site(tmp_path / "r")).text


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such names")
def test_odd_images_cost_only_themselves(tmp_path):
    html = b64encode(b"<script>alert(1)</script>").decode()
    folder = run_folder(tmp_path / "r", {"a b#?": ["# A?", ran("1", display(image_png=html), display(image_png="%%%"),
                                                               display(image_png=picture()))]})  # fmt: skip
    index = Page(build_site(folder))
    assert [p.name for p in (folder / "figures").iterdir()] == ["a_b__-2-3.png"]
    assert "a%20b%23%3F.html" in [a["href"] for a in index.every("a")]


PARAMETERS = {
    "pages": 80, "max_pixels_values": [4096, 131072], "dtype": "float32", "margin": 0.005, "rate": 1e-05, "flag": True,
    "limit": None, "prompts": ["Please give me every word you can see", "it's", "null", "~", "", "12", "a, b]"],
    "nested": {"a b": [1, None]}, "folder": "/scans/of today",
}  # fmt: skip


def test_its_parameters_are_those_of_the_run_command_of():
    command = command_of("04-pixels", "my-card", "cpu", PARAMETERS)
    words = shlex.split(command)
    assert words[:5] == ["make", "reproduce", "ONLY=04-pixels", "RUN=my-card", "PROFILE=cpu"]
    assert parse_overrides(words[5].removeprefix("PARAMS=")) == PARAMETERS


def test_a_hub_model_may_be_downloaded_command_of():
    command = command_of("04-pixels", "r", "gpu", {"model_id": "Qwen/Qwen2-VL-2B-Instruct", "pages": 1})
    assert 'MODEL=Qwen/Qwen2-VL-2B-Instruct PARAMS="pages=1"' in command


@pytest.mark.parametrize("text", EVERY)
def test_no_value_reaches_a_shell_or_make(tmp_path, text):
    command = command_of("04-pixels", "r", "cpu", {"prompt": text, text: 1, "nested": [{text: text}]})
    if not text.isprintable():
        assert command == ""
        return
    words = shlex.split(command)
    if words[0] == "make":
        assert not set('"$`\\!') & set(command.replace('PARAMS="', "").removesuffix('"'))
    given = words[words.index("--params") + 1] if "--params" in words else words[-1].removeprefix("PARAMS=")
    assert parse_overrides(given)["prompt"] == text


@pytest.mark.skipif(os.name != "posix", reason="a POSIX shell's rules")
def test_a_shell_runs_nothing_of_it(tmp_path):
    shown = "touch pwned"
    values = [f"`{shown}`", f"$({shown})", f'"; {shown}; "', f"'; {shown}; '", f"$(shell {shown})", f"\\\\`{shown}`"]
    (tmp_path / "Makefile").write_text('reproduce:\n\t@echo "$(PARAMS)"\n', encoding="utf-8")
    (tmp_path / "python").write_text("#!/bin/sh\n", encoding="utf-8")
    (tmp_path / "python").chmod(0o755)
    for value in values:
        command = command_of("a", "r", "cpu", {"prompt": value})
        environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
        subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True, capture_output=True, env=environment)
        assert not (tmp_path / "pwned").exists(), value


@pytest.mark.parametrize("name", ["", "-rf", "a b", "a;b", "../x", "a\nb", "$(x)"])
def test_names_that_are_no_names_give_no_command(name):
    assert command_of(name, "r", "cpu", {}) == command_of("a", name, "cpu", {}) == ""
