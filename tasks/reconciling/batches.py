"""What is left of work on batches, whoever died meanwhile, and batches that nobody saw the end of."""

from __future__ import annotations

import logging
import time

from core.records.job import QUEUED
from tasks.messaging.follow_up import Moved, publish_follow_up
from tasks.runtime import Runtime

log = logging.getLogger(__name__)

#: How long one tick gives to each of these.
TIME_LIMIT_S = 2.0


def carry_on_batches(runtime: Runtime) -> None:
    """Go on with cancels and retries that are not done, and close batches whose last jobs ended at once."""
    ends_at_s = time.monotonic() + TIME_LIMIT_S
    for batch_id, is_cancel in runtime.ledger.batch_work.unfinished():
        step = _cancel_some if is_cancel else _retry_some
        while step(runtime, batch_id):
            if time.monotonic() >= ends_at_s:
                return
    for batch_id in runtime.ledger.batch_work.close_ended():
        log.info("batch %s is completed", batch_id)


def forget_batches(runtime: Runtime) -> None:
    """Remove batches whose jobs are gone."""
    runtime.ledger.batch_work.forget()


def _cancel_some(runtime: Runtime, batch_id: str) -> bool:
    moved, is_more = runtime.ledger.batch_work.cancel_some(batch_id)
    for job in moved:
        publish_follow_up(runtime.publisher, Moved.of(job))
    return is_more


def _retry_some(runtime: Runtime, batch_id: str) -> bool:
    made, is_more = runtime.ledger.batch_work.retry_some(batch_id)
    for job_id in made[:1]:
        publish_follow_up(runtime.publisher, Moved(job_id=job_id, status=QUEUED, has_webhook=False))
    return is_more
