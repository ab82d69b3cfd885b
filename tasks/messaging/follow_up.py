"""What is published when a job has moved: the one place that decides it, for the API and for every worker.

Not decided here is what follows no move: that a webhook's next try is due, that a turn is passed on or was lost, and
the events of a job that goes on running, see `core.ledger.webhooks.outbox_writer`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from core.job import CANCELING, DELIVERING, QUEUED, TERMINAL, Job


class FollowUp(Enum):
    """What one message about a job asks for."""

    #: That a GPU runs the next job: one more waits.
    TURN = "turn"
    #: That the GPU which runs it interrupts it.
    INTERRUPT = "interrupt"
    #: That its files are stored, on the host which holds them.
    STORE = "store"
    #: That its webhooks are sent.
    NOTIFY = "notify"


_WHILE_IT_LASTS = {QUEUED: FollowUp.TURN, CANCELING: FollowUp.INTERRUPT, DELIVERING: FollowUp.STORE}


def follow_up(status: str, *, has_webhook: bool) -> FollowUp | None:
    """Return what has to be published when a job has come into a status; None means nothing."""
    if status in TERMINAL:
        return FollowUp.NOTIFY if has_webhook else None
    return _WHILE_IT_LASTS.get(status)


@dataclass(frozen=True, kw_only=True)
class Moved:
    """A job, and the status it has come into."""

    job_id: str
    status: str
    attempt: int = 0
    #: The instance that runs it.
    instance: str | None = None
    #: The host that holds its files.
    host: str = ""
    #: Where nobody looked it may have one: a message too many finds that nothing is due.
    has_webhook: bool = True

    @classmethod
    def of(cls, job: Job) -> Moved:
        """Return the move that made a job what it is now."""
        return cls(
            job_id=job.id,
            status=job.status,
            attempt=job.attempt,
            instance=job.instance,
            host=host_of(job.instance),
            has_webhook=bool(job.webhook),
        )


def host_of(instance: str | None) -> str:
    """Return the host of an instance, which its name `gpu0@host` ends with; "" for none."""
    return (instance or "").partition("@")[2]


class JobPublisher(Protocol):
    """What publishes messages about jobs. Nothing here raises or takes long; False means: not published now."""

    def turn(self, job_id: str) -> bool:
        """Publish a job's turn."""

    def interrupt(self, job_id: str, attempt: int, instance: str) -> None:
        """Tell the worker of an instance to interrupt a job's attempt now."""

    def store(self, job_id: str, attempt: int, host: str) -> bool:
        """Publish the storing of a job's files."""

    def notify(self, job_id: str) -> bool:
        """Publish the sending of a job's webhooks."""


def publish_follow_up(publisher: JobPublisher, moved: Moved) -> None:
    """Publish what has to follow a job's move."""
    step = follow_up(moved.status, has_webhook=moved.has_webhook)
    if step is FollowUp.TURN:
        publisher.turn(moved.job_id)
    elif step is FollowUp.INTERRUPT and moved.instance is not None:
        publisher.interrupt(moved.job_id, moved.attempt, moved.instance)
    elif step is FollowUp.STORE:
        publisher.store(moved.job_id, moved.attempt, moved.host)
    elif step is FollowUp.NOTIFY:
        publisher.notify(moved.job_id)
