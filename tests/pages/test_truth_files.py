"""Truth as archives have it: ALTO and PAGE-XML beside an image, and text in another encoding."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from ocrlab import paths
from ocrlab.commands.cli import main
from ocrlab.pages import PageError, load_pages
from ocrlab.pages.truth import TruthExists, keep_truth

ALTO = """<?xml version="1.0" encoding="UTF-8"?>
<alto xmlns="http://www.loc.gov/standards/alto/ns-v4#"><Layout><Page><PrintSpace>
 <TextBlock ID="b1">
  <TextLine><String CONTENT="Первая"/><SP WIDTH="5"/><String CONTENT="стро" SUBS_TYPE="HypPart1" SUBS_CONTENT="строка"/><HYP CONTENT="\u00ad"/></TextLine>
  <TextLine><String CONTENT="ка"/><SP/><String CONTENT="7"/><String CONTENT="%"/></TextLine>
 </TextBlock>
 <TextBlock ID="b2"><TextLine><String CONTENT="no"/><String CONTENT="spaces"/><String CONTENT="given"/></TextLine></TextBlock>
</PrintSpace></Page></Layout></alto>"""  # noqa: E501

PAGE = """<?xml version="1.0" encoding="UTF-8"?>
<PcGts xmlns="http://schema.primaresearch.org/PAGE/gts/pagecontent/2019-07-15"><Page imageFilename="p.png">
 <ReadingOrder><OrderedGroup id="g"><RegionRefIndexed index="1" regionRef="left"/>
  <OrderedGroupIndexed id="h" index="0"><RegionRefIndexed index="0" regionRef="title"/></OrderedGroupIndexed>
  <RegionRefIndexed index="2" regionRef="table"/></OrderedGroup></ReadingOrder>
 <TextRegion id="footer"><TextLine><TextEquiv><Unicode>not in the order</Unicode></TextEquiv></TextLine></TextRegion>
 <TextRegion id="left">
  <TextLine custom="readingOrder {index:1;}"><TextEquiv><Unicode>second</Unicode></TextEquiv></TextLine>
  <TextLine custom="readingOrder {index:0;}"><TextEquiv index="1"><Unicode>frist</Unicode></TextEquiv>
   <TextEquiv index="0"><Unicode>first</Unicode></TextEquiv></TextLine>
  <TextEquiv><Unicode>the region's own text, given twice</Unicode></TextEquiv></TextRegion>
 <TextRegion id="title"><TextEquiv><Unicode>Title</Unicode></TextEquiv></TextRegion>
 <TableRegion id="table"><TextRegion id="cell"><TextLine><Word><TextEquiv><Unicode>a</Unicode></TextEquiv></Word>
  <Word><TextEquiv><Unicode>cell</Unicode></TextEquiv></Word></TextLine></TextRegion></TableRegion>
</Page></PcGts>"""


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image alone in a folder, for a truth to be put beside."""
    return Path(shutil.copy(next((paths.PAGES / "lines").glob("*.png")), tmp_path / "p.png"))


def loaded(image: Path, **options: str) -> tuple[str | None, str]:
    (page,) = load_pages(image.parent, **options)
    assert page.truth_source == ("" if page.truth is None else "file")
    return page.truth, page.problem


def test_alto_in_the_order_of_its_lines(image: Path) -> None:
    image.with_suffix(".xml").write_text(ALTO, encoding="utf-8")
    assert loaded(image) == ("Первая стро-\nка 7%\nno spaces given", "")


def test_page_xml_in_reading_order(image: Path) -> None:
    image.with_suffix(".xml").write_text(PAGE, encoding="utf-8")
    assert loaded(image) == ("Title\nfirst\nsecond\na cell\nnot in the order", "")


FACTS = [{"present": "Total 6.20"}, {"first": "Milk", "then": "Total", "max_diffs": 1}]


def test_facts_beside_a_page_with_a_text_or_without(image: Path) -> None:
    beside = image.with_name("p.facts.jsonl")
    beside.write_text("\ufeff" + "\r\n".join(map(json.dumps, FACTS)) + "\n\n", encoding="utf-8")
    (page,) = load_pages(image.parent)
    assert [*page.facts] == FACTS and (page.truth, page.problem) == (None, "")
    assert load_pages(f"file://{image.parent}")[0].facts == page.facts, "a store's too"
    image.with_suffix(".gt.txt").write_text("by hand", encoding="utf-8")
    assert load_pages(image)[0] == replace(page, truth="by hand", truth_source="file") and hash(page)
    beside.write_text('{"present": "Total"}\n{"is there": "Total"}\n', encoding="utf-8")
    (page,) = load_pages(image)
    assert (page.facts, page.truth, page.refused) == ((), "by hand", False)
    assert page.problem.startswith(f"{beside}: the facts cannot be read: {{'is there': 'Total'}} is no fact; write {{")
    beside.write_bytes(b'{"present": "\xff"}')
    assert "can't decode" in load_pages(image)[0].problem


def test_facts_in_a_manifest(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = image.with_name("manifest.jsonl")
    manifest.write_text(json.dumps({"file": "p.png", "facts": FACTS}), encoding="utf-8")
    (page,) = load_pages(manifest)
    assert [*page.facts] == FACTS and page.truth is None
    assert main(["truth", str(manifest)]) == 0
    assert capsys.readouterr().out.strip() == "1 page: facts, and no truth: none beside it, and no PDF (p.png)"
    manifest.write_text(json.dumps({"file": "p.png", "truth": "a", "facts": [*FACTS, {"row": "a"}]}), encoding="utf-8")
    with pytest.raises(PageError, match=r'line 1: "facts": {\'row\': \'a\'} is no fact; write'):
        load_pages(manifest)


def test_text_goes_before_xml(image: Path) -> None:
    image.with_suffix(".xml").write_text(PAGE, encoding="utf-8")
    image.with_suffix(".gt.txt").write_text("by hand", encoding="utf-8")
    assert loaded(image)[0] == "by hand"


@pytest.mark.parametrize(
    ("xml", "problem"), [("<annotation/>", "it is <annotation>; ALTO and PAGE-XML are read"), ("<alto>", "no XML that")]
)
def test_other_xml_is_no_truth(image: Path, xml: str, problem: str) -> None:
    image.with_suffix(".xml").write_text(xml, encoding="utf-8")
    truth, said = loaded(image)
    assert truth is None and problem in said and "no score" in said


@pytest.mark.parametrize("encoding", ["cp1251", "koi8-r", "utf-16"])
def test_text_in_the_encoding_that_is_said(image: Path, encoding: str) -> None:
    image.with_suffix(".txt").write_bytes("Ёлка 7\r\n".encode(encoding))
    assert loaded(image, truth_encoding=encoding)[0] == "Ёлка 7"
    truth, problem = loaded(image)
    assert truth is None and "truth_encoding='cp1251'" in problem


def test_a_byte_order_mark_goes_before_what_is_said(image: Path) -> None:
    image.with_suffix(".txt").write_text("Ёлка", encoding="utf-8-sig")
    assert loaded(image, truth_encoding="cp1251") == ("Ёлка", "")


def test_bytes_that_the_encoding_has_not(image: Path) -> None:
    image.with_suffix(".txt").write_bytes(b"a\x98")
    assert "not cp1251 (byte 1 is 0x98)" in loaded(image, truth_encoding="cp1251")[1]


def test_an_unknown_encoding_is_refused(image: Path) -> None:
    with pytest.raises(PageError, match="truth_encoding='cp1521' is not known"):
        load_pages(image.parent, truth_encoding="cp1521")


def test_the_encoding_reaches_manifests_lists_and_the_command_line(
    image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image.with_suffix(".txt").write_bytes("Ёлка".encode("cp1251"))
    assert main(["read", str(image), "--truth-encoding", "cp1251", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cer"] is not None, "there is a truth to compare with"
    image.with_name("manifest.jsonl").write_text('{"file": "p.png"}', encoding="utf-8")
    assert loaded(image, truth_encoding="cp1251")[0] == "Ёлка"


def test_a_kept_truth_is_found_again_beside_images_pdfs_and_tiffs(tmp_path: Path) -> None:
    for name in ("one.png", "several.pdf", "several.v2.tif"):
        first, *more = (Image.new("RGB", (60, 40), colour) for colour in ("white", "red", "blue"))
        first.save(tmp_path / name, save_all=name != "one.png", append_images=more)
    for number, page in enumerate(load_pages(tmp_path)):
        keep_truth(f"Zeile {number}\nстрока \n", page.file, page.page_number)
    assert [page.truth for page in load_pages(tmp_path)] == [f"Zeile {number}\nстрока" for number in range(7)]
    assert (tmp_path / "several.p0003.gt.txt").read_bytes() == "Zeile 3\nстрока\n".encode()
    assert (tmp_path / "several.v2.p0001.gt.txt").is_file() and not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("there", ["p.gt.txt", "p.txt", "p.xml"])
def test_a_truth_that_is_there_is_never_replaced_unasked(tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("earlier", encoding="utf-8")
    with pytest.raises(TruthExists, match=there) as refused:
        keep_truth("mine", tmp_path / "p.png")
    assert refused.value.target == tmp_path / "p.gt.txt"
    assert [file.name for file in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text(encoding="utf-8") == "earlier"
    keep_truth("mine", tmp_path / "p.png", replace=True)
    assert (tmp_path / "p.gt.txt").read_text(encoding="utf-8") == "mine\n"
