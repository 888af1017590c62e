"""The one error of this room."""

from __future__ import annotations


class PageError(ValueError):
    """A file or set cannot be used; the message names it, says what is wrong and what to do."""
