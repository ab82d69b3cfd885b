"""When to ask again a server that has no time now, by its own word."""

from __future__ import annotations

from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

#: A longer header is no time.
MAX_RETRY_AFTER_CHARS = 64


def parse_retry_after(value: str | None) -> float | None:
    """Return the seconds from now that a `Retry-After` header asks for, in either form; None for anything else."""
    if value is None:
        return None
    text = value.strip()[:MAX_RETRY_AFTER_CHARS]
    if text.isascii() and text.isdigit():
        # Longer ones than any date are as good as this one.
        return float(text[:12])
    try:
        moment = parsedate_to_datetime(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=timezone.utc)
        return max(0.0, (moment - datetime.now(timezone.utc)).total_seconds())
    except (ValueError, TypeError, IndexError, OverflowError):
        # Numbers beyond a C integer, days that do not exist, years without one before them.
        return None
