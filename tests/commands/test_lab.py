"""JupyterLab as a person has it: the welcome page, a notebook from it, all cells run, the last figure seen."""

from __future__ import annotations

from collections.abc import Iterator

import nbformat
import pytest

from ocrlab import paths
from tests.chromium import Server, chromium, watch

NAME = "04-pixels"
FIGURES = (
    "[...document.querySelectorAll('.jp-NotebookPanel .jp-OutputArea-output img')].filter(i => i.naturalWidth > 300)"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = Server("lab", tmp_path_factory.mktemp("lab"))
    yield started
    started.stop()


def test_all_cells_run_and_the_last_figure_is_seen(server: Server) -> None:
    source = (paths.NOTEBOOKS / f"{NAME}.ipynb").read_bytes()
    cells = nbformat.reads(source.decode(), as_version=4).cells
    drawn = sum(cell.source.strip().splitlines()[-1].startswith("plots.") for cell in cells if cell.cell_type == "code")
    with chromium() as browser:
        page = watch(browser.new_page(viewport={"width": 1300, "height": 6000}))  # tall: all of it is in the page
        page.goto(server.address)
        page.click(f".jp-MarkdownViewer a:text-is('{NAME}')")
        page.wait_for_selector(".jp-NotebookPanel .jp-Notebook[data-jp-kernel-user], .jp-NotebookPanel .jp-Cell")
        page.wait_for_function("document.querySelector('.jp-Toolbar-kernelName')?.innerText.includes('Python 3')")
        page.add_locator_handler(page.locator("dialog.jp-Dialog"), lambda dialog: pytest.fail(dialog.inner_text()))
        page.click(".lm-MenuBar-itemLabel:text-is('Run')")
        page.click(".lm-Menu-itemLabel:text-is('Run All Cells')")
        page.wait_for_selector(".jp-OutputArea [role=progressbar], .jp-OutputArea .widget-hprogress")
        page.wait_for_function("document.querySelector('.jp-Notebook')?.innerText.includes('are enough for')")
        page.wait_for_function(f"{FIGURES}.length == {drawn}")
        assert not page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.error']").count()
        assert not page.outside, page.outside
    assert (paths.NOTEBOOKS / f"{NAME}.ipynb").read_bytes() == source
