"""Strings for the evaluation sets: what the sampler draws and training never shows, in a font that has every glyph."""

from __future__ import annotations

import re
from random import Random

from data.recipes import sampler
from data.recipes.fonts import Font, sized

# Word lists count what people write; pages that others will print and publish can do without these.
_COARSE = re.compile(
    "fuck|shit|cunt|bitch|whore|porn|sex|rape|nigg|fag|slut|nazi|hitler|suicid|"
    "ху[йеёяи]|пизд|[её]б[аиуолн]|бля[дт]|сука|суки|порно|секс|полов[оы]|фаши|нацис|гитлер|жоп|говн|дерьм|шлюх|изнас",
    re.IGNORECASE,
)


def held_out_line(rng: Random, font: Font, language: str, target: int) -> str:
    """Return a held-out line of about `target` characters that the font can draw; `mixed` has both scripts."""
    while True:
        text = _mixed(rng, target) if language == "mixed" else sampler.line(rng, language, target)
        if _suits(text, font):
            return text


def _suits(text: str, font: Font) -> bool:
    return sampler.is_held_out(text) and font.draws(text) and not _COARSE.search(text) and _is_whole(text, font)


def _is_whole(text: str, font: Font) -> bool:
    """Return whether no glyph rises above or hangs below the font's own line height, where the print would cut it."""
    face = sized(font.path, 48)
    box = face.getbbox(text)
    return box[1] >= 0 and box[3] <= sum(face.getmetrics())


def _mixed(rng: Random, target: int) -> str:
    while True:
        parts = [sampler.line(rng, language, max(2, target // 2)) for language in rng.sample(["en", "ru"], 2)]
        text = sampler.shorten(rng, " ".join(parts), sampler.MAX_CHARACTERS)
        if re.search("[A-Za-z]", text) and re.search("[А-яЁё]", text):
            return text


def label_lines(rng: Random, font: Font, language: str, count: int) -> tuple[list[str], str]:
    """Return `count` held-out lines and how to align them; four in ten of the longer ones are small receipts."""
    languages = [language] * count
    if language == "mixed":
        languages = rng.sample(["en", "ru"], 2) + [rng.choice(["en", "ru"]) for _ in range(count - 2)]
    if count >= 5 and rng.random() < 0.4:
        return [_receipt_line(rng, font, spoken) for spoken in languages], "columns"
    target = rng.randint(5, 34)
    lines = [held_out_line(rng, font, spoken, max(4, round(target * rng.uniform(0.4, 1.1)))) for spoken in languages]
    return lines, rng.choices(["left", "center", "right", "columns"], [70, 14, 4, 12])[0]


def _receipt_line(rng: Random, font: Font, language: str) -> str:
    while True:
        name = " ".join(sampler.word(rng, language) for _ in range(rng.randint(1, 2)))
        count = rng.choice(["", "", f" {rng.randint(1, 12)} x"])
        text = f"{name}{count} {rng.randint(5, 99_999) / 100:.2f}"
        if len(text) <= 34 and _suits(text, font):
            return text
