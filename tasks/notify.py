"""The task that has webhooks sent: it tells the dispatcher of this process that there are some, and does not wait."""

from __future__ import annotations

from celery import shared_task

from tasks.messaging.names import NOTIFY
from tasks.runtime import ComfylineTask, Runtime
from tasks.webhooks.dispatcher import WebhookDispatcher

_dispatcher: WebhookDispatcher | None = None


def open_postman(runtime: Runtime) -> None:
    """Make this process one that sends webhooks."""
    global _dispatcher
    _dispatcher = WebhookDispatcher(runtime.settings, runtime.ledger)


def close_postman() -> None:
    """Let what is under way end; what was not sent stays due."""
    if _dispatcher is not None:
        _dispatcher.close()


@shared_task(bind=True, base=ComfylineTask, name=NOTIFY)
def notify(self: ComfylineTask, job_id: str) -> str:
    """Have the webhooks of a job sent; returns its id. A message that is lost costs time: they are in the ledger."""
    assert _dispatcher is not None, "only io workers consume this queue, and they open one"
    _dispatcher.call(job_id)
    self.report(f"job {job_id}")
    return job_id
