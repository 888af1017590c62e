"""Does a build of torch carry code for a card? A pure function of the build's architecture list and the card.

The rules are NVIDIA's (CUDA C++ Programming Guide, "Application compatibility" and "Family-specific features"):
machine code (`sm_XY`) runs on the same major capability with an equal or higher minor one; `compute_XY` is PTX, which
a driver compiles for any equal or higher capability; a suffix `a` binds code to that exact capability, `f` to its
family, which is the same major capability from that minor one on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

How = Literal["native", "ptx", "no"]
Capability = tuple[int, int]

_NAME = re.compile(r"(sm|compute)_(\d+)(\d)([af]?)")


@dataclass(frozen=True)
class Architecture:
    """One entry of an architecture list, such as `sm_90a`: machine code or PTX, capability, suffix."""

    ptx: bool
    capability: Capability
    suffix: str

    @classmethod
    def parse(cls, name: str) -> Architecture:
        """Return the entry for a name as `torch.cuda.get_arch_list()` gives it.

        Raises:
            ValueError: not such a name.
        """
        match = _NAME.fullmatch(name.strip())
        if match is None:
            raise ValueError(f"{name!r} is not an architecture; one looks like sm_90, sm_120f or compute_120")
        kind, major, minor, suffix = match.groups()
        return cls(kind == "compute", (int(major), int(minor)), suffix)

    def runs_on(self, card: Capability) -> bool:
        """Return whether this code can run on a card of that compute capability."""
        if self.suffix == "a":
            return card == self.capability
        if self.suffix == "f" or not self.ptx:
            return card[0] == self.capability[0] and card[1] >= self.capability[1]
        return card >= self.capability


@dataclass(frozen=True)
class Coverage:
    """Whether and how a build runs on a card, and why in words."""

    how: How
    reason: str


def coverage(build: Sequence[str], card: Capability) -> Coverage:
    """Return how a build with this architecture list runs on a card: natively, through PTX, or not at all.

    `build` is what `torch.cuda.get_arch_list()` returns; an empty list is a CPU build. Raises ValueError for a name
    that is no architecture.
    """
    known = {name: Architecture.parse(name) for name in build}
    said = f"{card[0]}.{card[1]}"
    if not known:
        return Coverage("no", "this is a CPU build of torch; install a CUDA build (pip install torch on Linux is one)")
    native = [name for name, a in known.items() if not a.ptx and a.runs_on(card)]
    if native:
        best = max(native, key=lambda name: known[name].capability)
        exact = known[best].capability == card
        return Coverage("native", f"{best} is in the build" + ("" if exact else f" and runs on {said}, its own major"))
    ptx = [name for name, a in known.items() if a.ptx and a.runs_on(card)]
    if ptx:
        best = max(ptx, key=lambda name: known[name].capability)
        return Coverage("ptx", f"only {best} suits: the driver compiles it at the first start, which takes minutes")
    return Coverage("no", f"no kernel image: this build has {', '.join(build)}; your card is {said}; {_remedy(card)}")


def _remedy(card: Capability) -> str:
    if card < (7, 5):
        return "CUDA 13 builds end at 7.5: install a CUDA 12.6 build of torch, or use the CPU"
    if card >= (12, 0):
        return "install a CUDA 12.8 or newer build of torch 2.7 or newer (2.13's default on Linux carries sm_120)"
    if card >= (10, 0):
        return "install a CUDA 12.8 or newer build of torch 2.7 or newer"
    return "install the default build of a current torch"
