"""What waits in the broker's queues, asked of the broker itself: the same for each kind, and with no consumer needed.

Flower's own way knows only queues that a worker consumes now, and asks RabbitMQ through its management plugin.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from celery import Celery
from kombu import Connection
from typing_extensions import TypedDict

from core.broker_kind import BrokerKind
from core.errors import BrokerUnavailable
from core.messaging.broker_errors import broker_errors


class QueueLength(TypedDict):
    """A queue, as Flower's page and its JSON have it."""

    name: str
    messages: int
    messages_ready: int
    #: None: the broker does not say.
    consumers: int | None


def queue_lengths(app: Celery, names: Iterable[str]) -> list[QueueLength]:
    """Return how long each queue is; one that is not there yet is empty.

    Raises: BrokerUnavailable - the broker does not answer.
    """
    try:
        with app.connection_for_read() as connection:
            is_redis = BrokerKind.of(app.conf.broker_url) is BrokerKind.REDIS
            return [_length(connection, name, is_redis=is_redis) for name in names]
    except broker_errors(app.conf.broker_url) as exc:
        raise BrokerUnavailable(f"The broker does not answer ({type(exc).__name__}).") from exc


def _length(connection: Connection, name: str, *, is_redis: bool) -> QueueLength:
    # A channel for each: RabbitMQ closes the one on which somebody asks for a queue that is not there.
    channel: Any = connection.channel()
    try:
        # Declaring makes nothing on Redis; asking only (kombu 5.7) looks for the queue without our prefix there.
        found = channel.queue_declare(queue=name, passive=not is_redis)
    except connection.channel_errors:
        return {"name": name, "messages": 0, "messages_ready": 0, "consumers": 0}
    finally:
        if not getattr(channel, "closed", False) and getattr(channel, "is_open", True):
            channel.close()
    return {
        "name": name,
        "messages": found.message_count,
        "messages_ready": found.message_count,
        # Redis does not say who waits.
        "consumers": None if is_redis else found.consumer_count,
    }
