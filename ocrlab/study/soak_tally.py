"""What a soak saw since its last line: statuses, times, memory held, and texts that differ from a page's first."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from ocrlab.reading.outcome import Reading
from ocrlab.scoring.outcomes import WITHOUT_TEXT
from ocrlab.scoring.statistics import median_spread


@dataclass
class Tally:
    """What was seen since the last line, and of each page the text that was read first."""

    texts: dict[str, str] = field(default_factory=dict)
    pages: int = 0
    changed: list[str] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    reason: str = ""
    seconds: list[float] = field(default_factory=list)
    resident: list[int] = field(default_factory=list)
    device: list[int] = field(default_factory=list)
    first_pass: bool = True

    def add(self, reading: Reading, found: dict[str, Any] | None) -> None:
        """Count a reading, with what the process held after it."""
        self.pages += 1
        self.statuses[reading.status] += 1
        if reading.status in WITHOUT_TEXT:
            self.reason = self.reason or f"{reading.page}: {reading.status}: {reading.reason}"
        elif self.texts.setdefault(reading.page, reading.text) != reading.text:
            self.changed.append(reading.page)
        if reading.page_s is not None:
            self.seconds.append(reading.page_s)
        for name, values in (("resident_bytes", self.resident), ("device_bytes", self.device)):
            if found and found[name] is not None:
                values.append(found[name])

    def line(self) -> dict[str, Any]:
        """Return the line of what was seen since the last, and begin anew."""

        def middle(values: list[Any]) -> float | None:
            return median_spread(values).median if values else None

        line = {
            "pages": self.pages, "statuses": dict(self.statuses), "changed": sorted(set(self.changed)),
            "reason": self.reason, "page_s": middle(self.seconds), "resident_bytes": middle(self.resident),
            "device_bytes": middle(self.device), "warm": not self.first_pass,
        }  # fmt: skip
        self.changed, self.statuses, self.seconds, self.resident, self.device = [], Counter(), [], [], []
        self.reason = ""
        return line
