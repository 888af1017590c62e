"""Settings that this machine's canary found faulty, and which no experiment reads with."""

from __future__ import annotations

from ocrlab.machine.describe import choose_device, choose_dtype
from ocrlab.machine.quarantine import reason_against
from ocrlab.reading.settings import Settings, is_endpoint


def held_in_quarantine(settings: Settings) -> str | None:
    """Return why the canary holds a setting on this machine, or None; experiments refuse one that it holds."""
    if is_endpoint(settings.model_id):
        return None  # its kernels are not this machine's
    try:
        dtype = choose_dtype(settings.dtype, choose_device(settings.device).value).value
    except ValueError:
        return None  # no such device: loading says so
    return reason_against((dtype, settings.attn_implementation, settings.sdpa_kernel))
