"""Strings to print: words, pseudo-words, numbers, codes, specification lines; some are held out for evaluation."""

from __future__ import annotations

import re
import zlib
from functools import cache
from random import Random

LATIN = "abcdefghijklmnopqrstuvwxyz"
CYRILLIC = "абвгдежзийклмнопрстуфхцчшщъыьэюяё"
PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
EXTRA = "°±×÷µΩ№–—«»“”„’…²³€£₽§©®™•≤≥≈½¼"
MAX_CHARACTERS = 48

_SPECIFICATIONS = {
    "en": "Voltage V|Power W|Current A|Weight kg|Width mm|Height mm|Depth cm|Speed rpm|Frequency Hz|Capacity L|"
    "Pressure bar|Temperature °C|Noise dB|Length m|Memory GB|Price USD|Battery mAh|Flow rate l/min|Torque Nm|"
    "Warranty years|Total pcs|Tax %|Diameter mm|Volume cm³|Area m²|Resistance Ω|Net weight g|Input V|Output W|"
    "Max load kg|Brightness lm|Efficiency %|Range km|Cable length m|Protection class IP|Tolerance ±|Storage TB",
    "ru": "Мощность Вт|Напряжение В|Ток А|Масса кг|Ширина мм|Высота мм|Глубина см|Скорость об/мин|Частота Гц|"
    "Объем л|Давление бар|Температура °C|Шум дБ|Длина м|Память ГБ|Цена руб|Батарея мАч|Гарантия мес|"
    "Расход л/мин|Итого шт|НДС %|Размер мм|Вес г|Диаметр мм|Площадь м²|Сопротивление Ом|Вес нетто кг|"
    "Питание В|Нагрузка кг|Яркость лм|КПД %|Дальность км|Длина кабеля м|Степень защиты IP|Допуск ±|Сумма ₽",
}


def is_held_out(text: str) -> bool:
    """Return whether a string belongs to the evaluation sets: one string in fifty, chosen by its CRC-32."""
    return len(text) >= 4 and zlib.crc32(text.encode()) % 50 == 0


@cache
def words(language: str) -> tuple[str, ...]:
    """Return the 60,000 most frequent words of `en` or `ru`, commonest first (wordfreq's list)."""
    import wordfreq

    letters = {"en": "[a-z]{1,14}", "ru": "[а-яё]{1,14}"}[language]
    return tuple(w for w in wordfreq.top_n_list(language, 60_000) if re.fullmatch(letters, w))


def _case(rng: Random, word: str) -> str:
    roll = rng.random()
    return word.lower() if roll < 0.5 else word.capitalize() if roll < 0.8 else word.upper()


def word(rng: Random, language: str) -> str:
    """Return a word: a third are random letters, so that the image must be read and not guessed."""
    if rng.random() < 0.33:
        letters = LATIN if language == "en" else CYRILLIC
        return _case(rng, "".join(rng.choice(letters) for _ in range(rng.randint(1, 9))))
    known = words(language)
    return _case(rng, known[int(len(known) * rng.random() ** 2)])


def number(rng: Random) -> str:
    """Return a number as print has it: integer, decimal, date, time, dimensions, money, telephone."""
    kind = rng.randrange(10)
    if kind < 3:
        return str(rng.randint(0, 10 ** rng.randint(1, 7)))
    if kind < 5:
        return f"{rng.uniform(0, 10 ** rng.randint(0, 4)):.{rng.randint(1, 3)}f}".replace(".", rng.choice("..,"))
    if kind == 5:
        day, month, year = rng.randint(1, 31), rng.randint(1, 12), rng.randint(1980, 2039)
        return rng.choice(
            [f"{day:02d}.{month:02d}.{year}", f"{year}-{month:02d}-{day:02d}", f"{day}/{month}/{year % 100:02d}"]
        )
    if kind == 6:
        return f"{rng.randint(1, 999)}{rng.choice('x×-/')}{rng.randint(1, 999)}"
    if kind == 7:
        return f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}"
    if kind == 8:
        amount = f"{rng.randint(0, 99_999) / 100:.2f}"
        return rng.choice([f"${amount}", f"{amount} €", f"£{amount}", f"{amount} ₽", amount])
    country, area, first = rng.randint(1, 99), rng.randint(100, 999), rng.randint(100, 999)
    return f"+{country} {area} {first}-{rng.randint(10, 99)}-{rng.randint(10, 99)}"


def code(rng: Random) -> str:
    """Return a part number, serial number or address: letters and digits with separators."""
    if rng.random() < 0.12:
        name = "".join(rng.choice(LATIN) for _ in range(rng.randint(3, 9)))
        return rng.choice(
            [f"{name}@{word(rng, 'en').lower()}.com", f"www.{name}.ru", f"https://{name}.org/{rng.randint(1, 999)}"]
        )
    upper = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
    alphabet = upper if rng.random() < 0.7 else LATIN + upper
    groups = ["".join(rng.choice(alphabet) for _ in range(rng.randint(1, 6))) for _ in range(rng.randint(1, 4))]
    return rng.choice("---/. _").join(groups)


def _specification(rng: Random, language: str) -> str:
    name, unit = rng.choice(_SPECIFICATIONS[language].split("|")).rsplit(" ", 1)
    if rng.random() < 0.3:
        name = " ".join([word(rng, language), name.lower()])
    if unit == "±":
        return f"{name}: ±{number(rng)}"
    return f"{name}{rng.choice([':', ':', ':', ' -', '', ' ='])} {number(rng)}{rng.choice([' ', ' ', ''])}{unit}"


def _token(rng: Random, language: str) -> str:
    roll = rng.random()
    if roll > 0.9:
        return number(rng) if roll < 0.96 else rng.choice(PUNCTUATION + EXTRA)
    text = word(rng, language if rng.random() > 0.06 else rng.choice(["en", "ru"]))
    roll = rng.random()
    if roll < 0.16:
        return text + rng.choice(",.:;!?")
    if roll < 0.24:
        quotes = rng.choice(["()", "[]", '""', "«»", "''", "“”"])
        return quotes[0] + text + quotes[1]
    if roll < 0.27:
        return f"{text}-{word(rng, language).lower()}"
    return text


def line(rng: Random, language: str, target: int) -> str:
    """Return one line of about `target` characters (at most 48, at least 1), single spaces, in NFC."""
    roll = rng.random()
    if roll < 0.2:
        text = _specification(rng, language)
    elif roll < 0.3:
        text = code(rng)
    elif roll < 0.36:
        text = number(rng)
    elif roll < 0.43:
        pool = (
            (CYRILLIC + CYRILLIC.upper() if language == "ru" else LATIN + LATIN.upper())
            + "0123456789" * 2
            + PUNCTUATION
            + EXTRA
        )
        text = "".join(rng.choice(pool) for _ in range(target))
    else:
        text = _token(rng, language)
        while len(text) < target:
            text += " " + _token(rng, language)
    return shorten(rng, text, min(MAX_CHARACTERS, max(target, 1)))


def shorten(rng: Random, text: str, limit: int) -> str:
    """Return `text` cut to at most `limit` characters, from either end."""
    if len(text) > limit:
        text = text[:limit] if rng.random() < 0.7 else text[-limit:]
    return re.sub(r"\s+", " ", text).strip() or rng.choice("0123456789")


def training_line(rng: Random, language: str, target: int) -> str:
    """Return a line that is not held out."""
    while is_held_out(text := line(rng, language, target)):
        pass
    return text


def prompt(rng: Random) -> str:
    """Return what a person might ask: a usual request, or random words, so that any prompt is answered by reading."""
    roll = rng.random()
    if roll < 0.35:
        return DEFAULT_PROMPT
    if roll < 0.6:
        return rng.choice(_PROMPTS)
    language = rng.choice(["en", "en", "ru"])
    text = " ".join(word(rng, language).lower() for _ in range(max(1, int(18 * rng.random() ** 2.5))))
    return (text.capitalize() if rng.random() < 0.6 else text) + rng.choice(["", ".", ":", "?"])


DEFAULT_PROMPT = "Read the text in the image."
_PROMPTS = (
    "OCR",
    "OCR:",
    "Text:",
    "Read this.",
    "Transcribe the image.",
    "Extract all text from the image.",
    "What is written here?",
    "What text is in the image?",
    "Convert the page to text, line by line.",
    "Извлеки текст.",
    "Прочитай текст на изображении.",
    "Что здесь написано?",
    "Распознай документ.",
)
