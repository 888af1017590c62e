"""What rows can say of a claim: a word of three, and the reason with its numbers."""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["confirmed", "refuted", "not settled here"]
CONFIRMED: Kind = "confirmed"
REFUTED: Kind = "refuted"
OPEN: Kind = "not settled here"


class Told(NamedTuple):
    """What some rows say of a claim, whoever's card they are from."""

    kind: Kind
    reason: str
