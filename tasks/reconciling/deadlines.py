"""Ends jobs that nobody has begun by the deadlines they brought: within about a second, in each io worker.

A tick of the reconciler does it too, and would be late by as long as ticks are apart.
"""

from __future__ import annotations

import logging

from core.background import Loop
from core.clock import now_ms
from core.records.job import EXPIRED
from tasks.messaging.follow_up import Moved, publish_follow_up
from tasks.runtime import Runtime

log = logging.getLogger(__name__)

#: Between looks for the nearest deadline: a job that comes meanwhile may bring a nearer one.
LOOK_S = 1.0
#: Between looks at the least, however near it is.
SHORTEST_S = 0.05


def expire_late(runtime: Runtime) -> None:
    """End jobs that no GPU began in time."""
    for job_id in runtime.ledger.requeue.expire_late():
        log.warning("job %s expired: no GPU began it in time", job_id)
        publish_follow_up(runtime.publisher, Moved(job_id=job_id, status=EXPIRED))


def release_stalled(runtime: Runtime) -> None:
    """Give back jobs on deck behind prompts that do not end, to GPUs that could begin them or to their deadlines."""
    for job in runtime.ledger.requeue.release_stalled():
        log.warning("job %s was given back by %s, where the prompt before it does not end", job.job_id, job.instance)
        # It stands in ComfyUI's queue still.
        runtime.publisher.interrupt(job.job_id, job.attempt, job.instance)
        publish_follow_up(runtime.publisher, Moved(job_id=job.job_id, status=job.status))


class StartDeadlines:
    """One process's watch over the deadlines of waiting jobs, from `start` until `close`."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._loop = Loop("start deadlines", self._step)
        self._pause_s = LOOK_S

    def start(self) -> None:
        """Begin to watch."""
        self._loop.start()

    def close(self) -> None:
        """Watch no more."""
        self._loop.end()
        self._loop.join(2 * LOOK_S)

    def _step(self) -> None:
        if not self._loop.rest(self._pause_s):
            self._pause_s = LOOK_S
            self._pause_s = self.look()

    def look(self) -> float:
        """End what is late; returns in how many seconds to look again."""
        ledger = self._runtime.ledger
        nearest_ms = ledger.requeue.nearest_deadline_ms()
        if nearest_ms is None:
            return LOOK_S
        left_s = (nearest_ms - now_ms()) / 1000
        if left_s >= 0:
            return min(LOOK_S, left_s + SHORTEST_S)
        # A clock that was set makes all of them look late: then they are moved first, and believed a little later.
        if ledger.timekeeping.look() >= self._runtime.settings.lease_s:
            expire_late(self._runtime)
        # There may be more than go into one transaction; or it could not be ended now.
        return LOOK_S if ledger.requeue.nearest_deadline_ms() in (None, nearest_ms) else SHORTEST_S
