"""What a ComfyUI has printed, as it tells: its newest entries, each with its time.

Its websocket sends the same (`logs`), but of what nodes print only what they flush: `print` does not, and what it wrote
would come with another prompt. The list has everything as soon as it is written.
Source: ComfyUI `app/logger.py` (the last 300 writes to stdout and stderr), `api_server/routes/internal`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any


@dataclass(frozen=True, kw_only=True)
class PrintedEntry:
    """One write."""

    #: By the clock of its machine, in milliseconds: since 1970 if it says its time zone, else since 1970 there.
    at_ms: float
    is_local: bool
    text: str


def parse_entries(answer: Any) -> list[PrintedEntry]:
    """Read the answer of `/internal/logs/raw`; what is no entry is left out."""
    entries = answer.get("entries") if isinstance(answer, dict) else None
    return list(_parsed(entries)) if isinstance(entries, list) else []


def _parsed(entries: Iterable[Any]) -> Iterable[PrintedEntry]:
    for entry in entries:
        said, text = (entry.get("t"), entry.get("m")) if isinstance(entry, dict) else (None, None)
        if not isinstance(said, str) or not isinstance(text, str):
            continue
        try:
            moment = datetime.fromisoformat(said)
        except ValueError:
            continue
        is_local = moment.tzinfo is None
        at_s = (moment.replace(tzinfo=timezone.utc) if is_local else moment).timestamp()
        yield PrintedEntry(at_ms=at_s * 1000, is_local=is_local, text=text)
