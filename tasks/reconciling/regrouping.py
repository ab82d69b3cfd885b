"""Leads waiting jobs into the lines that keep them off GPUs on which their shape ran out of memory, and back.

Whoever learns such a lesson leads a batch at once. Left for here are the rest of a long queue, jobs whose process had
not heard of it when they came, all of them where the learner died, and the end of a lesson.
"""

from __future__ import annotations

import time
from weakref import WeakKeyDictionary

from core.ledger import Ledger
from core.ledger.scheduling.reach import Outgrown
from tasks.runtime import Runtime

#: What one run of the reconciler gives to them, however many wait.
TIME_LIMIT_S = 1.0
#: Jobs may still come into the lines of a moment ago: who submits asks once a second. So there is a second look.
SECOND_LOOK_S = 10.0


class Regrouping:
    """One process's looks at the waiting jobs of shapes with lessons: two after each change of those."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._wanted: dict[str, tuple[Outgrown, ...]] = {}
        #: Shapes that are to be looked at, with how many looks are left, and when each may be looked at next.
        self._looks: dict[str, tuple[int, float]] = {}

    def go_on(self, time_limit_s: float = TIME_LIMIT_S) -> int:
        """Go on where the last run stopped, for at most about so long; returns how many jobs were led over."""
        self._notice_changes()
        ends_at_s = time.monotonic() + time_limit_s
        moved = 0
        for shape, (looks, at_s) in list(self._looks.items()):
            if time.monotonic() < at_s:
                continue
            while (led := self._ledger.lessons.lead(shape, self._wanted[shape])) and time.monotonic() < ends_at_s:
                moved += led
            moved += led
            if not led and looks > 1:
                self._looks[shape] = looks - 1, time.monotonic() + SECOND_LOOK_S
            elif not led:
                del self._looks[shape]
            if time.monotonic() >= ends_at_s:
                break
        return moved

    def _notice_changes(self) -> None:
        wanted = self._ledger.lessons.wanted()
        for shape, avoids in wanted.items():
            if self._wanted.get(shape) != avoids:
                self._looks[shape] = 2, 0.0
        self._wanted = wanted
        self._looks = {shape: looks for shape, looks in self._looks.items() if shape in wanted}


_regroupings: WeakKeyDictionary[Runtime, Regrouping] = WeakKeyDictionary()


def follow_lessons(runtime: Runtime) -> None:
    """Lead jobs into the lines that what was learned wants them in, as one run of the reconciler."""
    _regroupings.setdefault(runtime, Regrouping(runtime.ledger)).go_on()
