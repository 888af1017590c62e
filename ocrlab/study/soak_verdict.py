"""What a soak's lines say: growth of memory after the warm-up with its interval, changed texts, failures, restarts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from ocrlab.scoring.outcomes import WITHOUT_TEXT
from ocrlab.scoring.statistics import growth_rate, median_spread

Verdict = Literal["pass", "fail", "open"]
LIMIT_MB = 10.0
"""Growth in MB (of 10^6 bytes) per 1,000 pages that does not matter: some 1 GB after a day of 100,000 pages."""
SETTLES_MB = 20.0
"""Growth in MB in all that is no leak yet: allocators and libraries go on settling for a while after the first pass."""
_FEWEST = 6  # lines after the warm-up: fewer steps have no interval to speak of
_HELD = {"resident_bytes": "memory", "device_bytes": "device memory"}


def judge_soak(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the verdict of a soak with its numbers and `words`: pass, fail, or open where growth is not settled.

    `growth_mb` is that of the process in MB per 1,000 pages over the lines after the first pass, `growth_low` and
    `growth_high` its 95 % interval; `device_growth_mb` and so on that of a CUDA device. It fails where the whole
    interval is above `LIMIT_MB` and the growth in all above `SETTLES_MB`, a text differs from the page's first, a
    reading failed or the process was restarted.
    """
    statuses = Counter[str]()
    for line in lines:
        statuses.update(line["statuses"])
    changed = sorted({page for line in lines for page in line["changed"]})
    failed = sum(statuses[status] for status in WITHOUT_TEXT)  # a page that is cut off or loops does so each time
    seconds = [line["page_s"] for line in lines if line["page_s"] is not None]
    found: dict[str, Any] = {
        "pages": lines[-1]["pages"] if lines else 0, "minutes": lines[-1]["minutes"] if lines else 0.0,
        "restarts": lines[-1]["restarts"] if lines else 0, "failed": failed, "changed": len(changed),
        "page_s": median_spread(seconds).median if seconds else None, "limit_mb": LIMIT_MB,
    }  # fmt: skip
    grown = {name: _growth([line for line in lines if line["warm"]], name) for name in _HELD}
    for name, prefix in (("resident_bytes", ""), ("device_bytes", "device_")):
        growth = grown[name]
        values = growth[:3] if growth else (None, None, None)
        found |= dict(zip((f"{prefix}growth_mb", f"{prefix}growth_low", f"{prefix}growth_high"), values, strict=True))
    reason = next((line["reason"] for line in lines if line["reason"]), "")
    parts = [
        f"{found['pages']} pages in {found['minutes']:.1f} min",
        f"{failed} failed" + (f" ({reason})" if reason else ""),
        f"{len(changed)} pages' texts changed" + (f" ({', '.join(changed[:3])})" if changed else ""),
        f"{found['restarts']} restarts",
        *_told(grown),
    ]
    return found | {"verdict": _verdict(found, grown), "words": ", ".join(parts)}


class _Growth(NamedTuple):
    """MB per 1,000 pages with the ends of its interval, and MB in all."""

    point: float
    low: float
    high: float
    total: float

    @property
    def kind(self) -> Verdict:
        if self.low > LIMIT_MB and self.total > SETTLES_MB:
            return "fail"
        return "pass" if self.high <= LIMIT_MB else "open"


def _growth(lines: Sequence[dict[str, Any]], name: str) -> _Growth | None:
    known = [line for line in lines if line[name] is not None]
    if len(known) < _FEWEST:
        return None
    rate = growth_rate([line["pages"] / 1000 for line in known], [line[name] / 1e6 for line in known])
    return _Growth(rate.point, rate.low, rate.high, (known[-1][name] - known[0][name]) / 1e6)


def _verdict(found: dict[str, Any], grown: dict[str, _Growth | None]) -> Verdict:
    kinds = {growth.kind for growth in grown.values() if growth is not None}
    if found["failed"] or found["changed"] or found["restarts"] or "fail" in kinds:
        return "fail"
    return "pass" if grown["resident_bytes"] is not None and kinds == {"pass"} else "open"


def _told(grown: dict[str, _Growth | None]) -> list[str]:
    told = [
        f"{_HELD[name]} grows by {growth.point:.1f} MB per 1,000 pages ({growth.low:.1f} to {growth.high:.1f}; limit "
        f"{LIMIT_MB:g}), {growth.total:.1f} MB in all" + (", not settled" if growth.kind == "open" else "")
        for name, growth in grown.items()
        if growth is not None
    ]
    return told or [f"growth of memory not settled: fewer than {_FEWEST} lines after the first pass"]
