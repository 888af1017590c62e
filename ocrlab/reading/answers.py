"""From a server's answer to a reading: counts, phases as seen from here, and whether it read as it was asked to.

Text comes without token ids, so loops are looked for among words and signs.
"""

from __future__ import annotations

import re

from ocrlab.pages import Page
from ocrlab.reading.client import Answer
from ocrlab.reading.complaints import EndpointError
from ocrlab.reading.confirm import SettingNotApplied
from ocrlab.reading.outcome import Reading
from ocrlab.reading.reader import FORCED
from ocrlab.reading.settings import Settings
from ocrlab.scoring.outcomes import Status, StopReason, judge


def reading_of(
    page: Page, answer: Answer, settings: Settings, text_tokens: int | None, due: tuple[int, int], at: str
) -> Reading:
    """Return the reading that an answer stands for; `at` is the server's address, `text_tokens` the prompt's.

    `due` are the image tokens that the page should take, 0 for the server's own, and the pixels behind one.

    Raises:
        EndpointError: the answer ended in a way that no reading does.
        SettingNotApplied: the server's counts show that it read otherwise than asked.
    """
    if answer.finish_reason not in {"stop", "length"}:
        raise EndpointError(
            f"{at}: the answer ended for {answer.finish_reason!r}, which is no end of a reading; look at the server's "
            f"filters and templates"
        )
    stop_reason: StopReason = "eos" if answer.finish_reason == "stop" else "length"
    # Servers count the end token, which a reading in this process does not.
    tokens = answer.pieces if answer.new_tokens is None else answer.new_tokens - (stop_reason == "eos")
    image_tokens = 0
    if answer.prompt_tokens is not None and text_tokens is not None:
        image_tokens = answer.prompt_tokens - text_tokens
    _confirm(tokens, image_tokens, due, settings, at)
    text = answer.text.strip()
    status, reason = FORCED if settings.min_new_tokens is not None else judged(text, tokens, stop_reason)
    decode_s = None if answer.first_s is None else answer.last_s - answer.first_s
    return Reading(
        page=page.id, text=text, status=status, reason=reason, stop_reason=stop_reason, tokens=tokens,
        image_tokens=image_tokens, prompt_tokens=answer.prompt_tokens or 0, ttft_s=answer.first_s,
        decode_s=decode_s, tpot_s=decode_s / (tokens - 1) if decode_s and tokens > 1 else None,
        tokens_per_second=(tokens - 1) / decode_s if decode_s and tokens > 1 else None,
    )  # fmt: skip


def _confirm(tokens: int, image_tokens: int, due: tuple[int, int], settings: Settings, at: str) -> None:
    expected, cell = due
    pixels = image_tokens * cell
    # A page far from square may take more pixels than asked by the rule itself, which `expected` knows.
    if tokens > settings.max_new_tokens:
        wrong = f"max_new_tokens: asked for {settings.max_new_tokens}, but {tokens} tokens came"
    elif expected and image_tokens > expected and pixels > (settings.max_pixels or pixels):
        wrong = f"max_pixels: asked for {settings.max_pixels}, but the server took {pixels} pixels"
    elif image_tokens and image_tokens < expected and pixels < (settings.min_pixels or pixels):
        wrong = f"min_pixels: asked for {settings.min_pixels}, but the server took {pixels} pixels"
    else:
        return
    raise SettingNotApplied(f"{at}: {wrong}; set it where the server is started")


def judged(text: str, tokens: int, stop_reason: StopReason) -> tuple[Status, str]:
    """Return the status of a text whose token ids are not known, and the reason in words."""
    words = re.findall(r"\w+|\s+|[^\w\s]", text)
    order = {word: number for number, word in enumerate(dict.fromkeys(words))}
    status, reason = judge(text, [order[word] for word in words], stop_reason, finite=True)
    if status == "loop":
        return status, f"counted in words and signs, for the server tells no tokens: {reason}"
    return judge(text, range(tokens), stop_reason, finite=True)
