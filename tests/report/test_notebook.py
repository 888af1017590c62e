"""A notebook as HTML: what an author writes stays, everything else is sanitised, images become files."""

import nbformat
import pytest
from nbformat.v4 import new_output

from ocrlab.report.notebook import link_figures, render_notebook, sanitise
from tests.notebooks import display, picture, ran, write

WIDGET = "application/vnd.jupyter.widget-view+json"


def test_what_an_author_writes_survives():
    kept = '<details><summary>More</summary><b>x</b><br><img alt="a" src="figures/a-1.png"></details>'
    assert sanitise(kept) == kept
    link = (
        '<a href="https://arxiv.org/abs/1">paper</a> <a href="#cell-id=c3">here</a> <a href="04-pixels.html">there</a>'
    )
    assert sanitise(link) == link
    cell = '<table><tbody><tr><td colspan="2" style="color:rgb(1, 2, 3)">x</td></tr></tbody></table>'
    assert sanitise(cell) == cell


def test_an_image_from_elsewhere_leaves_its_words():
    made = sanitise('<p><img src="http://evil.example/a.png" alt="a <b> chart"></p>')
    assert made == '<p><img alt="a &lt;b&gt; chart"></p>'
    assert sanitise('<img src="figures/a.png">') == '<img alt="" src="figures/a.png">'


@pytest.mark.parametrize(
    ("markup", "left"),
    [
        ('<a href="javascript:alert(1)">go</a>', "<a>go</a>"),
        ('<a href="//evil.example">go</a>', "<a>go</a>"),
        ('<p onclick="alert(1)">x</p>', "<p>x</p>"),
        ('<p style="color:red;position:fixed">x</p>', '<p style="color:red">x</p>'),
        ('<p style="background:url(http://evil.example/a)">x</p>', "<p>x</p>"),
        ("<math><mi>x</mi></math><svg><text>y</text></svg><script>z</script>ok", "ok"),
        ("<blink>word</blink>", "word"),
    ],
)
def test_what_is_not_on_the_lists_goes(markup, left):
    assert sanitise(markup) == left


def test_a_page_has_its_question_its_headline_and_its_figures(tmp_path):
    file = write(
        tmp_path / "a b.ipynb",
        "# Does *it* [read](x)?\n\nQKᵀ and $x^2$.",
        ran("say", new_output("stream", name="stdout", text="CER 5 %\n"), tags=["headline"]),
        "The error falls:",
        ran("plot", display(image_png=picture("red"), text_plain="<Figure>"), display(image_png=picture("red"))),
        ran("latex", display(text_latex="$\\sqrt{y}$", text_plain="root of y")),
    )
    page = render_notebook(file, tmp_path / "figures")
    assert (page.title, page.headline) == ("Does it read?", "CER 5 %")
    assert [(f.file, f.alt, f.place) for f in page.figures] == [
        ("a_b-4-1.png", "The error falls", (4, 1)),
        ("a_b-4-1.png", "The error falls", (4, 2)),
    ]
    assert [file.name for file in (tmp_path / "figures").iterdir()] == ["a_b-4-1.png"]
    # A formula in LaTeX has no renderer here: its source is shown, or the output's plain text.
    assert "QKᵀ and $x^2$." in page.html and "root of y" in page.html and "<math" not in page.html


def test_a_linked_notebook_renders_the_same_and_is_linked_once(tmp_path):
    widget = new_output("display_data", {WIDGET: {"model_id": "0"}, "text/plain": "bar at 0 %"})
    file = write(tmp_path / "a.ipynb", "# A?", ran("plot", widget, display(image_png=picture("red"))))
    before = render_notebook(file, tmp_path / "figures")
    link_figures(file, before.figures)
    linked = file.read_bytes()
    (output,) = nbformat.read(file, as_version=4).cells[1].outputs
    assert output.data == {"text/markdown": "![A?](../figures/a-2-2.png)"}
    after = render_notebook(file, tmp_path / "figures")
    assert after.html == before.html and [f.file for f in after.figures] == ["a-2-2.png"]
    link_figures(file, after.figures)
    assert file.read_bytes() == linked
