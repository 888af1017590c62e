"""Settings that the canary caught on this machine: kept in one file, and gone with the next version of the stack."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from ocrlab import paths
from ocrlab.machine.describe import machine_name, versions

#: dtype, attn_implementation and sdpa_kernel (None: torch's own choice).
Variant = tuple[str, str, str | None]


@dataclass(frozen=True)
class Held:
    """One variant in quarantine: on which stack, why, since when."""

    stack: str
    variant: Variant
    reason: str
    since_utc: str


def stack() -> str:
    """Return what a verdict holds for: torch, transformers and the machine."""
    here = versions()
    return f"torch {here.get('torch')}, transformers {here.get('transformers')}, {machine_name()}"


def quarantined(file: Path | None = None) -> list[Held]:
    """Return what is held on this stack; a verdict on another version or machine does not count.

    Raises:
        ValueError: the file cannot be read; the message names it.
    """
    return [held for held in _read(file or _file()) if held.stack == stack()]


def reason_against(variant: Variant, file: Path | None = None) -> str | None:
    """Return why a variant is held in quarantine here, or None."""
    found = [held for held in quarantined(file) if held.variant == variant]
    return f"quarantined by the canary on {found[0].since_utc[:10]}: {found[0].reason}" if found else None


def judge(verdicts: dict[Variant, str | None], file: Path | None = None) -> Sequence[Held]:
    """Put each variant with a reason into quarantine and let each without one out; return what is held here now."""
    file = file or _file()
    kept = [held for held in _read(file) if held.stack != stack() or held.variant not in verdicts]
    now = datetime.now(UTC).isoformat(timespec="seconds")
    kept += [Held(stack(), variant, reason, now) for variant, reason in verdicts.items() if reason]
    file.parent.mkdir(parents=True, exist_ok=True)
    paths.write_whole(file, json.dumps([asdict(held) for held in kept], ensure_ascii=False, indent=1).encode())
    return [held for held in kept if held.stack == stack()]


def _file() -> Path:
    return paths.BUILD / "quarantine.json"


def _read(file: Path) -> list[Held]:
    if not file.exists():
        return []
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
        # `way` in lists of earlier versions.
        return [Held(e["stack"], tuple(e.get("variant") or e["way"]), e["reason"], e["since_utc"]) for e in entries]
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise ValueError(f"{file}: not a quarantine list ({error}); remove it and run 01-machine again") from error
