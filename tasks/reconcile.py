"""The reconciler: every few seconds it makes the world agree with the ledger again. Doing it twice is harmless."""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable

from celery import shared_task

from core.background import failure_of
from core.records.job import DELIVERING, EXPIRED, FAILED
from core.settings import Settings
from tasks.messaging.follow_up import Moved, host_of, publish_follow_up
from tasks.messaging.names import RECONCILE
from tasks.reconciling.batches import carry_on_batches, forget_batches
from tasks.reconciling.deadlines import expire_late, release_stalled
from tasks.reconciling.event_folding import fold_events
from tasks.reconciling.expiry import remove_expired, sweep
from tasks.reconciling.leading import lead_batches
from tasks.reconciling.metric_folding import fold_metrics
from tasks.reconciling.noting import count_templates, take_sample
from tasks.reconciling.pool_watch import watch_pools
from tasks.reconciling.regrouping import follow_lessons
from tasks.reconciling.relining import mend_lines
from tasks.reconciling.repinning import follow_fleet
from tasks.reconciling.rolling_on import advance_rollout
from tasks.reconciling.usage_folding import fold_usage
from tasks.runtime import ComfylineTask, Runtime
from tasks.take_back import take_back, take_back_unstored

log = logging.getLogger(__name__)

#: A clock that was set is believed after this time.
SETTLED_S = 3600.0

_under_way = threading.Lock()


class _Last:
    """When the last tick of this process ended."""

    ended_s = float("-inf")


_last = _Last()


# No events: a tick every few seconds would be most of what Flower shows. What it does has lines in the log.
@shared_task(bind=True, base=ComfylineTask, name=RECONCILE, send_events=False)
def reconcile(self: ComfylineTask) -> None:
    """Take back lapsed leases, publish turns that are missing, move forgotten deliveries on, remove what is over."""
    # Steps that wait for a ledger that is away outlast their tick, and a second one would wait beside it. Of ticks that
    # have piled up the first does all there is to do.
    if not _under_way.acquire(blocking=False):
        return
    try:
        if time.monotonic() - _last.ended_s >= self.runtime.settings.reconcile_s / 2:
            take_steps(self.runtime)
            _last.ended_s = time.monotonic()
    finally:
        _under_way.release()


def take_steps(runtime: Runtime) -> None:
    """Take each step by itself: one that stumbles, every time perhaps, must not keep the others from being done."""
    looks: list[float] = []
    failure_of(lambda: looks.append(runtime.ledger.timekeeping.look()), "reconcile, clock")
    # A ledger that cannot even say that is no ledger to remove anything from.
    set_ago_s = looks[0] if looks else 0.0
    for step in STEPS:
        wait_s = AFTER_SET_S.get(step)
        if wait_s is None or set_ago_s >= wait_s(runtime.settings):
            failure_of(functools.partial(step, runtime), f"reconcile, {step.__name__}")


def expire_waiting(runtime: Runtime) -> None:
    """End jobs that waited too long, where the operator set a limit."""
    limit_s = runtime.settings.queue_timeout_s
    if limit_s:
        for job_id in runtime.ledger.requeue.expire_waiting(timeout_s=limit_s):
            log.warning("job %s expired: it waited for longer than %g s", job_id, limit_s)
            publish_follow_up(runtime.publisher, Moved(job_id=job_id, status=EXPIRED))


def publish_missing_turns(runtime: Runtime) -> None:
    """Publish a turn for each idle instance that would take a waiting job, whatever became of earlier turns."""
    for turn in runtime.ledger.turns.missing():
        if not runtime.publisher.turn_for(turn):
            return


def resume_uploads(runtime: Runtime) -> None:
    """Publish what was lost with a message or a worker, of files and webhooks, and webhooks whose next try is due."""
    settings = runtime.settings
    for job_id in runtime.ledger.outputs.abandon(after_s=max(settings.retention_s, settings.upload_give_up_s)):
        log.warning("job %s failed: nobody came for its outputs where they lie", job_id)
        publish_follow_up(runtime.publisher, Moved(job_id=job_id, status=FAILED))
    for job_id, attempt, instance in runtime.ledger.outputs.overdue():
        host = host_of(instance) or runtime.settings.host
        publish_follow_up(runtime.publisher, Moved(job_id=job_id, status=DELIVERING, attempt=attempt, host=host))
    for job_id in runtime.ledger.outbox.jobs_due():
        runtime.publisher.notify(job_id)


def resume_checks(runtime: Runtime) -> None:
    """Publish the looks at files in the bucket that were lost with a message or a worker."""
    for upload_id in runtime.ledger.direct_uploads.due():
        if not runtime.publisher.check_upload(upload_id):
            return


def wipe_secrets(runtime: Runtime) -> None:
    """Wipe secrets that have served, and were not wiped with the last change of their job."""
    runtime.ledger.secrets.wipe()


#: What one tick does, in this order.
STEPS: tuple[Callable[[Runtime], None], ...] = (
    take_back,
    take_back_unstored,
    expire_waiting,
    release_stalled,
    expire_late,
    follow_fleet,
    follow_lessons,
    mend_lines,
    carry_on_batches,
    lead_batches,
    publish_missing_turns,
    watch_pools,
    count_templates,
    advance_rollout,
    resume_uploads,
    resume_checks,
    wipe_secrets,
    fold_usage,
    fold_metrics,
    take_sample,
    fold_events,
    remove_expired,
    forget_batches,
    sweep,
)
#: Seconds for which a step is left out after the clock was set, or the fleet switched on again: until all workers have
#: renewed their leases, and until somebody could have noticed that a clock is wrong, since what is removed is gone.
AFTER_SET_S: dict[Callable[[Runtime], None], Callable[[Settings], float]] = {
    take_back: lambda settings: settings.lease_s,
    take_back_unstored: lambda settings: settings.host_lost_s,
    expire_waiting: lambda _settings: SETTLED_S,
    # Deadlines are moved when the clock was set.
    expire_late: lambda settings: settings.lease_s,
    release_stalled: lambda settings: settings.lease_s,
    fold_events: lambda _settings: SETTLED_S,
    remove_expired: lambda _settings: SETTLED_S,
    sweep: lambda _settings: SETTLED_S,
}
