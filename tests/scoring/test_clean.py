"""What a model wrote around a page's text goes, what could be the page's own stays: by hand, and over our pages."""

from __future__ import annotations

import html
import json
import random
import re
import string
from collections.abc import Callable
from itertools import cycle

import pytest

from ocrlab.pages import load_pages
from ocrlab.scoring.clean import Cleaned, clean
from ocrlab.scoring.metrics import normalise

TRUTHS = [page.truth for name in ("documents", "labels", "lines", "sizes") for page in load_pages(name) if page.truth]
DOCUMENTS = [page.truth for page in load_pages("documents") if page.truth]


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("The text in the image is as follows:\n\nMilk 3.10", "Milk 3.10"),
        ("The image contains the following text:\nMilk 3.10", "Milk 3.10"),
        ("Here is the text extracted from the image:\n\nMilk 3.10", "Milk 3.10"),
        ("Sure! Here's the transcription:\n\nMilk 3.10", "Milk 3.10"),
        ("**Here is the text from the receipt:**\n\nMilk 3.10", "Milk 3.10"),
        ("All the text in the image reads:\nMilk", "Milk"),
        ('The text in the image reads: "Milk 3.10"', "Milk 3.10"),
        ("Текст на изображении:\nМолоко 3,10", "Молоко 3,10"),
        ("На изображении представлен следующий текст:\n\nМолоко", "Молоко"),
        ("Конечно! Вот текст с изображения:\n\nМолоко", "Молоко"),
        ("以下是图片中的文字内容：\n牛奶 3.10", "牛奶 3.10"),
        ("图中文字如下：\n牛奶", "牛奶"),
        ("Milk 3.10\n\nLet me know if you need anything else.", "Milk 3.10"),
        ("Milk 3.10\n\nThis appears to be a receipt from a shop.", "Milk 3.10"),
        ("Milk 3.10\n\n*(Note: some parts of the text are not legible.)*", "Milk 3.10"),
        ("Milk\n\nIf you need any further assistance, feel free to ask!", "Milk"),
        ("Молоко\n\nЕсли нужна дополнительная информация, дайте знать.", "Молоко"),
        ("```\nMilk 3.10\n```", "Milk 3.10"),
        ("```markdown\n# MAPLE LANE\n\nMilk 3.10\n```", "MAPLE LANE\n\nMilk 3.10"),
        ("```html\n<p>Milk</p>\n```", "Milk"),
        ("```plaintext\nMilk 3.10", "Milk 3.10"),
        (
            "---\nprimary_language: en\nis_rotation_valid: True\nrotation_correction: 0\nis_table: False\n"
            "is_diagram: False\n---\nMilk 3.10",
            "Milk 3.10",
        ),
        ("Milk 3.10\n```", "Milk 3.10"),
        ("Certainly!\n```\nMilk\n```\nI hope this helps!", "Milk"),
        ("Extracted content of the page:\n```\nMilk\n```", "Milk"),
        ("**Total** 6.20\n- **Date:** 14/03/2024", "Total 6.20\nDate: 14/03/2024"),
        ("## Total\n6.20", "Total\n6.20"),
        ("| Item | Qty |\n|---|---:|\n| Milk | 2 |\n| Tea | 1 |", "Item Qty\nMilk 2\nTea 1"),
        (
            "<table><tr><th colspan='2'>Item</th></tr><tr><td>Milk</td><td></td><td>2</td></tr></table>",
            "Item\nMilk 2",
        ),
        ("<table>\n  <tr>\n    <td>Milk</td>\n    <td>2</td>\n  </tr>\n</table>\nTotal", "Milk 2\nTotal"),
        ("\\begin{tabular}{|l|r|}\n\\hline\nMilk & 2 \\\\\n\\hline\nTea & 1 \\\\\n\\end{tabular}", "Milk 2\nTea 1"),
        ("Area $5.2\\,\\mathrm{m}^2$, \\(20^{\\circ}\\text{C}\\) and $\\pm 10\\%$", "Area 5.2 m², 20°C and ± 10%"),
        ("VAT 20\\% \\& 4 \\times 50", "VAT 20% & 4 × 50"),
        ("Salt &amp; pepper&nbsp;&lt;5&gt;<br>kg", "Salt & pepper <5>\nkg"),
        ("Milk<|box_start|>(12,34),(56,78)<|box_end|> <|ref_start|>3.10<|ref_end|><|im_end|>", "Milk 3.10"),
        ("<doctag><text><loc_1><loc_22><loc_3><loc_4>Milk</text><text><loc_5>Tea</text></doctag>", "Milk\nTea"),
        ("<otsl><loc_1><fcel>Milk<fcel>2<nl><fcel>Tea<ecel><nl></otsl>", "Milk 2\nTea"),
        ('```json\n[{"bbox_2d": [1, 2], "text_content": "Milk"}, {"text_content": "Tea"}]\n```', "Milk\nTea"),
        ('{"page": {"text": "Milk\\n3.10"}}', "Milk\n3.10"),
        ("Milk [illegible] 3.10", "Milk 3.10"),
        ("Here is the text:\n\n---\n\nMilk *organic*\n\n---", "Milk organic"),
        ("[kettle@shop.example](mailto:kettle@shop.example)", "kettle@shop.example"),
    ],
)
def test_what_the_model_wrote_goes(answer: str, text: str) -> None:
    found = clean(answer)
    assert normalise(found.text) == normalise(text)
    assert [line for line in found.text.split("\n") if line.strip()] == [ln for ln in text.split("\n") if ln.strip()]
    assert found.removed and 0 < found.removed_characters <= len(answer)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n",
        "The text of the agreement: both parties\nagree as follows",
        "The text of the agreement was signed on 1 March.\nPage 2",
        "---\ndate: 14/03/2024\n---\nMilk 3.10",
        "Card ending **** 7731",
        "*ABC123*",
        "# Description Unit Qty\n1 Logo job 1",
        "# 4471",
        "[X] Fragile [ ] Insurance",
        "Dear resident,\n\nIf you need help with shopping, ring the caretaker on 01632 960 257.",
        "INVOICE\n\nIf you have any questions, please contact our office.",
        "Счёт\n\nЕсли у вас есть вопросы, звоните по телефону 8 800 000-00-00.",
        "Application\n\nNote: handwriting must be legible.",
        "Let me know if you need anything else.\nYours, Ann",
        "Let me know if you need anything else.",
        "The image shows the tower in 1890.",
        "Home | About | Contact",
        "a | b\n---+---\n1 | 2",
        "Price $5 and $10, 5_000^2",
        "Name ____ Date __ / __",
        "f(**kwargs) ** 2",
        "C:\\times\\%TEMP% \\\\server\\pm",
        "< 50 mVpp > 22 ms a<b>c",
        "Markdown in a minute\n**bold** and ## Heading\n| a |\n|---|\n| b |",
        "A README in Markdown:\n```\n# Title\n```\nends here",
        "In HTML write <b>bold</b> and <br> and &amp;",
        "LaTeX sets $x^2$ and \\% so",
        '{"name": "Milk", "price": 3}',
        '"quoted" as it stands "there"',
        "- one\n- two\n1. three\n* four",
        "Text: none\nTotal: 5",
        "Документ в 2 экземплярах:\nодин",
    ],
)
def test_what_could_be_the_pages_own_stays(text: str) -> None:
    assert clean(text) == Cleaned(text)
    assert clean(text).removed_characters == 0


def test_what_was_taken_off_is_listed() -> None:
    found = clean("Sure! Here's the transcription:\n\n**Milk** 3.10\n\nI hope this helps!")
    assert found == Cleaned("Milk 3.10", ("I hope this helps!", "Sure! Here's the transcription:", "****"))
    assert found.removed_characters == 18 + 31 + 4


# How models write, made around real pages: each kind takes a page's text and returns an answer, or "" where the page
# has nothing that it would change.


def around(before: str, after: str = "") -> Callable[[str], str]:
    return lambda text: before + text + after


def by_line(change: Callable[[str], str]) -> Callable[[str], str]:
    return lambda text: "\n".join(map(change, text.split("\n")))


def if_changed(change: Callable[[str], str]) -> Callable[[str], str]:
    return lambda text: made if (made := change(text)) != text else ""


def pipes(text: str) -> str:
    rows = ["| " + " | ".join(line.replace("|", "\\|").split()) + " |" for line in text.split("\n")]
    return "\n".join([rows[0], "|" + "---|" * rows[0].count(" | "), *rows[1:]]) if len(rows[0].split()) > 4 else ""


def html_table(text: str, space: str = "") -> str:
    cells = [[html.escape(word) for word in line.split()] for line in text.split("\n")]
    rows = (f"{space}".join(["<tr>", *(f'<td colspan="1">{cell}</td>' for cell in row), "</tr>"]) for row in cells)
    return f"<table>{space}<tbody>{space}{space.join(rows)}</tbody></table>"


def tabular(text: str) -> str:
    if set(text) & set("\\$^_{}~"):
        return ""
    cells = (re.sub(r"([%&#])", r"\\\1", line).split() for line in text.split("\n"))
    return "\\begin{tabular}{|l|c|r|}\n\\hline\n" + " \\\\\n\\hline\n".join(map(" & ".join, cells)) + "\n\\end{tabular}"


def in_mathematics(text: str) -> str:
    if set(text) & set("\\$^_{}"):
        return ""
    text = re.sub(r"±(\d+)", r"$\\pm\1$", text)
    return re.sub(r"(\d+)×(\d+)", r"\\(\1{\\times}\2\\)", re.sub(r"(\d+)( ?)°C", r"$\1\2^{\\circ}$C", text)).replace(
        "²", "$^2$"
    )


def doctags(text: str) -> str:
    lines = (f"<text><loc_{n}><loc_7><loc_{n + 9}><loc_40>{line}</text>" for n, line in enumerate(text.split("\n")))
    return "<doctag>" + "\n".join(lines) + "</doctag>"


def boxes(text: str) -> str:
    lines = [{"bbox_2d": [n, 4, n + 9, 40], "text_content": line} for n, line in enumerate(text.split("\n"))]
    return "```json\n" + json.dumps(lines, ensure_ascii=False, indent=1) + "\n```"


def headed(text: str) -> str:
    first, *others = text.split("\n")
    return (
        "\n".join([f"# {first}", "", *(f"### {line}" if line.isupper() else line for line in others)]) if others else ""
    )


def emphatic(text: str) -> str:
    return re.sub(r"(?m)^([A-Za-zА-я][^\n*:]{2,30}):", r"- **\1:**", re.sub(r"(?m)^([A-ZА-Я .]{6,})$", r"**\1**", text))


KINDS: dict[str, Callable[[str], str]] = {
    "as follows": around("The text in the image is as follows:\n\n"),
    "contains": around("The image contains the following text:\n\n"),
    "extracted": around("Here is the text extracted from the image:\n\n"),
    "sure": around("Sure! Here's the transcription:\n\n"),
    "bold introduction": around("**The text in the document is:**\n\n"),
    "one line": around("The text in the image is: "),
    "на изображении": around("На изображении представлен следующий текст:\n\n"),
    "текст на": around("Текст на изображении:\n"),
    "вот": around("Вот текст с изображения:\n\n"),
    "以下是": around("以下是图片中的文字内容：\n\n"),
    "图中": around("图中文字如下：\n"),
    "anything else": around("", "\n\nLet me know if you need anything else."),
    "appears": around("", "\n\nThis appears to be a receipt from a grocery shop in England."),
    "not legible": around("", "\n\nNote: some parts of the text are not legible."),
    "если": around("", "\n\nЕсли нужна дополнительная информация, пожалуйста, уточните."),
    "both ends": around("Certainly! Here is the text from the page:\n\n", "\n\nPlease let me know if there is more.\n"),
    "fence": around("```\n", "\n```"),
    "fence markdown": around("```markdown\n", "\n```"),
    "introduced fence": around("Here is the extracted text:\n\n```plaintext\n", "\n```\n\nI hope this helps!"),
    "open fence": around("```text\n"),
    "closing fence": around("", "\n```"),
    "rulers": around("Here is the text from the image:\n\n---\n\n", "\n\n---"),
    "quotes": around('The text in the image reads:\n\n"', '"'),
    "headings": headed,
    "bold": if_changed(emphatic),
    "pipes": pipes,
    "HTML": html_table,
    "HTML laid out": lambda text: "```html\n" + html_table(text, "\n  ") + "\n```",
    "tabular": tabular,
    "mathematics": if_changed(in_mathematics),
    "escapes": if_changed(lambda text: re.sub(r"(?<=[\d\s])([%&$#])", r"\\\1", text)),
    "entities": if_changed(lambda text: html.escape(text).replace("–", "&ndash;")),
    "breaks": if_changed(lambda text: text.replace("\n", "<br>\n")),
    "paragraphs": lambda text: "".join(f"<p>{html.escape(line)}</p>" for line in text.split("\n")),
    "non-breaking": if_changed(lambda text: text.replace(" ", "&nbsp;")),
    "boxes": by_line(lambda line: f"<|ref_start|>{line}<|ref_end|><|box_start|>(1,2),(30,40)<|box_end|>"),
    "det": by_line(lambda line: f"<|det|>[[1, 2, 30, 40]]<|/det|>{line}"),
    "DocTags": doctags,
    "JSON boxes": boxes,
    "JSON": lambda text: json.dumps({"language": "en", "text": text}, ensure_ascii=False),
    "illegible": around("", "\n[illegible]"),
    "end token": around("", "<|im_end|>"),
}


def made_answers() -> list[tuple[str, str, str]]:
    """Return 200 answers as (kind, answer, the page's text): the kinds in turn, pages by chance, documents mostly."""
    rng, found = random.Random(20), []
    for kind in cycle(KINDS):
        made = ""
        while not made:
            text = rng.choice(DOCUMENTS if rng.random() < 0.8 else TRUTHS)
            made = KINDS[kind](text)
        found.append((kind, made, text))
        if len(found) == 200:
            return found
    raise AssertionError


def test_made_answers_give_the_pages_text() -> None:
    answers = made_answers()
    assert len(KINDS) >= 30 and all(normalise(answer) != normalise(text) for _, answer, text in answers)
    wrong = [(kind, answer, text) for kind, answer, text in answers if normalise(clean(answer).text) != normalise(text)]
    assert len(wrong) <= 0.02 * len(answers), [(kind, clean(answer).text, text) for kind, answer, text in wrong]


def test_pages_texts_are_left_alone() -> None:
    assert len(TRUTHS) >= 200
    assert [text for text in TRUTHS if clean(text) != Cleaned(text)] == []


def test_cleaning_what_is_clean_changes_nothing() -> None:
    for _, answer, _ in made_answers():
        assert clean(clean(answer).text) == Cleaned(clean(answer).text)


PIECES = [
    *("**", "*", "# ", "## ", "```", "|", "|---|---|", "\n", "\n\n", "<td>", "</td>", "<br>", "<b>", "</b>", "$", "\\"),
    *("\\times", "^2", "_", "&amp;", "&lt;", "<|x|>", "[", "](http://a)", '"', "{", "}", "Sure! ", "---", "Milk", " "),
    *("The text in the image is:", "Let me know if you can.", "<loc_1>", "[illegible]", "\\frac{1}{2}", "3.10"),
]


def test_any_text_ends_clean_and_plain_text_stays() -> None:
    rng = random.Random(7)
    for _ in range(3000):
        once = clean("".join(rng.choices(PIECES, k=rng.randrange(14)))).text
        assert clean(once).text == once
    for _ in range(500):
        plain = "".join(rng.choices(string.ascii_letters + string.digits + " \n.,:;-+()'/абвжЖ№", k=rng.randrange(80)))
        assert clean(plain) == Cleaned(plain)
