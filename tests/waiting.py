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
#: A pause between two looks is this part of the wait so far, at most so long.
LOOKS, LONGEST_PAUSE_S = 20, 0.2


def eventually(condition: Callable[[], object], timeout_s: float = 30.0) -> bool:
    """Return whether the condition comes true in time."""
    begun_s = time.monotonic()
    while not condition():
        if time.monotonic() > begun_s + timeout_s * PATIENCE:
            return False
        _pause(begun_s, first_s=0.02)
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
    begun_s = time.monotonic()
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < begun_s + limit_s, f"{what} did not come true within {limit_s:g} s"
        _pause(begun_s, first_s=0.05)


def _pause(begun_s: float, *, first_s: float) -> None:
    """Wait until the next look: longer after a while, for each look may ask a server that others wait for, too."""
    waited_s = time.monotonic() - begun_s
    time.sleep(min(max(first_s, waited_s / LOOKS), LONGEST_PAUSE_S))
