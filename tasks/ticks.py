"""When beat publishes: every so many seconds, whatever happens to the clock.

Celery 5.7 compares wall-clock times in two places: to see whether an entry is due, and to see when to look next. Set
back by days, the clock would have beat wait for days.
"""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

from celery.beat import PersistentScheduler
from celery.schedules import schedstate, schedule


class Ticks(schedule):
    """An interval in which a last time in the future is no reason to wait."""

    def is_due(self, last_run_at: datetime) -> schedstate:
        if self.maybe_make_aware(last_run_at) > self.now():
            return schedstate(is_due=True, next=self.seconds)
        return super().is_due(last_run_at)


class TickScheduler(PersistentScheduler):
    """Celery's scheduler, with a clock that cannot be set for when to look next."""

    def _when(self, _entry: Any, next_time_to_run: Any, **_options: Any) -> float:
        return time.monotonic() + (self.adjust(next_time_to_run) or 0)
