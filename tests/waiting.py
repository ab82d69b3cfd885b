"""Waiting for what comes by itself, within a limit.

The limits say when it is given up that something comes; what a test promises of speed it measures itself. So a machine
that is slow, or shared with others, sets `COMFYLINE_TEST_PATIENCE`, by which all limits are multiplied.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, Final

PATIENCE: Final = float(os.environ.get("COMFYLINE_TEST_PATIENCE", "1"))


def eventually(condition: Callable[[], object], timeout_s: float = 30.0) -> bool:
    """Return whether the condition comes true in time."""
    deadline_s = time.monotonic() + timeout_s * PATIENCE
    while not condition():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.02)
    return True


def quickest(measure: Callable[[], float], *, limit_s: float, tries: int = 5) -> float:
    """Return the shortest of some durations, in seconds; measures again while none is below the limit.

    A busy machine adds time to one or the other, and takes none away: what the code itself costs shows in the least.
    """
    shortest_s = measure()
    for _ in range(tries - 1):
        if shortest_s < limit_s:
            break
        shortest_s = min(shortest_s, measure())
    return shortest_s


def until(condition: Callable[[], Any], *, timeout_s: float = 30.0, what: str = "condition") -> Any:
    """Wait for a true value and return it; an AssertionError that says what did not come otherwise."""
    limit_s = timeout_s * PATIENCE
    deadline_s = time.monotonic() + limit_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline_s, f"{what} did not come true within {limit_s:g} s"
        time.sleep(0.05)
