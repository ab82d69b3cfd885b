"""How many messages wait in the queues of a broker, and have not been taken by anybody."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from amqp.exceptions import AccessRefused, NotFound, ResourceLocked

from core.broker_kind import BrokerKind
from core.messaging.brief_connection import brief_connection
from core.settings import Settings


def queue_depths(settings: Settings, queues: Sequence[str], *, timeout_s: float) -> dict[str, int]:
    """Return how many messages wait in each of some queues: 0 for one that is not there.

    On RabbitMQ each is a question of its own, so ask for a hundred at most.

    Parameters: timeout_s - as for `try_broker`.
    Raises: BrokerUnavailable.
    """
    is_redis = BrokerKind.of(settings.transport_url) is BrokerKind.REDIS
    options: dict[str, Any] = {"global_keyprefix": f"{settings.broker_namespace}:"} if is_redis else {}
    with brief_connection(settings, timeout_s=timeout_s, **options) as (transport, link):
        if not is_redis:
            return _of_rabbit(link, queues)
        with transport.create_channel(link).client.pipeline(transaction=False) as pipe:
            for name in queues:
                pipe.llen(name)
            return dict(zip(queues, map(int, pipe.execute()), strict=True))


def _of_rabbit(link: Any, queues: Sequence[str]) -> dict[str, int]:
    channel, found = link.channel(), {}
    for name in queues:
        try:
            found[name] = int(channel.queue_declare(name, passive=True).message_count)
        except (NotFound, AccessRefused, ResourceLocked):
            # With that RabbitMQ has closed the channel.
            found[name], channel = 0, link.channel()
    return found
