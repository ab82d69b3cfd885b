"""Jobs whose worker was lost: taken back from it, and sent on their way."""

from __future__ import annotations

import logging

from tasks.messaging.follow_up import Moved, publish_follow_up
from tasks.runtime import Runtime

log = logging.getLogger(__name__)


def take_back(runtime: Runtime) -> None:
    """Give jobs whose lease has lapsed to another worker, or end them."""
    for job_id, status in runtime.ledger.requeue.take_back_lapsed().items():
        log.warning("job %s was taken back from a lost worker: %s", job_id, status)
        publish_follow_up(runtime.publisher, Moved(job_id=job_id, status=status))
