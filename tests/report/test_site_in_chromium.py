"""The site in a real browser with the network off: it looks right, its tables work, and nothing else runs."""

from pathlib import Path

import mistune
import pytest
from nbformat.v4 import new_output

from ocrlab import paths
from ocrlab.commands.exchange import add_run, share_run
from ocrlab.pages import load_pages
from ocrlab.report.site import build_overview, build_site
from tests.chromium import chromium
from tests.hostile import EVERY
from tests.notebooks import display, picture, ran, write
from tests.runs import reading, write_run


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


def readings():
    """Twelve pages read better and worse, one of them with a picture of ours, and a setting that reads nothing."""
    ours = load_pages("labels", limit=1)[0]
    cut = {"status": "truncated", "reason": "the cap ended it"}
    return [
        *(reading(f"p{i}", "x" * i + "abcdefghij"[i:], "abcdefghij", measured={"page_s": 0.1 * i}) for i in range(10)),
        reading("labels-001", "read", ours.truth, page_sha256=ours.sha256, set="labels"),
        reading("cut", "abc", "abcdef", asked={"max_pixels": 4096}, **cut),
        *(reading(p, "", "abc", asked={"attn_implementation": "eager"}, status="unsupported", reason="no kernel")
          for p in ("p1", "p2")),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A folder of runs, two deep in a copy of a checkout: a good one, and one whose every text is hostile."""
    checkout = tmp_path_factory.mktemp("a checkout with spaces & signs #1")
    (checkout / "data").mkdir()
    (checkout / "data" / "pages").symlink_to(paths.PAGES, target_is_directory=True)
    good = write_run(checkout / "results" / "good", *readings())
    wide = "<table class='dataframe'><tr>" + "<td>0.123456789</td>" * 30 + "</tr></table>"
    write(good / "notebooks" / "good.ipynb", "# Good?\n\nOf QKᵀ and $x^2$.",
          ran("x = 1", display(image_png=picture("red"))), ran("y" * 500, display(text_html=wide)))  # fmt: skip
    build_site(good)
    _hostile_run(checkout / "results" / "<img src=x onerror=window.pwned=1>")
    build_overview(checkout / "results")
    return checkout / "results"


def _hostile_run(folder: Path) -> None:
    """Write a run with every hostile text in every place that a text can have."""
    made = []
    for i, text in enumerate(EVERY):
        same = {"kind": text, "experiment": text}
        odd = {"prompt": f"{text}.", "model_id": f"{text}."}
        made += [reading(text, text, EVERY[i - 1], **same), reading(f"q{i}", "x", None, asked=odd, **same),
                 reading(f"p{i}", "", text, status="error", reason=text, **same)]  # fmt: skip
    odd = {text: text for text in EVERY}
    names = [text.replace("/", "").replace("\0", "")[:60] for text in EVERY[:5]]
    entry = dict.fromkeys(("status", "cell", "reason"), EVERY[0]) | {"parameters": odd, "profile": EVERY[1]}
    write_run(folder, *made, file="hostile", versions=odd, machine=odd, profile=EVERY[0], profile_reason=EVERY[2],
              commit=EVERY[3], started=EVERY[4], platform=EVERY[5], added={"file": EVERY[6], "time": EVERY[7]},
              notebooks={name: entry for name in names})  # fmt: skip
    cells = [ran("x", tags=["parameters"])]
    for text in EVERY:
        shown = [display(text_html=text), display(text_markdown=text), display(text_latex=text)]
        said = new_output("stream", name="stdout", text=text)
        cells += [f"# {text}\n\n{text}", ran("1", said, *shown, tags=["headline"])]
    for name in names:
        write(folder / "notebooks" / f"{name}.ipynb", f"# {name}?", ran("1"))
    write(folder / "notebooks" / "all.ipynb", *cells)
    build_site(folder)


@pytest.fixture
def visit(browser, results):
    """Open a page of the site; return it with what the browser asked for and complained of."""

    def opened(name: str | Path, **options):
        context = browser.new_context(offline=True, **options)
        page = context.new_page()
        page.asked, page.said = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("console", lambda message: page.said.append(message.text))
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.on("dialog", lambda dialog: page.said.append(dialog.message))
        page.goto((results / name).as_uri())
        return page

    return opened


def paper(page) -> str:
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


@pytest.mark.parametrize("name", ["good/index.html", "good/good.html", "good/readings.html", "index.html"])
@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "dark")])
def test_pictures_and_styles_are_there_at_any_width(visit, results, name, width, scheme):
    page = visit(name, viewport={"width": width, "height": 800}, color_scheme=scheme)
    # Figures below the fold are loaded when a reader comes near; here they are asked for at once.
    seen = "async () => { for (const i of document.images) { i.loading = 'eager'; await i.decode() }"
    sizes = page.evaluate(seen + " return [...document.images].map(i => i.naturalWidth) }")
    pictures = {"good/index.html": 1, "good/good.html": 1, "good/readings.html": 1, "index.html": 0}
    assert len(sizes) == pictures[name] and all(sizes)
    assert page.evaluate("[...document.images].every(i => i.alt)")
    assert all(url.startswith(results.parent.as_uri()) for url in page.asked) and not page.said
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert paper(page) == ("rgb(252, 252, 251)" if scheme == "light" else "rgb(20, 23, 26)")


def test_a_click_sorts_a_table_by_its_numbers_and_back(visit):
    page = visit("good/index.html")
    times = "[...document.querySelectorAll('#settings tbody tr')].map(r => r.cells[5].textContent)"
    before = page.evaluate(times)
    page.click("#settings th:text('ms per page')")
    up = page.evaluate(times)
    page.click("#settings th:text('ms per page')")
    down = page.evaluate(times)
    filled = sorted(filter(None, before), key=float)
    assert [t for t in up if t] == filled and [t for t in down if t] == filled[::-1]
    assert up[-1] == down[-1] == ""  # empty cells last, whichever way
    assert page.locator("#settings th[aria-sort=descending]").count() == 1


def test_readings_are_filtered_by_outcome_and_words_and_all_there_without_scripts(visit):
    page = visit("good/readings.html")
    visible = "[...document.querySelectorAll('.sheet:not([hidden]) h2')].map(heading => heading.textContent)"
    everything = page.evaluate(visible)
    assert everything[0] == "cut" and everything[-1] == "p0"  # a cut text before a wrong one, an exact one last
    page.select_option("select", "truncated")
    assert page.evaluate(visible) == ["cut"] and page.locator("output").text_content() == "1 of 12"
    page.select_option("select", "")
    page.fill("input[name=wanted]", "P9")
    assert page.evaluate(visible) == ["p9"]
    assert page.locator(".sheet:has(h2:text-is('p3')) .reading mark").text_content() == "xxx"
    barred = page.locator("tbody td").all_text_contents()
    assert barred == ["e", "dtype=float32, attn_implementation=eager", "2", "unsupported", "no kernel"]
    plain = visit("good/readings.html", java_script_enabled=False)
    assert plain.locator(".sheet").count() == len(everything) and not plain.locator("form.choices").is_visible()


def test_paper_has_no_controls(visit):
    page = visit("good/readings.html", color_scheme="dark")
    page.emulate_media(media="print")
    assert not page.locator("form.choices").is_visible() and not page.locator("header.bar a").is_visible()
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(29, 33, 38)"  # dark on paper in any theme


def test_every_figure_has_its_command_beside_it(visit):
    page = visit("good/good.html")
    page.click("summary:text('make it again')")
    assert page.locator(".output_png .again code").text_content() == "make reproduce ONLY=good RUN=good"


STIR = """() => {
    for (const type of ['click', 'mouseover', 'focus', 'toggle', 'input'])
        document.querySelectorAll('body *').forEach(e => {
            if (e.tagName !== 'A' || !(e.getAttribute('href') ?? '').match(/^[^:]*\\.html|^#/))
                e.dispatchEvent(new Event(type, {bubbles: false, cancelable: true}));
        });
    document.querySelectorAll('details').forEach(e => e.open = true);
}"""


def test_nothing_runs_in_an_added_run_either(visit, results, tmp_path, capsys):
    names = [text for text in EVERY if text.isprintable()]
    made = [reading(names[i % len(names)], text, EVERY[i - 1], reason=text, machine=text, experiment="e", repeat=i,
                    asked={"prompt": f"{text}."}) for i, text in enumerate(EVERY)]  # fmt: skip
    odd = {text: text for text in EVERY}
    theirs = write_run(tmp_path / "theirs", *made, machine=odd, versions=odd, platform=EVERY[0],
                       notebooks={text: {"status": text, "reason": text} for text in EVERY[:20]})  # fmt: skip
    assert share_run(str(theirs), None, str(tmp_path / "theirs.zip")) == 0
    # Into this module's copy of a checkout, with our page sets beside it.
    assert add_run(str(tmp_path / "theirs.zip"), "added", results) == 0, capsys.readouterr().err
    pages = [results / "index.html", *sorted((results / "added").glob("*.html"))]
    assert {"index.html", "readings.html"} == {file.name for file in pages}
    for file in pages:
        page = visit(file.relative_to(results), bypass_csp=True)
        page.evaluate(STIR)
        page.wait_for_timeout(50)
        assert page.evaluate("window.pwned") is None and not page.said, file
        assert all(url.startswith(results.parent.as_uri()) for url in page.asked)
        page.context.close()


def hostile_pages(results: Path) -> list[Path]:
    return [results / "index.html", *sorted(results.glob("*img*/*.html"))]


def test_even_without_the_policy_nothing_runs_and_nothing_is_asked_for(visit, results):
    pages = hostile_pages(results)
    assert len(EVERY) >= 200 and len(pages) >= 9 and {"all.html", "readings.html"} <= {p.name for p in pages}
    for file in pages:
        page = visit(file.relative_to(results), bypass_csp=True)
        page.evaluate(STIR)
        for box in page.locator("input:visible").all()[:2]:
            box.fill("<img src=x onerror=window.pwned=1>")
        page.wait_for_timeout(50)
        assert page.evaluate("window.pwned") is None and not page.said, file.name
        names = {url.rsplit("/", 1)[1].split("#")[0] for url in page.asked}
        assert names <= {file.as_uri().rsplit("/", 1)[1], "style.css"}, file.name
        page.context.close()


def test_the_digest_is_as_harmless_for_a_code_host(visit, results, tmp_path):
    digest = next(results.glob("*img*/report.md")).read_text(encoding="utf-8")
    html = mistune.create_markdown(escape=False, plugins=["table", "url"])(digest)
    (tmp_path / "report.html").write_text(f"<!DOCTYPE html><meta charset=utf-8>{html}", encoding="utf-8")
    page = visit(tmp_path / "report.html")
    page.evaluate(STIR)
    page.wait_for_timeout(50)
    assert page.evaluate("window.pwned") is None and not page.said and len(page.asked) == 1
    tags = set(page.evaluate("[...new Set([...document.body.querySelectorAll('*')].map(e => e.tagName))]"))
    assert tags <= {"H1", "H2", "P", "CODE", "PRE", "BLOCKQUOTE", "TABLE", "THEAD", "TBODY", "TR", "TH", "TD"}, tags


def test_the_policy_forbids_other_scripts_and_requests(visit):
    page = visit("good/good.html")
    page.evaluate("""() => {
        const images = '<img src=x onerror="window.pwned=1"><img src="http://127.0.0.1:9/a">';
        document.body.insertAdjacentHTML('beforeend', images);
        for (const [name, value] of [['textContent', 'window.pwned = 2'], ['src', 'style.css']]) {
            const script = document.createElement('script');
            script[name] = value;
            document.body.append(script);
        }
        fetch('index.html').catch(() => {});
    }""")
    page.wait_for_timeout(300)
    assert page.evaluate("window.pwned") is None
    assert sum("Content Security Policy" in text for text in page.said) >= 5


@pytest.mark.parametrize(
    "name", ["reference-cpu/index.html", "reference-cpu/readings.html", "reference-h200/index.html"]
)
def test_the_reference_runs_pages_are_drawn_within_a_second(browser, name):
    context = browser.new_context(offline=True)
    page = context.new_page()
    drawn = []
    for _ in range(3):  # the machine may be busy: the best of three says what the page costs
        page.goto((paths.RESULTS / name).as_uri())
        paint = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
        # The page's own policy forbids eval, which wait_for_function needs where it has to ask twice.
        while not page.evaluate(f"({paint}) > 0 && document.readyState === 'complete'"):
            page.wait_for_timeout(20)
        drawn.append(page.evaluate(f"Math.max({paint}, performance.getEntriesByType('navigation')[0].loadEventEnd)"))
    assert min(drawn) <= 1000
