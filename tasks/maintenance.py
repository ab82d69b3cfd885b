"""The reconciler: every few seconds it makes the world agree with the ledger again. Doing it twice is harmless."""

from __future__ import annotations

import logging

from celery import shared_task

from core.job import QUEUED
from tasks.names import RECONCILE
from tasks.retention import remove_expired, sweep
from tasks.runtime import FleetTask, Runtime

log = logging.getLogger(__name__)


@shared_task(bind=True, base=FleetTask, name=RECONCILE)
def reconcile(self: FleetTask) -> None:
    """Take back lapsed leases, publish turns that are missing, move forgotten deliveries on, remove what is over."""
    runtime = self.runtime
    take_back(runtime)
    expire_waiting(runtime)
    publish_missing_turns(runtime)
    resume_deliveries(runtime)
    runtime.ledger.secrets.wipe()
    remove_expired(runtime)
    sweep(runtime)


def take_back(runtime: Runtime) -> None:
    """Jobs whose worker was lost go to another one, or end."""
    for job_id, status in runtime.ledger.returns.take_back_lapsed().items():
        log.warning("job %s was taken back from a lost worker: %s", job_id, status)
        go_on(runtime, job_id, status)


def go_on(runtime: Runtime, job_id: str, status: str) -> None:
    """Publish what follows for a job that came back from a GPU without a result."""
    if status == QUEUED:
        runtime.publisher.turn(job_id)
    else:
        runtime.publisher.notify(job_id)


def expire_waiting(runtime: Runtime) -> None:
    """Jobs that waited too long, where the operator set a limit."""
    limit_s = runtime.settings.queue_timeout_s
    if limit_s:
        for job_id in runtime.ledger.returns.expire_waiting(timeout_s=limit_s):
            log.warning("job %s expired: it waited for longer than %g s", job_id, limit_s)
            runtime.publisher.notify(job_id)


def publish_missing_turns(runtime: Runtime) -> None:
    """One more turn for each idle instance while jobs wait that suit one of them, whatever became of the earlier ones.

    Also when fewer jobs wait than instances are idle: a turn may reach an instance that must not run the job.
    """
    for job_id in runtime.ledger.claims.missing_turns():
        if not runtime.publisher.turn(job_id):
            return


def resume_deliveries(runtime: Runtime) -> None:
    """Files whose message was lost, or whose worker died; webhooks likewise, and those whose next try is due."""
    settings = runtime.settings
    for job_id in runtime.ledger.deliveries.abandon(after_s=max(settings.retention_s, settings.upload_give_up_s)):
        log.warning("job %s failed: nobody came for its outputs where they lie", job_id)
        runtime.publisher.notify(job_id)
    for job_id, attempt, instance in runtime.ledger.deliveries.overdue():
        host = (instance or "").partition("@")[2] or runtime.settings.host
        runtime.publisher.delivery(job_id, attempt, host)
    for job_id in runtime.ledger.outbox.jobs_due():
        runtime.publisher.notify(job_id)
