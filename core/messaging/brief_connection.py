"""A connection to the broker for one question, with short time limits, whatever it takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kombu import Connection

from core.broker_kind import BrokerKind
from core.errors import BrokerUnavailable
from core.messaging.broker_errors import broker_errors
from core.messaging.broker_tls import tls_options
from core.settings import Settings


@contextmanager
def brief_connection(settings: Settings, *, timeout_s: float, **options: Any) -> Iterator[tuple[Any, Any]]:
    """Connect once, and yield kombu's transport and its connection.

    Parameters:
      timeout_s: for each step; under gevent the caller needs a limit of its own, for py-amqp has none there.
      options: further ones of the transport.
    Raises: BrokerUnavailable.
    """
    url = settings.transport_url
    options["max_retries"] = 0
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
            yield transport, link
        finally:
            transport.close_connection(link)
    except errors as exc:
        raise BrokerUnavailable(f"The broker does not answer ({type(exc).__name__}).") from exc
    finally:
        connection.release()
