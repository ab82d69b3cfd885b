"""Jobs whose worker was lost, or their machine with their files: taken back from it, and sent on their way."""

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


def take_back_unstored(runtime: Runtime) -> None:
    """Have jobs run again whose files were not in the bucket when their machine was lost.

    Where storage is a directory, they wait for it: its files are likely to come back with it.
    """
    if not runtime.settings.storage_url:
        return
    # While nobody can store anything, silence says less: a machine may keep what it has.
    if runtime.storage.problem() is not None:
        return
    for job_id, status in runtime.ledger.requeue.take_back_unstored(silent_s=runtime.settings.host_lost_s).items():
        log.warning("job %s: its machine was lost before its files were stored: %s", job_id, status)
        publish_follow_up(runtime.publisher, Moved(job_id=job_id, status=status))
