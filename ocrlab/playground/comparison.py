"""Two readings of one page beside each other: where they part, and how far they are from the truth."""

from __future__ import annotations

from ocrlab.pages import Page
from ocrlab.playground.html import milliseconds, note, table
from ocrlab.reading.live import Seen
from ocrlab.report import tables
from ocrlab.scoring import character_edits, first_divergence


def compared(one: Seen | None, other: Seen | None, page: Page | None, same: Page | None) -> str:
    """Return HTML that compares the readings A and B, or what is missing for it."""
    if one is None or other is None or page is None or same is None:
        return note("Read the page with A and with B: then they are compared here.")
    if (page.id, page.sha256) != (same.id, same.sha256):
        return note("A and B read different pages; read the same one with both to compare them.", "warn")
    a, b = one.reading, other.reading
    at = first_divergence(a.text, b.text)
    if at is None:
        words = note(f"A and B read the same {len(a.text)} letters.", "good")
    else:
        edits = character_edits(b.text, a.text).edits
        words = note(
            f"A and B part at letter {at + 1}; {edits} edits lie between them (white space collapsed).", "warn"
        )
    lines: list[tuple[str, ...]] = [("status", a.status, b.status)]
    if page.truth is not None:
        lines.append(("CER", *(f"{character_edits(r.text, page.truth).rate:.2%}" for r in (a, b))))
    for name, field in (("to the first token", "ttft_s"), ("a token", "tpot_s"), ("the page", "page_s")):
        lines.append((name, milliseconds(getattr(a, field)), milliseconds(getattr(b, field))))
    lines.append(("image tokens", str(a.image_tokens), str(b.image_tokens)))
    different = "" if at is None else str(tables.diff(b.text, a.text, ("A", "B")).data)
    once = note("One reading each: small differences in time are noise; a run of 02 to 05 tells with intervals.")
    return f'<div class="ocr-card"><h2>A and B</h2>{words}{table(("", "A", "B"), lines)}{different}{once}</div>'
