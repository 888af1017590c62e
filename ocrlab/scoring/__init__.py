"""Readings against truths: what counts as the same, how many edits, what a difference is worth, what failed."""

from ocrlab.scoring.alignment import Piece, align, confusions, first_divergence
from ocrlab.scoring.chance import swap_test
from ocrlab.scoring.comparison import Verdict, VerdictKind, verdict
from ocrlab.scoring.digits import Kept, digit_strings, digits_kept, lines_kept, text_lines
from ocrlab.scoring.failures import STATUSES, WITH_TEXT, WITHOUT_TEXT, Loop, Status, StopReason, find_loop, judge
from ocrlab.scoring.growth import growth_rate
from ocrlab.scoring.normalise import PROFILES, Profile, graphemes, normalise
from ocrlab.scoring.rates import Edits, Score, character_edits, corpus_rate, macro_mean, score, word_edits
from ocrlab.scoring.statistics import (
    Interval,
    Spread,
    bootstrap_interval,
    bootstrap_median,
    median_spread,
    paired_difference,
)

__all__ = [
    "PROFILES",
    "STATUSES",
    "WITHOUT_TEXT",
    "WITH_TEXT",
    "Edits",
    "Interval",
    "Kept",
    "Loop",
    "Piece",
    "Profile",
    "Score",
    "Spread",
    "Status",
    "StopReason",
    "Verdict",
    "VerdictKind",
    "align",
    "bootstrap_interval",
    "bootstrap_median",
    "character_edits",
    "confusions",
    "corpus_rate",
    "digit_strings",
    "digits_kept",
    "find_loop",
    "first_divergence",
    "graphemes",
    "growth_rate",
    "judge",
    "lines_kept",
    "macro_mean",
    "median_spread",
    "normalise",
    "paired_difference",
    "score",
    "swap_test",
    "text_lines",
    "verdict",
    "word_edits",
]
