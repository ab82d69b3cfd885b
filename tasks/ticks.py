"""When beat publishes: every so many seconds, whatever happens to the clock."""

from __future__ import annotations

from datetime import datetime

from celery.schedules import schedstate, schedule


class Ticks(schedule):
    """Celery's interval compares wall-clock times: set back by days, the clock would have beat wait for days."""

    def is_due(self, last_run_at: datetime) -> schedstate:
        if self.maybe_make_aware(last_run_at) > self.now():
            return schedstate(is_due=True, next=self.seconds)
        return super().is_due(last_run_at)
