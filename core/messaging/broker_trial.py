"""One try at the broker, with short time limits: whether it answers, and takes what is written."""

from __future__ import annotations

import uuid
from typing import Any

from amqp import Message
from amqp.exceptions import AccessRefused
from redis.exceptions import ResponseError

from core.broker_kind import BrokerKind
from core.errors import BrokerUnavailable
from core.messaging.brief_connection import brief_connection
from core.settings import Settings


def try_broker(settings: Settings, *, timeout_s: float, publishes: bool = False) -> int | None:
    """Connect once, and write where that leaves nothing: always on Redis.

    Parameters:
      timeout_s: for each step; under gevent the caller needs a limit of its own, for py-amqp has none there.
      publishes: have RabbitMQ confirm messages to nobody; one that is short of memory or disk never does.
    Returns: the broker's clock, in milliseconds since 1970; None: RabbitMQ does not tell.
    Raises:
      BrokerUnavailable: it does not answer, or takes no message.
    """
    with brief_connection(settings, timeout_s=timeout_s) as (transport, link):
        if BrokerKind.of(settings.transport_url) is not BrokerKind.REDIS:
            if publishes:
                _publish_to_nobody(link)
            return None
        # One that is a replica now, or whose memory or disk is full, answers and takes no message.
        channel: Any = transport.create_channel(link)
        channel.client.set(f"{settings.broker_namespace}:written", 1, ex=60)
        return _time_of(channel.client)


def _time_of(client: Any) -> int | None:
    try:
        seconds, micros = client.time()
    except ResponseError:
        # Its user may not ask.
        return None
    return int(seconds) * 1000 + int(micros) // 1000


def _publish_to_nobody(link: Any) -> None:
    channel = link.channel()
    try:
        # Two: one that is short of memory or disk takes the first of a connection, and then reads no more from it.
        for _ in range(2):
            channel.basic_publish_confirm(Message(b""), exchange="", routing_key=f"nobody.{uuid.uuid4().hex}")
    except AccessRefused:
        # A user that may publish to our own exchange alone is enough.
        return
    except TimeoutError as exc:
        # It would not read our farewell either.
        link.collect()
        raise BrokerUnavailable(
            "RabbitMQ answers and takes no messages: it is short of memory or disk (rabbitmqctl status)."
        ) from exc
