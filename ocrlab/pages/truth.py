"""The truth that lies beside a page's file: text, an archive's ALTO or PAGE-XML in its reading order, or facts."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from ocrlab.pages.images import PageError
from ocrlab.paths import write_whole
from ocrlab.scoring.content import Fact, facts_problem

#: What a file is called in messages and what reads its bytes, or None where there is none.
Found = tuple[str, Callable[[], bytes]] | None
#: A page's truth and facts, and what is wrong with either.
Beside = tuple[str | None, tuple[Fact, ...], str]
UTF_8 = "utf-8-sig"
_NO_SCORE = "so the page has no score"
#: What `truth_source` says where the truth is another setting's reading: agreement, as no page had a truth.
REFERENCE = "reference"
#: Where a truth is from (`truth_source`), in words; figures never mix two.
SOURCES = {"file": "a file", "pdf": "the PDF's text layer", "hub": "a set of the Hub", REFERENCE: "another reading"}


def truth_beside(file: Path, page_number: int | None = None, encoding: str = UTF_8) -> Beside:
    """Return the truth from NAME.gt.txt, NAME.txt or NAME.xml (None: there is none), facts, what is wrong with either.

    That of page 3 of a PDF or TIFF lies in NAME.p0003.gt.txt and so on. A byte order mark and CRLF line ends are
    accepted, and white space at the very end is dropped. `encoding` is that of text; XML names its own. Facts lie in
    NAME.facts.jsonl, a JSON object per line.
    """

    def find(name: str) -> Found:
        beside = file.with_name(name)
        with suppress(OSError):  # a page's name may be as long as a name can be
            return (str(beside), beside.read_bytes) if beside.is_file() else None
        return None

    return truth_among(names_beside(file.stem, page_number), find, encoding)


def truth_among(names: Sequence[str], find: Callable[[str], Found], encoding: str = UTF_8) -> Beside:
    """Return what `truth_beside` does, from wherever `find` finds the names of `names_beside`."""
    *texts, facts_name = names
    truth, problem = next((read_truth(*found, encoding) for name in texts if (found := find(name))), (None, ""))
    facts, wrong = read_facts(*beside) if (beside := find(facts_name)) else ((), "")
    return truth, facts, problem or wrong


def names_beside(stem: str, page_number: int | None = None) -> tuple[str, ...]:
    """Return the names under which the truth of a file's page may lie, the first one first, and at last its facts'."""
    stem = stem if page_number is None else f"{stem}.p{page_number:04d}"
    return f"{stem}.gt.txt", f"{stem}.txt", f"{stem}.xml", f"{stem}.facts.jsonl"


def read_facts(name: str, read: Callable[[], bytes]) -> tuple[tuple[Fact, ...], str]:
    """Return the facts of a file with one JSON object per line, or none, and what is wrong with it."""
    try:
        facts = [json.loads(line) for line in read().decode(UTF_8).split("\n") if line.strip()]
        wrong = facts_problem(facts)
    except (OSError, ValueError, RecursionError) as error:
        wrong = str(error)
    return ((), f"{name}: the facts cannot be read: {wrong}") if wrong else (tuple(facts), "")


class TruthExists(PageError):
    """A truth lies beside the page already; the message names it, and `target` is what was not written."""

    target = Path()


def keep_truth(text: str, file: Path, page_number: int | None = None, *, replace: bool = False) -> Path:
    """Write a page's truth into NAME.gt.txt beside its file, whole or not at all, and return its path.

    Raises:
        TruthExists: one lies there under any of the names that are read, and not `replace`.
        OSError: it cannot be written.
    """
    target, *others = (file.with_name(name) for name in names_beside(file.stem, page_number)[:-1])
    if not replace and (there := [one for one in (target, *others) if one.exists()]):
        words = "would be replaced" if there[0] == target else f"would no longer be read, as {target.name} goes first"
        refused = TruthExists(f"{there[0]} is there already and {words}")
        refused.target = target
        raise refused
    write_whole(target, (text.rstrip() + "\n").encode())
    return target


def encoding_of(name: str) -> str:
    """Return an encoding that Python knows; UTF-8 with or without its mark.

    Raises:
        PageError: it knows none of this name.
    """
    try:
        return UTF_8 if codecs.lookup(name).name == "utf-8" else name
    except LookupError as error:
        raise PageError(f"truth_encoding={name!r} is not known to Python; give e.g. utf-8, cp1251, koi8-r") from error


def read_truth(name: str, read: Callable[[], bytes], encoding: str = UTF_8) -> tuple[str | None, str]:
    """Return a truth's text, or None, and what is wrong with it; `read` gives its bytes, `name` is for the message."""
    try:
        data = read()
        encoding = UTF_8 if data.startswith(codecs.BOM_UTF8) else encoding
        text = _of_xml(data) if name.endswith(".xml") else data.decode(encoding)
    except (OSError, PageError) as error:
        return None, f"{name}: the truth cannot be read ({error}), {_NO_SCORE}"
    except ElementTree.ParseError as error:
        return None, f"{name}: no XML that can be read ({error}), {_NO_SCORE}; export it again or remove it"
    except UnicodeDecodeError as error:
        return None, (
            f"{name}: the truth is not {'UTF-8' if encoding == UTF_8 else encoding} (byte {error.start:,} is "
            f"0x{error.object[error.start]:02x}), {_NO_SCORE}; say which encoding it has (truth_encoding='cp1251'), or "
            "save it as UTF-8, for example: iconv -f CP1251 -t UTF-8"
        )
    return text.replace("\r\n", "\n").replace("\r", "\n").rstrip(), ""


def _of_xml(data: bytes) -> str:
    root = ElementTree.fromstring(data)
    for element in root.iter():  # the two standards have a namespace for each version
        element.tag = element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""
    if root.tag not in ("alto", "PcGts"):
        raise PageError(f"it is <{root.tag}>; ALTO and PAGE-XML are read")
    lines = map(_alto_line, root.iter("TextLine")) if root.tag == "alto" else _page_lines(root)
    return "\n".join(line for line in lines if line)


def _alto_line(line: Element) -> str:
    """Return a line's words; where it has no SP, each word is followed by a space. A hyphen is as it is printed."""
    between = "" if line.find("SP") is not None else " "
    texts = {"String": lambda one: between + one.get("CONTENT", ""), "SP": lambda _: " ", "HYP": lambda _: "-"}
    return "".join(texts[one.tag](one) for one in line if one.tag in texts).strip()


def _page_lines(root: Element) -> Iterator[str]:
    """Yield the lines' text region by region: as ReadingOrder says, then in order what it does not name."""
    regions = {one.get("id", ""): one for one in root.iter() if one.tag.endswith("Region")}
    order = [ref for group in root.iter("ReadingOrder") for ref in _refs(group)]
    left = dict.fromkeys([*(ref for ref in order if ref in regions), *regions])
    for name in [*left]:
        if name in left:
            inside = [one for one in regions[name].iter() if one.tag.endswith("Region")]
            for region in inside:
                left.pop(region.get("id", ""), None)
                lines = [_page_text(line) for line in sorted(region.findall("TextLine"), key=_index)]
                yield from lines if any(lines) else [_page_text(region)]


def _refs(group: Element) -> Iterator[str]:
    for one in sorted(group, key=_index):
        yield one.get("regionRef", "")
        yield from _refs(one)


def _index(one: Element) -> int:
    """Return an element's place among its siblings: PAGE's own, or what Transkribus writes into `custom`."""
    custom = re.search(r"readingOrder\s*\{\s*index:\s*(\d+)", one.get("custom", ""))
    return int(one.get("index") or (custom[1] if custom else 0))


def _page_text(one: Element) -> str:
    """Return an element's own first text, else its words'."""
    for equivalent in sorted(one.findall("TextEquiv"), key=_index):
        return (equivalent.findtext("Unicode") or "").strip()
    return " ".join(filter(None, map(_page_text, one.findall("Word"))))
