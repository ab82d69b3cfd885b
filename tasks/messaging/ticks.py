"""When beat publishes: every so many seconds, whatever happens to the clock.

Celery 5.7 compares wall-clock times in two places: to see whether an entry is due, and to see when to look next. Set
back by days, the clock would have beat wait for days.
"""

from __future__ import annotations

import logging
import time
from datetime import datetime
from typing import Any

from celery.beat import PersistentScheduler, SchedulingError
from celery.schedules import schedstate, schedule

log = logging.getLogger(__name__)


class Ticks(schedule):
    """An interval in which a last time in the future is no reason to wait."""

    def is_due(self, last_run_at: datetime) -> schedstate:
        if self.maybe_make_aware(last_run_at) > self.now():
            return schedstate(is_due=True, next=self.seconds)
        return super().is_due(last_run_at)


class TickScheduler(PersistentScheduler):
    """Celery's scheduler, with a clock that cannot be set for when to look next."""

    _store: Any

    def setup_schedule(self) -> None:
        """Open the file of the run before. It names classes by module, and another release may have them elsewhere."""
        try:
            super().setup_schedule()
        except (ImportError, AttributeError) as exc:
            log.info("the schedule of another release is made anew (%s)", exc)
            self._store["entries"] = {}
            self._store.close()
            super().setup_schedule()

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        """Publish a tick. A broker that does not take it costs a line: Celery would log the stack, each time."""
        try:
            self.apply_async(entry, producer=producer, advance=False)
        except SchedulingError as exc:
            log.warning("%s was not published: the broker does not take it (%s)", entry.task, exc.__cause__ or exc)

    def _when(self, _entry: Any, next_time_to_run: Any, **_options: Any) -> float:
        return time.monotonic() + (self.adjust(next_time_to_run) or 0)
