"""Which further documents there are: so many of each kind, each with its language, size, font and state of paper."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from data.recipes import templates
from data.recipes.invented import Invented
from data.recipes.samples import SEED

#: Pages and, for the largest to the smallest print that is tried, letters' widths (ems) across the page.
COUNTS: dict[str, tuple[int, tuple[int, ...]]] = {
    "invoice": (12, (46, 50, 56, 62)),
    "receipt": (11, (26, 30, 34, 40)),
    "letter": (11, (42, 46, 52, 58, 64)),
    "form": (11, (38, 42, 48, 54, 60)),
    "contract": (11, (42, 48, 54, 60, 68)),
    "specification": (13, (42, 46, 50, 56, 64)),
    "plate": (11, (30, 34, 40, 46, 52)),
    "price_list": (11, (40, 46, 52, 58)),
    "table": (12, (42, 46, 52, 58)),
    "article": (15, (52, 58, 64, 72)),
    "book": (11, (38, 42, 46, 52, 58, 64)),
    "timetable": (11, (38, 42, 46, 52, 58)),
    "card": (8, (26, 30, 36, 42)),
    "certificate": (9, (36, 42, 48, 56)),
    "register": (11, (42, 46, 50, 56)),
    "handwriting": (12, (30, 34, 38, 44, 50)),
}
LANGUAGES = ("ru", "en", "ru", "en", "mixed")
WIDTHS = (820, 900, 1000, 1100, 1240, 1240, 1400, 1654, 1000, 1240, 2000, 2480)
#: Receipts and cards are small paper; a page with two plates or with columns is not.
NARROW = {"receipt": (800, 820, 900), "card": (1000, 1100, 1240)}
FONTS = (
    ("LiberationSans-Regular.ttf", "LiberationSans-Bold.ttf"),
    ("PTS55F.ttf", "PTS75F.ttf"),
    ("LiberationSerif-Regular.ttf", "LiberationSerif-Bold.ttf"),
    ("NotoSans-Regular.ttf", "NotoSans-Bold.ttf"),
    ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf"),
    ("OpenSans-Regular.ttf", "OpenSans-Bold.ttf"),
    ("PTF55F.ttf", "PTF75F.ttf"),
    ("NotoSerif-Regular.ttf", "NotoSerif-Bold.ttf"),
    ("Roboto-Regular.ttf", "Roboto-Bold.ttf"),
    ("DejaVuSerif.ttf", "DejaVuSerif-Bold.ttf"),
    ("FreeSans.ttf", "FreeSansBold.ttf"),
    ("Carlito-Regular.ttf", "Carlito-Bold.ttf"),
    ("CharisSIL-Regular.ttf", "CharisSIL-Bold.ttf"),
    ("ClearSans-Regular.ttf", "ClearSans-Bold.ttf"),
)
MONOSPACED = (
    ("LiberationMono-Regular.ttf", "LiberationMono-Bold.ttf"),
    ("PTM55F.ttf", "PTM75F.ttf"),
    ("DejaVuSansMono.ttf", "DejaVuSansMono-Bold.ttf"),
)
PENS = ("EBGaramond12-Italic.otf", "LinLibertine_RI.otf", "Comfortaa-Regular.ttf", "GentiumPlus-Italic.ttf")

Paper = dict[str, Any]


def clean(rng: Random, scale: float) -> Paper:
    """Return paper as it came out of a program."""
    return {}


def scanned(rng: Random, scale: float) -> Paper:
    """Return paper off a flatbed scanner."""
    contrast = {"contrast": {"ink": rng.randint(15, 60), "paper": rng.randint(236, 252)}}
    skew = {"skew": _signed(rng, 0.3, 1.6)}
    if rng.random() < 0.5:
        return {"degradations": [skew, contrast, {"blur": round(0.35 * scale, 2)}], "levels": 12}
    return {"degradations": [skew, contrast, {"blur": round(0.6 * scale, 2)}, {"noise": 2}], "jpeg": True}


def photographed(rng: Random, scale: float) -> Paper:
    """Return paper on a table in uneven light, by a telephone."""
    camera, light = {"camera": round(rng.uniform(0.01, 0.05), 3)}, {"light": round(rng.uniform(0.2, 0.5), 2)}
    return {"degradations": [camera, light, {"blur": round(0.6 * scale, 2)}, {"noise": 2}], "jpeg": True}


def faxed(rng: Random, scale: float) -> Paper:
    """Return paper that came by fax."""
    return {"degradations": [{"skew": _signed(rng, 0.2, 0.9)}, {"fax": round(min(1.0, 0.95 / scale), 2)}], "levels": 2}


def dark(rng: Random, scale: float) -> Paper:
    """Return paper photographed with too little light."""
    contrast = {"contrast": {"ink": rng.randint(12, 36), "paper": rng.randint(88, 130)}}
    light = {"light": round(rng.uniform(0.2, 0.45), 2)}
    return {"degradations": [contrast, light, {"blur": round(0.5 * scale, 2)}, {"noise": 3}], "jpeg": True}


def crumpled(rng: Random, scale: float) -> Paper:
    """Return paper that was crumpled, or folded and stained, and smoothed out again."""
    worn = [{"crumple": round(rng.uniform(0.3, 0.5), 2)}]
    if rng.random() < 0.35:
        worn = [{"coffee": round(rng.uniform(0.3, 0.5), 2)}, {"fold": round(rng.uniform(0.15, 0.3), 2)}]
    return {"degradations": [*worn, {"blur": round(0.5 * scale, 2)}, {"noise": 2}], "jpeg": True}


#: Three in eight are clean.
PAPERS: tuple[Callable[[Random, float], Paper], ...] = (
    clean,
    scanned,
    photographed,
    clean,
    faxed,
    dark,
    crumpled,
    clean,
)


def planned_documents() -> list[dict[str, Any]]:
    """Return their entries, in the form that `documents.yaml` has, kind by kind."""
    return [entry for kind in COUNTS for entry in _of_kind(kind)]


def _of_kind(kind: str) -> list[dict[str, Any]]:
    count, ems = COUNTS[kind]
    rng = Random(f"{SEED}/planned/{kind}")
    languages, papers, widths = (
        _dealt(rng, choices, count) for choices in (LANGUAGES, PAPERS, NARROW.get(kind, WIDTHS))
    )
    fonts = _dealt(rng, MONOSPACED if kind == "receipt" else FONTS, count)
    entries = []
    for number in range(count):
        width, heavy, paper = _paper(papers[number], widths[number], f"{SEED}/paper/{kind}/{number}")
        height = round(width * 1.41)
        entries.append(
            {
                "name": f"{kind}-{number + 1:02d}",
                "kind": kind,
                "language": languages[number],
                "fonts": fonts[number],
                "pen": rng.choice(PENS),
                "paper": {
                    "width": width,
                    "height": height * 2 if kind == "receipt" else height,
                    "margin": max(44, round(width * 0.075)),
                    "sizes": [round(width / across) for across in ems],
                    "crop": True,
                    "least": round(width * 0.6) if kind == "card" else 0 if kind == "receipt" else height,
                },
                "blocks": templates.KINDS[kind](Invented(rng, languages[number])),
                **paper,
                **({"jpeg_quality": 62 if width <= 1100 else 48} if heavy else {}),
            }
        )
    return entries


def _paper(state: Callable[[Random, float], Paper], width: int, seed: str) -> tuple[int, bool, Paper]:
    """Return the width, whether the page is stored as JPEG, and the rest of its entry."""
    if width > 1700 and state(Random(seed), 1.0).get("jpeg"):  # grain packs badly: only clean pages are that large
        width = 1400
    paper = state(Random(seed), max(1.0, width / 1000))
    return width, paper.pop("jpeg", False), paper


def _dealt(rng: Random, choices: tuple[Any, ...], count: int) -> list[Any]:
    """Return so many of the choices, each as often as any other, in a random order."""
    dealt = [choices[index % len(choices)] for index in range(count)]
    return rng.sample(dealt, count)


def _signed(rng: Random, low: float, high: float) -> float:
    return round(rng.choice((-1, 1)) * rng.uniform(low, high), 2)
