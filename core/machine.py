"""Which machine this is, as far as loopback goes: what shares a boot and a network namespace shares 127.0.0.1."""

from __future__ import annotations

import time
from pathlib import Path

PROC = Path("/proc")


def boot_id() -> str:
    """Return what changes with each boot of the machine; empty where it cannot be read."""
    try:
        return (PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""  # Some sandboxes hide it.


def loopback_id() -> str:
    """Return what all processes have in common that reach each other by loopback, and no others; empty if unknown."""
    boot = boot_id()
    try:
        namespace = (PROC / "self/ns/net").stat().st_ino
    except OSError:
        return ""
    return f"{boot}:{namespace}" if boot else ""


def seconds_since_boot() -> float:
    """Return for how long this machine has been up, time asleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
