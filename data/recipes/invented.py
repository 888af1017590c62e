"""Invented people, firms, numbers and sentences, drawn from `invented.yaml` by a seed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import yaml

_LISTS = {"person": "people", "firm": "firms", "town": "towns", "street": "streets"}
_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)


@cache
def _all() -> dict[str, Any]:
    return yaml.safe_load((Path(__file__).parent / "invented.yaml").read_text(encoding="utf-8"))


@dataclass
class Invented:
    """What a document of one language is filled with; `mixed` takes from both."""

    rng: Random
    language: str

    def tongue(self) -> str:
        """Return en or ru: the language itself, or either for `mixed`."""
        return self.rng.choice(("en", "ru")) if self.language == "mixed" else self.language

    def say(self, en: str, ru: str) -> str:
        """Return a fixed phrase in the document's language; in both, with a stroke between, for `mixed`."""
        return {"en": en, "ru": ru}.get(self.language, en if en == ru else f"{en} / {ru}")

    def either(self, en: str, ru: str) -> str:
        """Return a fixed phrase in one language."""
        return {"en": en, "ru": ru}[self.tongue()]

    def one(self, name: str) -> str:
        """Return one entry of a list of the YAML, filled."""
        return self.some(name, 1)[0]

    def some(self, name: str, count: int) -> list[str]:
        """Return so many different entries of a list, filled."""
        lists, chosen = _all()[name], []
        left = {tongue: self.rng.sample(entries, len(entries)) for tongue, entries in lists.items()}
        for _ in range(count):
            tongue = self.tongue()
            chosen.append(self.fill(left[tongue].pop(), tongue))
        return chosen

    def rows(self, name: str, count: int) -> list[list[Any]]:
        """Return so many different rows of a list without languages, in the list's order."""
        rows = _all()[name]
        return [rows[index] for index in sorted(self.rng.sample(range(len(rows)), min(count, len(rows))))]

    def parameters(self, count: int) -> list[list[str]]:
        """Return rows of a technical parameter and its value."""
        found = []
        for en, ru, *values in self.rows("parameters", count):
            value = self.rng.choice(values)
            found.append([self.say(en, ru), _in_english(value) if self.language == "en" else value])
        return found

    def fields(self, count: int) -> list[list[str]]:
        """Return rows of a form's label and the answer."""
        rows = self.rows("fields", count)
        return [[self.either(en, ru), self.fill(value, self.tongue())] for en, ru, value in rows]

    def fill(self, text: str, tongue: str) -> str:
        """Return the text with its {slots} filled."""
        return re.sub(r"\{(\w+)\}", lambda slot: self.slot(slot[1], tongue), text)

    def slot(self, name: str, tongue: str) -> str:
        """Return a value of this sort: a name from the lists, a date, a sum, a code, so many digits."""
        rng = self.rng
        if name in _LISTS:
            return rng.choice(_all()[_LISTS[name]][tongue])
        if name.startswith("digits"):
            return str(rng.randint(1, 9)) + "".join(rng.choices("0123456789", k=int(name[6:]) - 1))
        day, month, year = rng.randint(1, 28), rng.randint(1, 12), rng.randint(2019, 2025)
        sum_of_money = f"{rng.randint(1, 890)},{rng.randint(0, 999):03d}.{rng.randint(0, 99):02d}"
        in_english = tongue == "en"
        values = {
            "n": str(rng.randint(3, 48)),
            "nn": str(rng.randint(1100, 9800)),
            "digit": str(rng.randint(1, 9)),
            "pct": str(rng.randint(2, 45)),
            "year": str(rng.randint(1781, 1968)),
            "time": f"{rng.randint(7, 20):02d}:{rng.randrange(0, 60, 5):02d}",
            "code": f"{rng.choice('DFGLNRSZ') if in_english else rng.choice('БГДЖИЛПФ')}-{rng.randint(1000, 99999)}",
            "date": f"{day} {_MONTHS[month - 1]} {year}" if in_english else f"{day:02d}.{month:02d}.{year}",
            "birth": f"{day:02d}.{month:02d}.{rng.randint(1948, 2004)}",
            "money": f"£{sum_of_money}" if in_english else f"{sum_of_money.replace(',', ' ').replace('.', ',')} руб.",
            "weight": f"{rng.randint(3, 48)}.{rng.randint(1, 9)} {'kg' if in_english else 'кг'}",
            "phone": f"01632 960 {rng.randint(100, 999)}" if in_english else f"8 (900) 000-{day:02d}-{month:02d}",
            "mail": f"office{rng.randint(10, 99)}@{rng.choice(('corran', 'remeslo', 'millhaven', 'tochmera'))}.example",
        }
        return values[name]


def _in_english(value: str) -> str:
    units = _all()["units"]
    return re.sub("|".join(map(re.escape, sorted(units, key=len, reverse=True))), lambda unit: units[unit[0]], value)
