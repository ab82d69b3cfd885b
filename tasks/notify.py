"""The task that posts webhooks: what the outbox holds, each event once."""

from __future__ import annotations

import logging

import requests
from celery import shared_task

from core.errors import AddressRefused
from core.ledger.delivery import Delivery
from core.outbound import Policy
from core.outbound.sessions import GuardedSession
from tasks.names import NOTIFY
from tasks.runtime import FleetTask

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5.0


@shared_task(bind=True, base=FleetTask, name=NOTIFY)
def notify(self: FleetTask, job_id: str) -> str:
    """Send the webhook events of a job that nobody else is sending; returns the job's id."""
    for delivery in self.runtime.ledger.deliveries.take_webhooks(job_id):
        policy = Policy.for_webhook(delivery.url, self.runtime.settings)
        status_code, error = _post(delivery, policy)
        self.runtime.ledger.deliveries.webhook_sent(delivery, status_code=status_code, error=error)
    return job_id


def _post(delivery: Delivery, policy: Policy) -> tuple[int | None, str | None]:
    """Post one event; returns the answer's status and, unless it was 2xx, why it counts as failed."""
    headers = {"Content-Type": "application/json", "User-Agent": "ComfyFleet", "webhook-id": delivery.id}
    timeout = (CONNECT_TIMEOUT_S, delivery.timeout_s)
    try:
        with (
            GuardedSession(policy, limit_s=sum(timeout)) as session,
            session.post(
                delivery.url, data=delivery.body.encode(), headers=headers, timeout=timeout, stream=True
            ) as answer,
        ):
            ok = requests.codes.ok <= answer.status_code < requests.codes.multiple_choices
            return answer.status_code, None if ok else f"answered {answer.status_code}"
    except AddressRefused as exc:
        log.warning("webhook of job %s not delivered: %s", delivery.job_id, exc)
        return None, str(exc)
    except requests.RequestException as exc:
        log.warning("webhook of job %s not delivered: %s", delivery.job_id, type(exc).__name__)
        return None, type(exc).__name__
