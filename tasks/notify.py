"""The task that has webhooks sent: it tells the dispatcher of this process that there are some, and does not wait."""

from __future__ import annotations

from celery import shared_task

from core import log_fields
from tasks.messaging.names import NOTIFY
from tasks.runtime import ComfylineTask
from tasks.webhooks.dispatcher import WebhookDispatcher


@shared_task(bind=True, base=ComfylineTask, name=NOTIFY)
def notify(self: ComfylineTask, job_id: str) -> str:
    """Have the webhooks of a job sent; returns its id. A message that is lost costs time: they are in the ledger."""
    log_fields.begin(job_id=job_id)
    self.context[WebhookDispatcher].call(job_id)
    self.report(f"job {job_id}")
    return job_id
