"""When a webhook that failed is tried again: pauses that grow, a little jitter, and what the receiver asks for."""

from __future__ import annotations

import random
from collections.abc import Sequence

#: Pauses are longer or shorter by up to this share, so that what failed together does not come back together.
JITTER = 0.1
#: The longest pause that a receiver may ask for.
MAX_RETRY_AFTER_S = 3600.0


def next_try_ms(
    pauses_s: Sequence[float], tries: int, *, now_ms: int, retry_after_s: float | None = None
) -> int | None:
    """Return the time of the next try, in milliseconds since 1970, or None when there is none.

    Parameters:
      pauses_s: between the tries; one try more than there are pauses is made.
      tries: made so far, at least 1.
      retry_after_s: the pause that the receiver asked for. It never makes a pause shorter.
    """
    if tries > len(pauses_s):
        return None
    pause_s = pauses_s[tries - 1] * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - no secret depends on it
    if retry_after_s is not None:
        pause_s = max(pause_s, min(retry_after_s, MAX_RETRY_AFTER_S))
    return now_ms + round(pause_s * 1000)
