"""`make reproduce` with a model on a server that answers as the 2B does: whole documents, one page that loops."""

from __future__ import annotations

from pathlib import Path

import nbformat

from ocrlab.commands.reproduce import reproduce
from ocrlab.study.provenance import read_record
from ocrlab.study.records import load_rows
from tests.rehearsal import rehearsal

NOTEBOOKS = ("04-pixels", "05-generation", "08-recommendation")
PARAMS = (
    "page_set=documents pages=20 dtype=auto max_pixels=1003520 max_pixels_values=[200704,1003520] max_new_tokens=1000 "
    "seeds=[0] temperature_values=[] repetition_penalty_values=[1.3] no_repeat_ngram_size_values=[] "
    "num_beams_values=[] max_new_tokens_values=[]"
)


def test_documents_read_by_a_server_give_notebooks_that_are_ok_and_say_so(tmp_path: Path) -> None:
    with rehearsal(seconds=0.05) as fake:
        only = ",".join(NOTEBOOKS)
        code = reproduce("smoke", fake.model_id, only, run="rehearsed", params=PARAMS, results=tmp_path)
    folder = tmp_path / "rehearsed"
    entries = read_record(folder)["notebooks"]
    assert code == 0 and {name: entry["status"] for name, entry in entries.items()} == dict.fromkeys(NOTEBOOKS, "ok")
    for name in NOTEBOOKS:
        cells = nbformat.read(folder / "notebooks" / f"{name}.ipynb", as_version=4).cells
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    rows = load_rows(folder, "04-pixels")
    assert len(rows) == 40 and set(rows["status"]) == {"ok", "loop"}
    assert rows.groupby("max_pixels")["status"].agg(lambda found: (found == "loop").sum()).tolist() == [1, 1]
    edits = rows[rows["status"] == "ok"].groupby("max_pixels")["cer_edits"].sum()
    assert edits[200704] > 1.3 * edits[1003520]  # fewer pixels read worse, by the server's own figures
