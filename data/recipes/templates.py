"""Documents of sixteen kinds: each function returns the blocks of one page, as `sheet.Sheet` sets them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from data.recipes.invented import Invented

Blocks = list[dict[str, Any]]


def _title(text: str, scale: float = 1.4, align: str = "l") -> dict[str, Any]:
    return {"text": {"text": text, "scale": scale, "bold": True, "align": align}}


def _heading(text: str) -> dict[str, Any]:
    return {"text": {"text": text, "scale": 1.1, "bold": True}}


def _goods(w: Invented, count: int) -> tuple[str, list[list[Any]]]:
    """Return the locale, and rows of name, unit, number and price."""
    in_roubles = 92 if w.language == "ru" else 1
    rows = []
    for en, ru, unit_en, unit_ru, price in w.rows("goods", count):
        english = w.tongue() == "en"
        cost = f"{price * in_roubles * w.rng.uniform(0.8, 1.3):.2f}"
        rows.append([en if english else ru, unit_en if english else unit_ru, w.rng.randint(1, 48), cost])
    return w.language, rows


def _firm(w: Invented) -> Blocks:
    firm, tongue = w.one("firms"), w.tongue()
    address = w.fill("{street} {n}, {town}" if tongue == "en" else "г. {town}, {street}, {n}", tongue)
    return [_title(firm, 1.3), {"text": address}, {"text": f"{w.say('Tel.', 'Тел.')} {w.slot('phone', tongue)}"}]


def invoice(w: Invented) -> Blocks:
    """Return an invoice with tax on top."""
    locale, rows = _goods(w, w.rng.randint(6, 14))
    about = [
        [w.say("Invoice", "Счет №"), w.slot("code", w.tongue())],
        [w.say("Date", "Дата"), w.slot("date", w.tongue())],
        [w.say("Customer", "Покупатель"), w.one("firms")],
        [w.say("Account", "Р/с"), w.slot("digits20", "en")],
    ]
    goods = {
        "style": "table",
        "locale": locale,
        "columns": [0.8, 5, 1.3, 1.3, 2, 2.3],
        "align": "clcrrr",
        "head": ["№", *(w.either(*pair) for pair in _GOODS_HEAD)],
        "grid": w.rng.choice(("full", "rows", "none")),
        "rows": rows,
        "total": w.say("Total due", "Всего к оплате"),
        "before_tax": w.say("Subtotal", "Без НДС"),
        "tax_on_top": [w.say("VAT 20 %", "НДС 20 %"), 20],
    }
    last = w.say("Please pay within 30 days.", "Оплатите счет в течение 30 дней.")
    return [
        {"emblem": w.rng.choice(("rings", "bars"))},
        *_firm(w),
        {"space": 0.8},
        {"pairs": {"at": 0.34, "rows": about}},
        {"space": 0.8},
        {"goods": goods},
        {"space": 1},
        {"text": last},
        {"signature": 7},
        {"text": w.one("people")},
    ]


_GOODS_HEAD = (("Item", "Наименование"), ("Unit", "Ед."), ("Qty", "Кол."), ("Price", "Цена"), ("Amount", "Сумма"))


def receipt(w: Invented) -> Blocks:
    """Return a till receipt."""
    locale, rows = _goods(w, w.rng.randint(6, 16))
    ends = [
        [w.say("Cash desk", "Касса"), w.slot("digit", "en")],
        [w.either("Card", "Карта"), f"**** {w.slot('digits4', 'en')}"],
        [w.either("Reg. no.", "ФН"), w.slot("digits16", "en")],
        [w.either("Document", "ФД"), w.slot("digits10", "en")],
        [w.either("Sign", "ФП"), w.slot("digits10", "en")],
    ]
    return [
        _title(w.one("firms"), 1.25, "c"),
        {"text": {"text": w.slot("town", w.tongue()), "align": "c"}},
        {"rule": "dashed"},
        {"pairs": [[w.slot("date", "ru"), w.slot("time", "en")]]},
        {"rule": "dashed"},
        {
            "goods": {
                "style": "receipt",
                "locale": locale,
                "rows": [[name, number, price] for name, _, number, price in rows],
                "total": w.say("TOTAL", "ИТОГ"),
                "tax": [w.say("VAT 20%", "В т. ч. НДС 20%"), 20],
            }
        },
        {"pairs": ends},
        {"space": 0.5},
        {"text": {"text": w.say("Thank you!", "Спасибо за покупку!"), "align": "c", "bold": True}},
    ]


def letter(w: Invented) -> Blocks:
    """Return a business letter."""
    paragraphs = [{"text": text} for text in w.some("letters", w.rng.randint(4, 7))]
    spaced = [block for paragraph in paragraphs for block in (paragraph, {"space": 0.6})]
    return [
        *(
            {"text": {**block["text"], "align": "r"}} if isinstance(block["text"], dict) else block
            for block in _firm(w)
        ),
        {"space": 1},
        {"text": w.slot("date", w.tongue())},
        {"text": w.say("Our ref.", "Исх. №") + f" {w.slot('code', w.tongue())}"},
        {"space": 0.8},
        {"text": {"text": w.say("Dear Sir or Madam,", "Уважаемые коллеги!"), "bold": True}},
        {"space": 0.5},
        *spaced,
        {"text": w.say("Yours faithfully,", "С уважением,")},
        {"signature": 7},
        {"text": f"{w.one('people')}, {w.one('jobs').lower()}"},
    ]


def form(w: Invented) -> Blocks:
    """Return a form, filled in by machine or with a pen."""
    rows, by_hand = w.fields(w.rng.randint(9, 14)), w.rng.random() < 0.5
    half = len(rows) // 2
    ticks = [f"[{w.rng.choice('X ')}] {w.either(*pair)}" for pair in _TICKS]
    return [
        {"emblem": "bars"},
        _title(w.say("Application form", "Заявление-анкета")),
        {"text": f"{w.say('Form', 'Форма')} {w.slot('code', w.tongue())}"},
        {"rule": "double"},
        {"space": 0.5},
        _heading("A. " + w.either("Applicant", "Заявитель")),
        {"space": 0.3},
        {"fields": {"rows": rows[:half], "at": 0.42, "by_hand": by_hand}},
        _heading("B. " + w.either("Details", "Сведения")),
        {"space": 0.3},
        {"fields": {"rows": rows[half:], "at": 0.42, "by_hand": by_hand}},
        *({"text": tick} for tick in ticks),
        {"space": 0.6},
        {"text": w.say("I confirm that these statements are true.", "Достоверность сведений подтверждаю.")},
        {"signature": 7},
        {"text": w.slot("date", w.tongue())},
    ]


_TICKS = (("Fragile", "Хрупкое"), ("Insurance", "Страхование"), ("Saturday delivery", "Доставка в субботу"))


def contract(w: Invented) -> Blocks:
    """Return the first page of a contract with numbered clauses."""
    parties = w.say("Contractor: {0}. Customer: {1}.", "Исполнитель: {0}. Заказчик: {1}.")
    return [
        _title(f"{w.say('CONTRACT No.', 'ДОГОВОР №')} {w.slot('code', w.tongue())}", 1.3, "c"),
        {"pairs": [[w.slot("town", w.tongue()), w.slot("date", w.tongue())]]},
        {"space": 0.6},
        {"text": parties.format(*w.some("firms", 2))},
        {"space": 0.6},
        {"items": w.some("clauses", w.rng.randint(7, 10))},
        {"space": 0.8},
        {"pairs": {"at": 0.5, "rows": [[w.say("Contractor", "Исполнитель"), w.say("Customer", "Заказчик")]]}},
        {"signature": 6},
        {"pairs": {"at": 0.5, "rows": [w.some("people", 2)]}},
    ]


def specification(w: Invented) -> Blocks:
    """Return a data sheet with its table of parameters."""
    grid = w.rng.choice(("full", "rows", "none"))
    head = [] if grid == "none" else [w.say("Parameter", "Показатель"), w.say("Value", "Значение")]
    return [
        {"emblem": "rings"},
        *_firm(w)[:1],
        _title(w.one("products"), 1.2),
        {"text": f"{w.say('Technical data', 'Паспорт изделия')} {w.slot('code', w.tongue())}"},
        {"rule": "solid"},
        {"space": 0.5},
        _heading(w.say("Technical data", "Технические характеристики")),
        {"space": 0.3},
        {"table": {"columns": [6, 3], "head": head, "rows": w.parameters(w.rng.randint(12, 20)), "grid": grid}},
        {"space": 0.5},
        _heading(w.say("Set of delivery", "Комплект поставки")),
        {"items": [f"{row[0 if w.tongue() == 'en' else 1]} — {w.slot('digit', 'en')}" for row in w.rows("parts", 4)]},
        {"space": 0.5},
        {"text": f"{w.say('Serial No.', 'Заводской №')} {w.slot('digits12', 'en')}"},
    ]


def plate(w: Invented) -> Blocks:
    """Return the data plates of two machines."""
    blocks: Blocks = [{"space": 1}]
    for product in w.some("products", w.rng.randint(1, 2)):
        number = [[w.say("Serial No.", "Заводской №"), w.slot("digits12", "en")]]
        year = [[w.say("Year", "Год выпуска"), str(w.rng.randint(1998, 2025))]]
        rows = [*w.parameters(w.rng.randint(6, 9)), *number, *year]
        blocks += [{"plate": {"title": w.one("firms"), "subtitle": product, "rows": rows}}, {"space": 1.2}]
    return blocks


def price_list(w: Invented) -> Blocks:
    """Return a price list with article numbers."""
    locale, rows = _goods(w, w.rng.randint(18, 28))
    point = "," if locale == "ru" else "."
    lines = [[w.slot("digits8", "en"), name, unit, price.replace(".", point)] for name, unit, _, price in rows]
    head = [w.either("Art. no.", "Артикул"), *(w.either(*_GOODS_HEAD[n]) for n in (0, 1, 3))]
    grid = w.rng.choice(("full", "rows", "none"))
    return [
        _title(w.say("Price list", "Прайс-лист"), 1.5, "c"),
        {"text": {"text": f"{w.one('firms')}, {w.slot('date', w.tongue())}", "align": "c"}},
        {"space": 0.6},
        {"table": {"columns": [2, 5, 1.2, 1.7], "align": "llcr", "head": head, "rows": lines, "grid": grid}},
        {"space": 0.4},
        {"text": w.say("Prices without VAT.", "Цены указаны без НДС.")},
    ]


def table(w: Invented) -> Blocks:
    """Return readings by place and month: a wide table of numbers, some cells empty."""
    months = [w.either(*pair) for pair in (("Jan", "янв."), ("Feb", "фев."), ("Mar", "март"), ("Apr", "апр."))]
    places = w.some("towns", w.rng.randint(8, 12))
    point = "," if w.language == "ru" else "."
    body = []
    for place in places:
        numbers = [f"{w.rng.uniform(-20, 980):.1f}".replace(".", point) for _ in months]
        body.append([place, *("" if w.rng.random() < 0.08 else number for number in numbers)])
    layout = {"columns": [3, 1.4, 1.4, 1.4, 1.4], "align": "lrrrr", "grid": w.rng.choice(("full", "rows", "none"))}
    return [
        _title(
            f"{w.say('Table', 'Таблица')} {w.slot('digit', 'en')}. {w.say('Consumption, MWh', 'Потребление, МВт·ч')}"
        ),
        {"space": 0.4},
        {"table": {**layout, "head": [w.say("Place", "Пункт"), *months], "rows": body}},
        {"space": 0.4},
        *({"text": text} for text in w.some("sentences", 4)),
        {"space": 0.6},
        _title(w.say("Number of meters", "Число счетчиков"), 1.1),
        {"space": 0.3},
        {
            "table": {
                "columns": [3, 2, 2],
                "align": "lrr",
                "grid": layout["grid"],
                "rows": [[place, w.slot("nn", "en"), w.slot("digits6", "en")] for place in places[:8]],
            }
        },
    ]


def article(w: Invented) -> Blocks:
    """Return an article in two or three columns."""
    count = w.rng.choice((2, 2, 3))
    sentences = w.some("sentences", w.rng.randint(22, 30))
    paragraphs = [" ".join(sentences[start : start + 4]) for start in range(0, len(sentences), 4)]
    return [
        _title(w.one("titles"), 1.8),
        {"text": f"{w.one('people')}, {w.slot('date', w.tongue())}"},
        {"rule": "solid"},
        {"space": 0.5},
        {"columns": {"paragraphs": paragraphs, "count": count, "line": w.rng.random() < 0.4}},
    ]


def book(w: Invented) -> Blocks:
    """Return a page of a book with a running head, footnotes and its number."""
    sentences = w.some("sentences", w.rng.randint(16, 22))
    notes = w.some("footnotes", w.rng.randint(2, 3))
    for number in range(len(notes)):
        sentences[3 + number * 5] = f"{sentences[3 + number * 5]}{'¹²³'[number]}"
    paragraphs = [" ".join(sentences[start : start + 5]) for start in range(0, len(sentences), 5)]
    return [
        {"text": {"text": w.one("titles"), "align": "c", "scale": 0.9}},
        {"space": 1},
        *(block for text in paragraphs for block in ({"text": text}, {"space": 0.35})),
        {"footnotes": notes},
        {"space": 1},
        {"text": {"text": w.slot("n", "en"), "align": "c"}},
    ]


def timetable(w: Invented) -> Blocks:
    """Return a timetable: each run calls at every stop in turn, or passes it."""
    stops, runs = w.some("stops", w.rng.randint(8, 10)), w.rng.randint(4, 6)
    weekdays, weekend = (_calls(w, stops, runs, first) for first in (6 * 60, 8 * 60))
    head = [w.say("Stop", "Остановка"), *(str(101 + 2 * run) for run in range(runs))]
    layout = {"columns": [3.4, *[1.5] * runs], "align": "l" + "c" * runs, "grid": w.rng.choice(("full", "rows"))}
    return [
        _title(w.say("Timetable, line", "Расписание, маршрут") + f" {w.slot('n', 'en')}", 1.5, "c"),
        {"text": {"text": w.say("Monday to Friday", "Понедельник — пятница"), "align": "c"}},
        {"space": 0.5},
        {"table": {**layout, "head": head, "rows": weekdays}},
        {"space": 0.4},
        {"text": {"text": w.say("Saturday and Sunday", "Суббота и воскресенье"), "align": "c"}},
        {"space": 0.5},
        {"table": {**layout, "head": head, "rows": weekend}},
        {"text": f"{w.say('Enquiries', 'Справки')}: {w.slot('phone', w.tongue())}"},
    ]


def _calls(w: Invented, stops: list[str], runs: int, first: int) -> list[list[str]]:
    starts = [first + 130 * run + w.rng.randrange(0, 60, 5) for run in range(runs)]
    rows = []
    for number, stop in enumerate(stops):
        times = [f"{(start + 13 * number) // 60:02d}:{(start + 13 * number) % 60:02d}" for start in starts]
        rows.append([stop, *("–" if 0 < number < 7 and w.rng.random() < 0.06 else time for time in times)])
    return rows


def card(w: Invented) -> Blocks:
    """Return a business card."""
    tongue = w.tongue()
    return [
        {"emblem": w.rng.choice(("rings", "bars"))},
        {"text": {"text": w.one("firms"), "bold": True}},
        {"space": 2},
        _title(w.one("people"), 1.6),
        {"text": w.one("jobs")},
        {"space": 1.5},
        {"text": w.slot("phone", tongue)},
        {"text": w.slot("mail", tongue)},
        {"text": w.fill("{street} {n}, {town}", tongue)},
    ]


def certificate(w: Invented) -> Blocks:
    """Return a framed certificate of a course."""
    middle = [
        w.say("This is to certify that", "Настоящим удостоверяется, что"),
        w.one("people"),
        w.say("has completed the course", "прошел(а) обучение по программе"),
        w.one("courses"),
        f"{w.slot('n', 'en')} {w.say('hours', 'ч')}, {w.slot('date', w.tongue())}",
    ]
    scales = (1.0, 1.6, 1.0, 1.25, 1.0)
    return [
        {"frame": "double"},
        {"space": 3},
        _title(w.say("CERTIFICATE", "СЕРТИФИКАТ"), 2.2, "c"),
        {"text": {"text": f"№ {w.slot('digits6', 'en')}", "align": "c"}},
        {"space": 2},
        *(
            block
            for text, scale in zip(middle, scales, strict=True)
            for block in ({"text": {"text": text, "scale": scale, "align": "c", "bold": scale > 1}}, {"space": 0.9})
        ),
        {"space": 2},
        {"text": w.one("firms")},
        {"signature": 7},
        {"text": w.one("people")},
        {"text": f"{w.say('Registered under', 'Рег. №')} {w.slot('digits12', 'en')}"},
    ]


def register(w: Invented) -> Blocks:
    """Return a register that is nearly all digits: account numbers, sums, meter readings."""
    point = "," if w.language == "ru" else "."
    rows = [
        [
            str(number),
            w.slot("digits20", "en"),
            w.slot("digits10", "en"),
            f"{w.rng.uniform(10, 99999):.2f}".replace(".", point),
        ]
        for number in range(1, w.rng.randint(20, 30))
    ]
    head = ["№", w.either("Account", "Счет"), w.either("Tax number", "ИНН"), w.either("Amount", "Сумма")]
    return [
        _title(f"{w.say('Register', 'Реестр платежей')} № {w.slot('digits6', 'en')}", 1.3),
        {"text": w.slot("date", w.tongue())},
        {"space": 0.5},
        {
            "table": {
                "columns": [0.8, 4.4, 2.4, 2],
                "align": "rlrr",
                "head": head,
                "rows": rows,
                "grid": w.rng.choice(("full", "none")),
            }
        },
        {"space": 0.5},
        {"text": f"{w.say('Control number', 'Контрольное число')} {w.slot('digits18', 'en')}"},
    ]


def handwriting(w: Invented) -> Blocks:
    """Return a page of a notebook, written by hand."""
    return [
        {"hand": [w.slot("date", w.tongue())]},
        {"hand": w.some("errands", w.rng.randint(5, 7))},
        {"hand": w.some("sentences", w.rng.randint(2, 4))},
    ]


KINDS: dict[str, Callable[[Invented], Blocks]] = {
    function.__name__: function
    for function in (
        invoice,
        receipt,
        letter,
        form,
        contract,
        specification,
        plate,
        price_list,
        table,
        article,
        book,
        timetable,
        card,
        certificate,
        register,
        handwriting,
    )
}
