"""Which job a write of ComfyUI is of: the one whose prompt ran at that time, by the clock of ComfyUI's machine.

ComfyUI runs one prompt at a time, and its events say when one began and ended by the same clock as its writes say when
they were made. What falls between two prompts, or into the moment in which a prompt of another tenant is posted (a
refusal is printed with what it is about), is nobody's: no tenant may read of another's work.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone

from comfy.client.printed import PrintedEntry
from comfy.prompts.session import PromptHandle

#: Time zones differ by multiples of this.
_ZONE_MS = 15 * 60 * 1000.0
#: A write that was seen within this after it was made is that old at most.
FRESH_S = 2.5
#: How exact our time of a post is by ComfyUI's clock, and by how much that may seem to differ where it is the same one:
#: what was told on its way to us is late by that.
_SLACK_MS, _SAME_MS = 10.0, 250.0


@dataclass(kw_only=True)
class Span:
    """The time of one job's prompt on ComfyUI."""

    tenant: str
    handle: PromptHandle
    #: It has ended here, when by our clock; None: it has not.
    ended_ms: float | None = None
    #: When prompts of other tenants were posted meanwhile, by our clock: from, until.
    foreign_ms: list[tuple[float, float]] = field(default_factory=list)

    def has(self, at_ms: float, *, shares_first: bool = False, shares_last: bool = False) -> bool:
        """Return whether a write at this time of ComfyUI's clock is of it.

        Parameters:
          shares_first, shares_last: another prompt ended in the millisecond in which it began, or began in the one in
            which it ended. Events have no finer times: what was written then may be of either, and is of none.
        """
        began_ms, ended_ms = self.handle.began_at_ms, self.handle.ended_at_ms
        if began_ms is None or at_ms < began_ms + shares_first:
            return False
        skew_ms = self.handle.skew_ms
        if ended_ms is None and self.ended_ms is not None:
            ended_ms = self.ended_ms + skew_ms
        if ended_ms is not None and at_ms >= ended_ms + (not shares_last):
            return False
        is_same = abs(skew_ms) < _SAME_MS
        ours_ms, slack_ms = (at_ms, _SLACK_MS) if is_same else (at_ms - skew_ms, _SAME_MS)
        return not any(begin - slack_ms <= ours_ms <= end + slack_ms for begin, end in self.foreign_ms)


class Clockwork:
    """Times of writes, which come without their time zone, as times since 1970."""

    def __init__(self) -> None:
        offset = datetime.now(timezone.utc).astimezone().utcoffset()
        self._zone_ms = 0.0 if offset is None else offset.total_seconds() * 1000
        self._seen_ms = float("-inf")
        self._looked_s = float("-inf")

    def news(self, entries: Sequence[PrintedEntry]) -> list[tuple[float, str]]:
        """Return those that were not there at the last look: when, in milliseconds since 1970, and what."""
        now_s = time.monotonic()
        fresh = [entry for entry in entries if entry.at_ms > self._seen_ms]
        if fresh:
            is_recent = now_s - self._looked_s < FRESH_S
            if is_recent and fresh[-1].is_local:
                self._set_zone(fresh[-1].at_ms)
            self._seen_ms = fresh[-1].at_ms
        elif entries and entries[-1].at_ms < self._seen_ms - _ZONE_MS:
            # Its clock was set back, or another process answers.
            self._seen_ms = entries[-1].at_ms
        self._looked_s = now_s
        return [(entry.at_ms - (self._zone_ms if entry.is_local else 0.0), entry.text) for entry in fresh]

    def _set_zone(self, newest_ms: float) -> None:
        """Learn the time zone from a write that is not old: it is off by less than half of what zones differ by."""
        age_ms = time.time() * 1000 - (newest_ms - self._zone_ms)
        self._zone_ms -= round(age_ms / _ZONE_MS) * _ZONE_MS


def shares(news: Iterable[tuple[float, str]], spans: Sequence[Span]) -> list[list[str]]:
    """Return what is of each span, in the order of the spans."""
    found: list[list[str]] = [[] for _ in spans]
    begins = {span.handle.began_at_ms for span in spans}
    ends = {span.handle.ended_at_ms for span in spans}
    shared = [(span.handle.began_at_ms in ends, span.handle.ended_at_ms in begins) for span in spans]
    for at_ms, text in news:
        for place, (span, (first, last)) in enumerate(zip(spans, shared, strict=True)):
            if span.has(at_ms, shares_first=first, shares_last=last):
                found[place].append(text)
                break
    return found
