"""The site in a real browser with the network off: figures, maths and styles are there, and nothing runs."""

import shutil

import pytest
from nbformat.v4 import new_output
from playwright.sync_api import Error, sync_playwright

from ocrlab.report.site import build_site
from tests.hostile import HOSTILE
from tests.notebooks import write
from tests.report.test_report_site import display, picture, ran

QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip


@pytest.fixture(scope="module")
def browser():
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    with sync_playwright() as playwright:
        try:
            started = playwright.chromium.launch(executable_path=found, args=QUIET)
        except Error as error:
            pytest.skip(f"no Chromium here: {str(error).splitlines()[0]}")
        yield started
        started.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("a run with spaces & signs #1") / "r"
    (folder / "notebooks").mkdir(parents=True)
    wide = "<table class='dataframe'><tr>" + "<td>0.123456789</td>" * 30 + "</tr></table>"
    write(folder / "notebooks" / "good.ipynb", "# Good?\n\nInline $\\frac{a}{b}$ and\n\n$$\\sum_{i=1}^n x_i$$",
          ran("x = 1", display(image_png=picture("red"))), ran("y" * 500, display(text_html=wide)))  # fmt: skip
    cells = []
    for text in HOSTILE:
        shown = [display(text_html=text), display(text_markdown=text), display(text_latex=text)]
        cells += [f"# {text}\n\n{text}", ran("1", new_output("stream", name="stdout", text=text), *shown)]
    write(folder / "notebooks" / "hostile.ipynb", *cells)
    build_site(folder)
    return folder


@pytest.fixture
def visit(browser, site):
    """Open a page of the site; return it with what the browser asked for and complained of."""

    def opened(name: str, **options):
        context = browser.new_context(offline=True, **options)
        page = context.new_page()
        page.asked, page.said = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("console", lambda message: page.said.append(message.text))
        page.on("dialog", lambda dialog: page.said.append(dialog.message))
        page.goto((site / name).as_uri())
        return page

    return opened


@pytest.mark.parametrize("name", ["index.html", "good.html"])
@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "dark")])
def test_figures_maths_and_styles_are_there(visit, site, name, width, scheme):
    page = visit(name, viewport={"width": width, "height": 800}, color_scheme=scheme)
    # Figures below the fold are loaded when a reader comes near; here they are asked for at once.
    seen = "async () => { for (const i of document.images) { i.loading = 'eager'; await i.decode() }"
    assert page.evaluate(seen + " return [...document.images].map(i => i.naturalWidth) }") == [40]
    assert all(url.startswith((site / name).parent.as_uri()) for url in page.asked) and not page.said
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(252, 252, 251)" if scheme == "light" else "rgb(20, 23, 26)")
    if name == "good.html":
        edges = "[...document.querySelector('mfrac').children].map(e => e.getBoundingClientRect())"
        above, below = page.evaluate(f"{edges}.map(r => [r.top, r.bottom])")
        assert above[0] < above[1] <= below[0] < below[1]  # a over b: laid out, not run together


@pytest.mark.parametrize("name", ["hostile.html", "index.html"])
def test_even_without_the_policy_nothing_runs_and_nothing_is_asked_for(visit, site, name):
    page = visit(name, bypass_csp=True)
    page.wait_for_timeout(300)
    page.evaluate("document.querySelectorAll('a, summary').forEach(e => e.dispatchEvent(new MouseEvent('mouseover')))")
    assert page.evaluate("window.pwned") is None
    assert {url.rsplit("/", 1)[1] for url in page.asked} <= {name, "good-2-1.png"} and not page.said


def test_the_policy_forbids_scripts_and_requests(visit):
    page = visit("good.html")
    page.evaluate("""() => {
        const images = '<img src=x onerror="window.pwned=1"><img src="http://127.0.0.1:9/a">';
        document.body.insertAdjacentHTML('beforeend', images);
        const script = document.createElement('script');
        script.textContent = 'window.pwned = 2';
        document.body.append(script);
    }""")
    page.wait_for_timeout(300)
    assert page.evaluate("window.pwned") is None
    assert sum("Content Security Policy" in text for text in page.said) >= 3
