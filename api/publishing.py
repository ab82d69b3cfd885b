"""A publisher whose time is bounded in greenlets too."""

from __future__ import annotations

import logging
from collections.abc import Callable

from api.patience import at_most, interrupt_after
from api.submit import TurnPublisher
from core.errors import BrokerUnavailable
from core.job import Job

log = logging.getLogger(__name__)

#: A silent broker is taken for lost after this; the transport then drops the connection and tries a new one, once.
SILENCE_S = 0.6
#: Longest time a request spends on the broker, whatever happens.
PUBLISH_S = 2.0


class BoundedPublisher:
    """Gives up on a broker that was stopped or cut off.

    py-amqp 5.4 limits reads with SO_RCVTIMEO, which has no effect on gevent's sockets: the wait for RabbitMQ's confirm
    would never end.
    """

    def __init__(self, publisher: TurnPublisher) -> None:
        self._publisher = publisher

    def turn(self, job_id: str) -> bool:
        """One more job waits; False when the broker did not take it."""
        return self._bounded(lambda: self._publisher.turn(job_id), job_id) is True

    def notify(self, job_id: str) -> bool:
        """A job has webhooks to send; False when the broker did not take it."""
        return self._bounded(lambda: self._publisher.notify(job_id), job_id) is True

    def cancel(self, job: Job) -> None:
        """The worker that runs this job shall look at it now."""
        self._bounded(lambda: self._publisher.cancel(job), job.id)

    def _bounded(self, publish: Callable[[], bool | None], job_id: str) -> bool | None:
        silent = TimeoutError("The broker does not answer.")
        try:
            with (
                at_most(PUBLISH_S, BrokerUnavailable("The broker does not answer.")),
                # An ordinary error to the code below us: it closes the connection it happened on.
                interrupt_after(SILENCE_S, silent),
            ):
                return publish()
        except (BrokerUnavailable, TimeoutError) as exc:
            log.warning("broker did not take a message of job %s; it will be published later (%s)", job_id, exc)
            return False
