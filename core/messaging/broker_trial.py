"""One try at the broker, with short time limits: whether it answers, and takes what is written."""

from __future__ import annotations

from typing import Any

from kombu import Connection

from core.broker_kind import BrokerKind
from core.errors import BrokerUnavailable
from core.messaging.broker_errors import broker_errors
from core.messaging.broker_tls import tls_options
from core.settings import Settings


def try_broker(settings: Settings, *, timeout_s: float) -> int | None:
    """Connect once, and write where the kind of broker lets one write and leave nothing.

    Parameters:
      timeout_s: for each step; under gevent the caller needs a limit of its own, for py-amqp has none there.
    Returns: the broker's clock, in milliseconds since 1970; None: RabbitMQ does not tell.
    Raises:
      BrokerUnavailable: it does not answer, or takes no message.
    """
    url = settings.transport_url
    options: dict[str, Any] = {"max_retries": 0}
    if BrokerKind.of(url) is BrokerKind.REDIS:
        options |= {"socket_connect_timeout": timeout_s, "socket_timeout": timeout_s}
    else:
        options |= {"connect_timeout": timeout_s, "read_timeout": timeout_s, "write_timeout": timeout_s}
    tls = tls_options(settings)
    connection = Connection(url, connect_timeout=timeout_s, transport_options=options, ssl=tls)
    errors = broker_errors(url)
    try:
        # Not `Connection.connect`, which tries twice with a pause; a Redis channel says PING when it is made.
        transport = connection.transport
        link = transport.establish_connection()
        try:
            if BrokerKind.of(url) is not BrokerKind.REDIS:
                return None
            # One that is a replica now, or whose memory or disk is full, answers and takes no message.
            channel: Any = transport.create_channel(link)
            channel.client.set(f"{settings.broker_namespace}:written", 1, ex=60)
            seconds, micros = channel.client.time()
            return int(seconds) * 1000 + int(micros) // 1000
        finally:
            transport.close_connection(link)
    except errors as exc:
        raise BrokerUnavailable(f"The broker does not answer ({type(exc).__name__}).") from exc
    finally:
        connection.release()
